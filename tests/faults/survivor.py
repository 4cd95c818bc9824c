"""The toy run that the fault tests stop, kill and start again, in this process or in one of its own.

As a program: `survivor.py WORKDIR STEPS [PROCESS PROCESSES PORT]` runs it once and exits as a command would.
"""

import hashlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from toy import toy_config, toy_rows

from ecomgpt_jax.config import Config, MeshConfig
from ecomgpt_jax.errors import EcomError
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training import checkpoint, loop
from ecomgpt_jax.training.optimizer import make_optimizer
from ecomgpt_jax.training.progress import read_metrics
from ecomgpt_jax.training.train_step import abstract_state


def run(workdir: Path, config: Config | None = None, instances: int = 44, devices: int | None = None) -> object:
    """Trains (or goes on) on the first `devices` devices of this machine, or on all that there are."""
    config = config or toy_config()
    workdir.mkdir(parents=True, exist_ok=True)
    mesh = make_mesh(config.mesh, jax.devices()[:devices])
    return loop.train(config, toy_rows(loop.rows_per_step(config, mesh), instances), mesh, workdir)


def losses(workdir: Path) -> dict[int, float]:
    """Returns {step: loss}."""
    return {
        line["step"]: line["train/loss"] for line in read_metrics(workdir / "metrics.jsonl") if "train/loss" in line
    }


def saved_state(workdir: Path, step: int, config: Config, mesh: Mesh) -> list[np.ndarray]:
    """Returns every leaf of a saved state: step, parameters, Adam's moments."""
    optimizer = make_optimizer(config.optimizer, step)
    directory = epath.Path(workdir) / "checkpoints" / str(step)
    state = checkpoint.restore(directory, abstract_state(config, optimizer, mesh))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def params_hash(params: object) -> str:
    """Returns the hash of all leaves that this process can see."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.asarray(leaf.addressable_data(0)).tobytes())
    return digest.hexdigest()


def main() -> None:
    """Runs once; prints the hash of the parameters."""
    workdir, steps, *rest = sys.argv[1:]
    config = toy_config(max_steps=int(steps))
    if rest:
        process, processes, port = map(int, rest)
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, process)
        config.mesh = MeshConfig(1, 2, 1)
    try:
        params = run(Path(workdir), config, instances=max(400, 7 * int(steps)), devices=None if rest else 1)
    except EcomError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    print(params_hash(params), flush=True)


if __name__ == "__main__":
    main()
