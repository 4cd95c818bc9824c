"""Tests weights at their real size: writes random bfloat16 weights as an HF directory, imports, exports, compares them.

    python scripts/weights_at_size.py --size 7b1 --folder /data/scratch

Prints, as one JSON object, seconds and peak resident memory of the import onto eight fake CPU devices (mesh 1 x 4 x 2)
and of the export, and the sizes of the weights and of the largest tensor. Both directories are removed at the end.
"""

import argparse
import json
import os
import shutil
import time
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from ecomgpt_jax import files
from ecomgpt_jax.config import MODEL_SHAPES, MeshConfig, ModelConfig
from ecomgpt_jax.model.hf_files import INDEX, Tensors
from ecomgpt_jax.model.hf_weights import hf_config, load_hf, save_hf
from ecomgpt_jax.model.parameters import parameter_table
from ecomgpt_jax.parallel.mesh import make_mesh

GIB = 2**30


def make(model: ModelConfig, folder: Path) -> None:
    """Writes random finite bfloat16 weights, the tensors of one block or of the rest in each file."""
    noise = np.random.default_rng(0).integers(0, 2**16, 2**25 + 1, np.uint16) & 0xBFFF  # no exponent of all ones
    shards: dict[int, dict[str, tuple[int, ...]]] = {}
    for parameter in parameter_table(model):
        for layer, name in enumerate(parameter.hf_names):
            shard = shards.setdefault(layer + 1 if parameter.stacked else 0, {})
            shard[parameter.hf_prefix + name] = parameter.hf_shape
    folder.mkdir(parents=True)
    where, start = {}, 0
    for number, shapes in shards.items():
        tensors = {}
        for name, shape in shapes.items():
            start += 7919  # another part of the noise for each tensor
            flat = np.resize(np.roll(noise, start % noise.size), int(np.prod(shape)))
            tensors[name] = flat.reshape(shape).view(ml_dtypes.bfloat16)
        where |= dict.fromkeys(shapes, f"part-{number:03}.safetensors")
        save_file(tensors, folder / f"part-{number:03}.safetensors")
    files.write_json(folder / INDEX, {"weight_map": where})
    files.write_json(folder / "config.json", hf_config(model, "bfloat16"))


def measure(work: object) -> tuple[object, float, float]:
    """Returns (result of `work()`, seconds, peak resident GiB while it ran)."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    begin = time.monotonic()
    result = jax.block_until_ready(work())
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return result, time.monotonic() - begin, peak * 1024 / GIB


def same(one: Path, other: Path) -> bool:
    """Returns whether two directories hold the same tensors bit for bit (both bfloat16)."""
    left, right = Tensors(one), Tensors(other)
    return left.shapes == right.shapes and all(
        np.array_equal(left.read(name).view(np.uint16), right.read(name).view(np.uint16)) for name in left.shapes
    )


def main() -> None:
    """Runs the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(MODEL_SHAPES), default="560m")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the imported arrays")
    parser.add_argument("--folder", type=Path, required=True, help="scratch; needs twice the weights in bfloat16")
    arguments = parser.parse_args()
    model = ModelConfig(size=arguments.size, **MODEL_SHAPES[arguments.size])
    table = parameter_table(model)
    itemsize = jax.numpy.dtype(arguments.dtype).itemsize
    source, target = arguments.folder / "source", arguments.folder / "target"
    try:
        make(model, source)
        mesh = make_mesh(MeshConfig(1, 4, 2))
        params, import_seconds, import_peak = measure(lambda: load_hf(source, model, mesh, arguments.dtype))
        _, export_seconds, export_peak = measure(lambda: save_hf(params, model, target, "bfloat16"))
        params = None
        weights = sum(int(np.prod(parameter.shape)) for parameter in table) * itemsize / GIB
        largest = max(int(np.prod(parameter.hf_shape)) for parameter in table) * itemsize / GIB
        result = {
            "size": arguments.size, "dtype": arguments.dtype, "weights_gib": weights, "largest_tensor_gib": largest,
            "limit_gib": weights + 2 * largest + 1, "import_seconds": import_seconds, "import_peak_gib": import_peak,
            "export_seconds": export_seconds, "export_peak_gib": export_peak, "bit_equal": same(source, target),
        }  # fmt: skip
    finally:
        shutil.rmtree(source, ignore_errors=True)
        shutil.rmtree(target, ignore_errors=True)
    print(json.dumps({name: round(value, 2) if isinstance(value, float) else value for name, value in result.items()}))


if __name__ == "__main__":
    main()
