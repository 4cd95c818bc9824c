import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from ecomgpt_jax.config import MODEL_SHAPES, MeshConfig, ModelConfig
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.model.parameters import param_shapes, param_shardings, parameter_table
from ecomgpt_jax.parallel import sharding as sharding_lib
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.parallel.sharding import array_sharding, constrain, spec


@pytest.mark.parametrize("size", MODEL_SHAPES)
def test_every_large_parameter_of_every_size_is_split(size: str) -> None:
    model = ModelConfig(size=size, **MODEL_SHAPES[size])
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    shardings = jax.tree.leaves(param_shardings(model, mesh))
    for shape, sharding in zip(jax.tree.leaves(param_shapes(model)), shardings, strict=True):
        part = sharding.shard_shape(shape.shape)
        if shape.size > 10_000_000:
            assert jnp.prod(jnp.array(part, float)) * 8 == pytest.approx(shape.size)


def test_specs() -> None:
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    shardings = param_shardings(ModelConfig(size="custom", embed=16, layers=2, heads=4, vocab_size=32), mesh)
    assert shardings["embedding"]["table"].spec == PartitionSpec("tensor", "fsdp")
    assert shardings["blocks"]["qkv"]["kernel"].spec == PartitionSpec(None, "fsdp", "tensor", None, None)
    assert shardings["blocks"]["attention_out"]["kernel"].spec == PartitionSpec(None, "tensor", None, "fsdp")
    assert shardings["blocks"]["mlp_up"]["bias"].spec == PartitionSpec(None, "tensor")
    assert shardings["final_norm"]["scale"].spec == PartitionSpec(None)


@pytest.mark.parametrize(
    ("change", "mesh", "message"),
    [
        (
            {"vocab_size": 33},
            (4, 1, 2),
            r"embedding/table \(33, 16\): axis 'vocab' of 33 .*tensor=2; set mesh.tensor=1 .* or make model.vocab_size",
        ),
        (
            {"embed": 12, "heads": 4},
            (1, 8, 1),
            r"embedding/table .*'embed' of 12 .*fsdp=8; set mesh.fsdp=4 .* or make model.embed a multiple of 8",
        ),
        (
            {"heads": 2},
            (2, 1, 4),
            r"blocks/qkv/kernel .*'heads' of 2 .*tensor=4; set mesh.tensor=2 .* or make model.heads",
        ),
    ],
)
def test_what_does_not_divide_is_named(change: dict, mesh: tuple[int, int, int], message: str) -> None:
    model = ModelConfig(**{"size": "custom", "embed": 16, "layers": 2, "heads": 4, "vocab_size": 32, **change})
    with pytest.raises(ConfigError, match=message):
        param_shardings(model, make_mesh(MeshConfig(*mesh)))


def test_the_released_vocabulary_divides_by_eight() -> None:
    table = parameter_table(ModelConfig(**MODEL_SHAPES["560m"]))[0]
    array_sharding(table.name, table.shape, table.axes, make_mesh(MeshConfig(data=1, fsdp=1, tensor=8)))


def test_an_axis_without_a_rule() -> None:
    mesh = make_mesh(MeshConfig())
    with pytest.raises(ConfigError, match="adapter/kernel has axis 'expert'"):
        array_sharding("adapter/kernel", (8, 8), ("embed", "expert"), mesh)
    with pytest.raises(ConfigError, match="one axis for each size"):
        array_sharding("adapter/kernel", (8, 8), ("embed",), mesh)
    with pytest.raises(ConfigError, match="expert"):
        spec("expert")


def test_constrain() -> None:
    x = jnp.zeros((8, 4))
    assert constrain(x, "batch", None) is x
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        assert jax.jit(lambda x: constrain(x, "batch", "mlp"))(x).sharding.spec == PartitionSpec(
            ("data", "fsdp"), "tensor"
        )


def test_weights_left_whole_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a real size; vectors, 0.1 % of the weights, may be whole."""
    model = ModelConfig(size="560m", **MODEL_SHAPES["560m"])
    shapes = [(1, 8, 1), (1, 1, 8), (1, 4, 2), (4, 2, 1)]
    for shape in shapes:
        param_shardings(model, make_mesh(MeshConfig(*shape)))
    monkeypatch.setitem(sharding_lib.RULES, "mlp", None)
    with pytest.raises(ConfigError, match="of the weights beyond its 1/8"):
        param_shardings(model, make_mesh(MeshConfig(1, 1, 8)))
    monkeypatch.setitem(sharding_lib.RULES, "embed", None)
    with pytest.raises(ConfigError, match=r"RULES of parallel/sharding\.py must split them"):
        param_shardings(model, make_mesh(MeshConfig(4, 2, 1)))
    param_shardings(model, make_mesh(MeshConfig(8, 1, 1)))


def test_the_advice_on_what_does_not_divide_works() -> None:
    """The vocabulary of given weights cannot be changed, so the advice is one of the mesh."""
    model = ModelConfig(size="custom", embed=16, layers=2, heads=4, vocab_size=16_385)
    with pytest.raises(ConfigError) as error:
        param_shardings(model, make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    advice = dict(re.findall(r"mesh\.(\w+)=(-?\d+)", str(error.value)))
    assert advice == {"tensor": "1", "data": "-1"}
    param_shardings(model, make_mesh(MeshConfig(**{"fsdp": 2, **{name: int(size) for name, size in advice.items()}})))
