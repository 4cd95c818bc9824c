import importlib.util
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding

from ecomgpt_jax.config import MeshConfig
from ecomgpt_jax.errors import ConfigError, MissingInputError
from ecomgpt_jax.model import attention
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.parallel.sharding import spec
from ecomgpt_jax.parallel.topology import compile_only_devices, parse_topology

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")


@pytest.mark.parametrize(
    ("text", "name", "chips"),
    [
        ("v5e-8", "v5e:2x4", 8), ("v5e:2x4", "v5e:2x4", 8), ("v5e-16", "v5e:4x4", 16), ("v5e-4", "v5e:2x2", 4),
        ("v5e-1", "v5e:1x1", 1), ("v6e-8", "v6e:2x4", 8), ("V6E-256", "v6e:16x16", 256), ("v4-8", "v4:2x2x1", 4),
        ("v4-16", "v4:2x2x2", 8), ("v5p-8", "v5p:2x2x1", 4), ("v5p-128", "v5p:4x4x4", 64), ("v4:2x2x4", "v4:2x2x4", 16),
        ("h200", "h200:1", 1), ("h200:8", "h200:8", 8), ("h200-8", "h200:8", 8),
        ("h100", "h100:1", 1),
    ],
)  # fmt: skip
def test_both_spellings(text: str, name: str, chips: int) -> None:
    topology = parse_topology(text)
    assert (topology.name, topology.chips) == (name, chips)
    assert parse_topology(topology.name) == topology


@pytest.mark.parametrize(
    "text",
    ["", "v5e", "v9-8", "v5e-3", "v4-1", "v4-6", "v5e:2x2x2", "v4:2x2", "v5e:0x4", "h200:2x2", "h200:0", "v5e-8 x"],
)
def test_what_is_no_machine(text: str) -> None:
    with pytest.raises(ConfigError, match="--topology="):
        parse_topology(text)


def test_gpus_are_not_compiled_for() -> None:
    with pytest.raises(ConfigError, match="TPUs only"):
        compile_only_devices(parse_topology("h200"))


def test_without_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingInputError, match=r"pip install 'ecomgpt_jax\[plan\]'"):
        compile_only_devices(parse_topology("v5e-8"))


@needs_libtpu
@pytest.mark.parametrize("text", ["v4-8", "v5e-4", "v5p-8", "v6e-4", "v5e-1"])
def test_devices(text: str) -> None:
    topology = parse_topology(text)
    devices = compile_only_devices(topology)
    assert len(devices) == topology.chips
    assert {device.platform for device in devices} == {"tpu"}


@needs_libtpu
def test_a_layout_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="v5e:3x5"):
        compile_only_devices(parse_topology("v5e:3x5"))


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("text", ["v4-8", "v5e-4", "v5p-8", "v6e-4"])
def test_splash_compiles_for_every_generation(text: str) -> None:
    """Forward and backward with folded ALiBi, as `auto` chooses it there."""
    mesh = make_mesh(MeshConfig(data=2, tensor=2), compile_only_devices(parse_topology(text)))

    def total(ids: jax.Array, *qkv: jax.Array) -> jax.Array:
        return attention.attend(*qkv, ids).astype(jnp.float32).sum()

    array = partial(jax.ShapeDtypeStruct, sharding=NamedSharding(mesh, spec("batch", None, "heads", None)))
    q = array((4, 512, 4, 64), jnp.bfloat16)
    ids = jax.ShapeDtypeStruct((4, 512), jnp.int32, sharding=NamedSharding(mesh, spec("batch")))
    with jax.set_mesh(mesh):
        compiled = jax.jit(jax.grad(total, argnums=(1, 2, 3))).lower(ids, q, q, q).compile()
    assert "splash_mha_dkv" in compiled.as_text()
