"""One of the processes of `test_hosts.py`: `hosts.py PORT PROCESS FOLDER JOBS` joins the other and does the jobs.

JOBS is a JSON list of {"name", "kind", "mesh", ...}; a kind is one of `KINDS`. What a job returns lies in
FOLDER/<name>-<process>.json, an error as {"error": ...}. Every job trains the same toy run, so that any two can be
compared; `reference` runs it in the process of the tests.
"""

import dataclasses
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from toy import toy_config, toy_rows

from ecomgpt_jax.config import Config, MeshConfig, OptimizerConfig
from ecomgpt_jax.data.pipeline import PackedRows, batches
from ecomgpt_jax.decoding.engine import generate_tokens
from ecomgpt_jax.decoding.scoring import mean_log_probabilities
from ecomgpt_jax.errors import EcomError
from ecomgpt_jax.model import hf_weights
from ecomgpt_jax.model.content_hash import content_hash
from ecomgpt_jax.model.parameters import Params, param_shapes, param_shardings
from ecomgpt_jax.parallel import processes
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training import loop
from ecomgpt_jax.training.train_step import global_batch, step_rows

DEVICES = 4  # of each process; a mesh of fewer takes the first ones of every process
ROWS, MICRO_BATCHES = 16, 2
STEPS = 3
HELD_BACK = {("en", "CLS"): 9, ("zh", "NER"): 40}  # instances whose loss is taken at the last step


def config_of(mesh: tuple[int, int, int], **train: Any) -> Config:
    """The run on any mesh of up to eight devices: sixteen rows per step."""
    shards = mesh[0] * mesh[1]
    fixed = {"accumulation": MICRO_BATCHES, "rows_per_device": ROWS // MICRO_BATCHES // shards, "max_steps": STEPS}
    config = toy_config(**fixed | train)
    config.model = dataclasses.replace(config.model, layers=1, heads=8, vocab_size=512)  # which eight devices can share
    # Gradients that are nothing but rounding must not be magnified to whole steps: hence the large epsilon.
    config.optimizer = OptimizerConfig(learning_rate=1e-2, epsilon=1e-3, warmup_fraction=0.0)
    config.mesh = MeshConfig(*mesh)
    return config


def mesh_of(shape: tuple[int, int, int], order: Sequence[int] = ()) -> Mesh:
    """A mesh over the first devices of both processes, equally many of each; `order` shuffles them."""
    each = math.prod(shape) // 2
    devices = [device for process in range(2) for device in jax.devices()[process * DEVICES :][:each]]
    return make_mesh(MeshConfig(*shape), [devices[i] for i in order] or devices)


def rows_of(per_step: int = ROWS) -> PackedRows:
    """The rows of the run, more than any job takes."""
    return toy_rows(per_step, instances=600)


def wrong_rows(batch: dict[str, jax.Array], rows: PackedRows, step: int) -> int:
    """Returns how many rows on this process's devices are not those of `step_arrays`."""
    wrong = 0
    for name, array in step_arrays(rows, step).items():
        assert batch[name].shape == array.shape, (name, batch[name].shape)
        for shard in batch[name].addressable_shards:
            wrong += int((np.asarray(shard.data) != array[shard.index]).any(-1).sum())
    return wrong


def held_back() -> dict[tuple[str, str], PackedRows]:
    """Rows of two languages and families, whole micro-batches of them."""
    return {group: toy_rows(ROWS // MICRO_BATCHES, instances) for group, instances in HELD_BACK.items()}


def step_arrays(rows: PackedRows, step: int) -> dict[str, np.ndarray]:
    """The batch of a step (from 0) as one process would make it: [micro-batches, rows, length]."""
    read = [rows[step * ROWS + row] for row in range(ROWS)]
    return {name: np.stack([row[name] for row in read]).reshape(MICRO_BATCHES, -1, rows.length) for name in read[0]}


def reference(workdir: Path) -> Any:
    """Trains on one device and returns the parameters."""
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    config = config_of((1, 1, 1))
    return loop.train(config, rows_of(), mesh, workdir, lambda: weights_on(config, mesh), held_back=held_back())


def feed(folder: Path, mesh: tuple[int, int, int], order: Sequence[int] = ()) -> dict:
    """Feeds two steps without training, from the second of the run on, and counts the rows that were read."""
    read: list[int] = []

    class Counting(PackedRows):
        def __getitem__(self, index: int) -> dict:
            read.append(index)
            return super().__getitem__(index)

    where, rows = mesh_of(mesh, order), rows_of()
    counting = Counting(rows.store, rows.plan, rows.length, 3 * ROWS)
    held = step_rows(ROWS, MICRO_BATCHES, where)
    steps = list(batches(counting, ROWS, ROWS, held))
    wrong = [wrong_rows(global_batch(local, MICRO_BATCHES, where), rows, step) for step, local in enumerate(steps, 1)]
    return {"wrong_rows": wrong, "held": held.tolist(), "read": sorted(read)}


def train(folder: Path, mesh: tuple[int, int, int], workdir: str, skew: bool = False, **settings: Any) -> dict:
    """Trains, or goes on; `skew` lets process 1 feed the rows of the next step, as a control."""
    rows, seen, before = rows_of(), [], (loop.step_rows, loop.global_batch)
    config, where = config_of(mesh, **settings), mesh_of(mesh)
    loop.step_rows = lambda *arguments: before[0](*arguments) + (ROWS if skew and jax.process_index() else 0)
    loop.global_batch = lambda *arguments: seen.append(before[1](*arguments)) or seen[-1]
    try:
        loop.train(
            config, rows, where, folder / workdir, lambda: weights_on(config, where), held_back=held_back()
        )  # fmt: skip
    finally:
        loop.step_rows, loop.global_batch = before
    return {"wrong_rows": [wrong_rows(batch, rows, step) for step, batch in enumerate(seen, STEPS - len(seen))]}


def fail(
    folder: Path, mesh: tuple[int, int, int], workdir: str, faults: str, of: Sequence[int], **settings: Any
) -> dict:
    """Trains with faults ordered in the processes `of`."""
    config, where = config_of(mesh, **settings), mesh_of(mesh)
    if jax.process_index() in of:
        os.environ |= {"ECOMGPT_TESTING": "1", "ECOMGPT_FAULT": faults}
    try:
        loop.train(config, rows_of(), where, folder / workdir, lambda: weights_on(config, where))
    except EcomError as error:
        return {"raised": type(error).__name__, "text": str(error)}
    finally:
        os.environ.pop("ECOMGPT_FAULT", None)
    return {"raised": ""}


def weights_on(config: Config, mesh: Mesh) -> Params:
    """The same random weights on any mesh; a compiled initialiser's last bits would depend on the compiler's flags."""
    random = np.random.default_rng(7)

    def placed(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.Array:
        values = 0.05 * random.standard_normal(leaf.shape, np.float32)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: values[index])

    return jax.tree.map(placed, param_shapes(config.model), param_shardings(config.model, mesh))


def decode(folder: Path, mesh: tuple[int, int, int], alone: bool = False) -> dict:
    """Continues prompts, scores answers, and exports the weights."""
    config, where = config_of(mesh), make_mesh(MeshConfig(*mesh), jax.devices()[:1]) if alone else mesh_of(mesh)
    params = weights_on(config, where)
    random = np.random.default_rng(1)
    prompts = [random.integers(4, 500, int(random.integers(2, 20))).tolist() for _ in range(11)]
    found = generate_tokens(
        params, config.model, prompts, max_new_tokens=6, eos_ids=[2], allowed_ids=range(500), batch=8, mesh=where
    )
    scores = mean_log_probabilities(params, config.model, prompts, prompts[::-1], batch=8, mesh=where)
    hf_weights.save_hf(params, config.model, folder / ("hf-alone" if alone else "hf"))
    return {"tokens": found, "scores": scores, "hash": content_hash(params)}


KINDS = {"feed": feed, "train": train, "fail": fail, "decode": decode}


def main() -> None:
    """Does the jobs."""
    port, process, folder, jobs = sys.argv[1:]
    processes.init_distributed(f"localhost:{port}", 2, int(process), 120)
    for job in json.loads(jobs):
        name, kind = job.pop("name"), job.pop("kind")
        try:
            result = KINDS[kind](Path(folder), tuple(job.pop("mesh")), **job)
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        part = Path(folder) / f"{name}-{process}.partial"
        part.write_text(json.dumps(result))
        part.rename(part.with_suffix(".json"))


if __name__ == "__main__":
    main()
