"""Machines by name: their chips, and devices to compile for that need not be attached.

A TPU slice is named by the cloud's accelerator type (`v5e-8`; v4 and v5p count two cores per chip, so `v4-8` has four
chips) or by its layout of chips (`v5e:2x4`). `h100`, `h200` and `h200:8` name GPUs, for arithmetic only.
"""

import dataclasses
import importlib.util
import math
import os
import re

import jax

from ecomgpt_jax.errors import ConfigError, MissingInputError

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Properties of one device.

    Attributes:
      hbm_bytes: memory that a program may use; for TPUs the limit of their compiler.
      peak_flops: bfloat16 FLOP/s, nominal.
      utilisation: share of the peak assumed by estimates, as published for well-tuned trainers of this size.
      dollars_per_hour: price per chip assumed by estimates; about a US on-demand list price.
      dimensions: of the network that connects the chips; 0 for a GPU.
      cores: how many of the accelerator type's units are one chip.
    """

    hbm_bytes: int
    peak_flops: float
    utilisation: float
    dollars_per_hour: float
    dimensions: int
    cores: int = 1


CHIPS = {
    "v4": Chip(int(30.75 * _GIB), 275e12, 0.5, 3.22, dimensions=3, cores=2),
    "v5e": Chip(int(15.75 * _GIB), 197e12, 0.5, 1.20, dimensions=2),
    "v5p": Chip(int(95.74 * _GIB), 459e12, 0.5, 4.20, dimensions=3, cores=2),
    "v6e": Chip(int(31.25 * _GIB), 918e12, 0.4, 2.70, dimensions=2),
    "h100": Chip(79 * _GIB, 989e12, 0.45, 3.00, dimensions=0),
    "h200": Chip(139 * _GIB, 989e12, 0.45, 3.50, dimensions=0),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A number of equal chips; `layout` counts them along each dimension of a TPU's network, () for GPUs."""

    kind: str
    chips: int
    layout: tuple[int, ...]

    @property
    def chip(self) -> Chip:
        """Properties of each chip."""
        return CHIPS[self.kind]

    @property
    def name(self) -> str:
        """The canonical name: `v5e:2x4`, `h200:8`."""
        return f"{self.kind}:{'x'.join(map(str, self.layout or (self.chips,)))}"


def _default_layout(chips: int, dimensions: int) -> tuple[int, ...]:
    """The squarest layout of a power of two: 8 = 2x4 or 2x2x2, 4 = 2x2 or 2x2x1."""
    doublings = chips.bit_length() - 1
    sides = sorted(2 ** ((doublings + place) // dimensions) for place in range(dimensions))
    return tuple(sorted(sides, reverse=1 in sides))


def parse_topology(text: str) -> Topology:
    """Reads `v5e-8`, `v5e:2x4`, `v4-8`, `v4:2x2x1`, `h100`, `h200` or `h200:8`.

    Raises:
      ConfigError: the text names no known machine.
    """
    known = "v4-8, v5e-8, v5e:2x4, v5p-8, v6e-8, h100, h200, h200:8"
    match = re.fullmatch(r"(?P<kind>[a-z0-9]+?)(?:-(?P<count>\d+)|:(?P<layout>\d+(?:x\d+)*))?", text.strip().lower())
    if not match or match["kind"] not in CHIPS:
        raise ConfigError(f"--topology={text!r}: no such machine; for example {known}")
    kind, chip = match["kind"], CHIPS[match["kind"]]
    if not chip.dimensions:
        chips = int(match["count"] or match["layout"] or 1) if "x" not in (match["layout"] or "") else 0
        if not chips:
            raise ConfigError(f"--topology={text!r}: GPUs have a number and no layout; for example h200:8")
        return Topology(kind, chips, ())
    if match["layout"]:
        layout = tuple(map(int, match["layout"].split("x")))
        if len(layout) != chip.dimensions or not all(layout):
            raise ConfigError(f"--topology={text!r}: {kind} has {chip.dimensions} dimensions; for example {known}")
        return Topology(kind, math.prod(layout), layout)
    units = int(match["count"] or 0)
    chips = units // chip.cores
    if units % chip.cores or chips < 1 or chips & (chips - 1):
        raise ConfigError(
            f"--topology={text!r}: give {kind}-N with N a power of two{' above 1' if chip.cores > 1 else ''}, or a "
            f"layout of chips; for example {known}"
        )
    return Topology(kind, chips, _default_layout(chips, chip.dimensions))


def compile_only_devices(topology: Topology) -> list[jax.Device]:
    """Returns one device per chip, for compiling programs that cannot run here.

    Raises:
      MissingInputError: the TPU compiler (`libtpu`) is not installed.
      ConfigError: the compiler does not support this layout, or the machine is not a TPU.
    """
    if not topology.layout:
        raise ConfigError(f"{topology.name}: programs can be compiled ahead for TPUs only")
    if importlib.util.find_spec("libtpu") is None:
        raise MissingInputError("the TPU compiler is not installed; pip install 'ecomgpt_jax[plan]'")
    # Without these the library looks for a TPU and its metadata server, and allows one process at a time.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    from jax.experimental import topologies  # after the environment is set

    options: dict[str, object] = {}
    if topology.kind == "v4":
        options["chip_config_name"] = "megacore"  # both cores of a chip are one device, as on a real v4
    if topology.chips < 4:
        options["chips_per_host_bounds"] = (*topology.layout, *[1] * (3 - len(topology.layout)))
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **options).devices
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        raise ConfigError(f"--topology={topology.name}: {str(error).splitlines()[0]}") from error
