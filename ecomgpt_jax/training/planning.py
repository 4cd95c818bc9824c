"""Plans a run for a machine: compiles the training step for a TPU that need not be attached, or computes a GPU's needs.

The TPU's compiler reports its memory. Time and cost are estimates from FLOPs and an assumed share of the chip's peak,
stated with the result.
"""

import dataclasses
import math
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh

from ecomgpt_jax.config import Config
from ecomgpt_jax.model.attention import resolve_implementation
from ecomgpt_jax.model.parameters import flops_per_token, parameter_count
from ecomgpt_jax.parallel.mesh import AXES, make_mesh, mesh_shape
from ecomgpt_jax.parallel.topology import Topology, compile_only_devices
from ecomgpt_jax.training import memory
from ecomgpt_jax.training.loop import rows_per_step
from ecomgpt_jax.training.optimizer import make_optimizer
from ecomgpt_jax.training.train_step import make_train_step

# An epoch of EcomInstruct, by its paper and the lengths of its evaluation tasks.
_INSTANCES, _TOKENS_OF_INSTANCE, _FILL, _TARGET_SHARE = 2_500_000, 208, 0.987, 0.15


def _refused_bytes(message: str) -> int:
    """Returns the bytes in the compiler's error message; 0 if it contains none."""
    found = re.search(r"Used ([\d.]+)([KMGT]) of [\d.]+\w hbm", message) or re.search(
        r"\(([\d.]+)([KMGT])\) exceeds", message
    )
    return int(float(found[1]) * 1024 ** (1 + "KMGT".index(found[2]))) if found else 0


def compiled_bytes(config: Config, mesh: Mesh) -> tuple[int, bool]:
    """Compiles the training step for the devices of `mesh`.

    Returns:
      (bytes per device, whether they fit).
    """
    optimizer = make_optimizer(config.optimizer, memory.STEPS)
    accumulation = config.train.accumulation
    shape = (accumulation, rows_per_step(config, mesh) // accumulation, config.data.length)
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name in ("inputs", "targets", "segment_ids")}
    batch["loss_mask"] = jax.ShapeDtypeStruct(shape, jnp.float32 if config.data.length_weighting else jnp.bool_)
    state, train_step = memory.state(config, mesh), make_train_step(config, optimizer, mesh)
    with jax.set_mesh(mesh):  # needed for tracing; computations cannot run on devices that are not attached
        lowered = train_step.lower(state, batch)
        try:
            analysis = lowered.compile().memory_analysis()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return _refused_bytes(str(error)), False
    # Less than the sum of its parts, since temporaries with disjoint lifetimes share memory.
    return analysis.peak_memory_in_bytes + analysis.generated_code_size_in_bytes, True


def _largest_rows(config: Config, mesh: Mesh, guess: int) -> int:
    """Returns the most rows per device that compile, by doubling steps from a guess and then bisection."""
    fits: dict[int, bool] = {0: True}

    def tried(rows: int) -> bool:
        if rows not in fits:
            train = dataclasses.replace(config.train, rows_per_device=rows)
            fits[rows] = compiled_bytes(dataclasses.replace(config, train=train), mesh)[1]
        return fits[rows]

    low, high, stride = 0, max(1, guess), 1
    while tried(high):
        low, high, stride = high, high + stride, 2 * stride
    stride = 1
    while low == 0 and high > 1 and not tried(max(1, high - stride)):
        high, stride = max(1, high - stride), 2 * stride
    low = max(rows for rows, fit in fits.items() if fit and rows < high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if tried(middle) else (low, middle)
    return low


def make_plan(config: Config, topology: Topology, largest: bool = False, price: float | None = None) -> dict[str, Any]:
    """Returns the plan that `--json` prints.

    Args:
      config: resolved, with the vocabulary's size.
      topology: the machine.
      largest: find the largest rows_per_device by compiling; otherwise it is estimated from one compilation.
      price: dollars per chip and hour; None: the chip's assumed price.

    Raises:
      ConfigError: the mesh does not fit the machine or the model.
      MissingInputError: the TPU compiler is not installed.
    """
    model, train, chip = config.model, config.train, topology.chip
    compiled = bool(topology.layout)
    seconds = 0.0
    if compiled:
        mesh: memory.AnyMesh = make_mesh(config.mesh, compile_only_devices(topology))
        started = time.monotonic()
        used, fits = compiled_bytes(config, mesh)
        seconds = time.monotonic() - started
    else:
        mesh = AbstractMesh(mesh_shape(config.mesh, topology.chips), AXES, axis_types=(AxisType.Auto,) * len(AXES))
        used = memory.estimated_bytes(config, mesh)
        fits = used <= chip.hbm_bytes
    stages = memory.stage_bytes(config, mesh) | {"training": used}
    # One compilation gives the bytes that do not depend on rows; the bytes per row are computed.
    rows = max(0, train.rows_per_device + math.floor((chip.hbm_bytes - used) / memory.row_bytes(config, mesh)))
    rows = max(rows, train.rows_per_device) if fits else min(rows, train.rows_per_device - 1)
    by_compiling = compiled and largest
    if by_compiling:
        rows = _largest_rows(config, mesh, rows)
    target_share = 1.0 if config.data.loss_on_prompt else _TARGET_SHARE
    step_rows = rows_per_step(config, mesh)
    flops = flops_per_token(model, config.data.length, target_share) * step_rows * config.data.length
    step_seconds = flops / (topology.chips * chip.peak_flops * chip.utilisation)
    steps = math.ceil(_INSTANCES * _TOKENS_OF_INSTANCE / (step_rows * config.data.length * _FILL))
    hours = steps * step_seconds / 3600
    price = chip.dollars_per_hour if price is None else price
    result = {
        "topology": topology.name,
        "chips": topology.chips,
        "method": "compiled" if compiled else "arithmetic",
        "hbm_bytes_per_chip": max(stages.values()),
        "hbm_limit_bytes": chip.hbm_bytes,
        "fits": fits and max(stages.values()) <= chip.hbm_bytes,
        "stage_bytes_per_chip": stages,
        "state_bytes_per_chip": memory.state_bytes(config, mesh),
        "flops_per_step": flops,
        "parameters": parameter_count(model),
        "compile_seconds": round(seconds, 1),
        "mesh": dict(mesh.shape),
        "rows_per_device": train.rows_per_device,
        "largest_rows_per_device": rows,
        "largest_rows_method": "compiled" if by_compiling else "estimated",
        "estimate": {
            "step_seconds": step_seconds,
            "epoch_hours": hours,
            "epoch_dollars": hours * topology.chips * price,
            "assumes": {
                "share_of_peak_flops": chip.utilisation,
                "dollars_per_chip_hour": price,
                "instances": _INSTANCES,
                "tokens_per_instance": _TOKENS_OF_INSTANCE,
                "packing_fill": _FILL,
                "target_share": target_share,
            },
        },
    }
    if compiled:
        with jax.set_mesh(mesh):
            result["attention"] = resolve_implementation(
                model.attention, model.compute_dtype, model.head_width, alibi=model.family == "bloom"
            )
    return result


def describe(plan: dict[str, Any]) -> str:
    """Returns a plan as text."""
    used, limit = (plan[name] / 2**30 for name in ("hbm_bytes_per_chip", "hbm_limit_bytes"))
    mesh = " ".join(f"{axis}={size}" for axis, size in plan["mesh"].items())
    estimate, assumes = plan["estimate"], plan["estimate"]["assumes"]
    how = f"compiled in {plan['compile_seconds']:.0f} s" if plan["method"] == "compiled" else "by arithmetic"
    return "\n".join(
        [
            f"{plan['topology']}, {plan['chips']} chips, mesh {mesh}, {plan['parameters']:,} parameters",
            f"{'fits' if plan['fits'] else 'DOES NOT FIT'}: {used:.2f} of {limit:.2f} GiB per chip with "
            f"{plan['rows_per_device']} rows per device ({how})",
            f"by stage: {memory.describe(plan['stage_bytes_per_chip'])} per chip (all but training by arithmetic)",
            f"largest rows_per_device that fits: {plan['largest_rows_per_device']} ({plan['largest_rows_method']})",
            f"{plan['flops_per_step']:.3g} FLOPs per step",
            f"estimate, not measured: {estimate['step_seconds']:.2f} s per step; {estimate['epoch_hours']:.1f} h and "
            f"${estimate['epoch_dollars']:,.0f} for {assumes['instances']:,} instances, at "
            f"{assumes['share_of_peak_flops']:.0%} of peak and ${assumes['dollars_per_chip_hour']:.2f} per chip-hour",
        ]
    )
