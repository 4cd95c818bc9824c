import dataclasses

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType

from ecomgpt_jax.config import MODEL_SHAPES, Config, resolve
from ecomgpt_jax.model.parameters import parameter_count
from ecomgpt_jax.parallel.mesh import AXES, make_mesh, mesh_shape
from ecomgpt_jax.training import memory


def sharded(size: str) -> Config:
    config = Config()
    config.model.size, config.mesh.fsdp = size, -1
    return resolve(config)


def abstract_mesh(config: Config, chips: int) -> AbstractMesh:
    return AbstractMesh(mesh_shape(config.mesh, chips), AXES, axis_types=(AxisType.Auto,) * 3)


def changed(config: Config, section: str, **fields: object) -> Config:
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **fields)})


@pytest.mark.parametrize("size", MODEL_SHAPES)
@pytest.mark.parametrize("chips", [1, 8, 16])
def test_state_is_twelve_bytes_a_weight(size: str, chips: int) -> None:
    """Float32 weights and two moments, in equal shares."""
    config = sharded(size)
    expected = 12 * parameter_count(config.model) / chips
    assert memory.state_bytes(config, abstract_mesh(config, chips)) == pytest.approx(expected, rel=0.05)


def test_what_makes_a_run_smaller_does_so_in_the_estimate() -> None:
    config = sharded("7b1")
    whole = memory.estimated_bytes(config, abstract_mesh(config, 8))
    assert whole > memory.state_bytes(config, abstract_mesh(config, 8))
    assert memory.estimated_bytes(config, abstract_mesh(config, 16)) < whole
    for section, smaller in (
        ("train", {"rows_per_device": 1}),
        ("model", {"remat": "full"}),
        ("model", {"remat": "selective"}),
        ("train", {"accumulation": 1}),
    ):
        assert memory.estimated_bytes(changed(config, section, **smaller), abstract_mesh(config, 8)) < whole
    more = changed(config, "train", rows_per_device=8)
    mesh = abstract_mesh(config, 8)
    assert memory.estimated_bytes(more, mesh) == whole + 4 * memory.row_bytes(config, mesh)


@pytest.mark.parametrize("rank", [0, 8])
def test_activations_on_a_cpu_are_counted_in_float32(rank: int) -> None:
    """Compiled, a row of a small model takes 2.5 times what it would in bfloat16, with and without adapters."""
    config = changed(sharded("560m"), "lora", rank=rank)
    here, absent = make_mesh(config.mesh, jax.devices()[:1]), abstract_mesh(config, 1)
    wide = changed(config, "model", compute_dtype="float32")
    assert memory.row_bytes(config, here) == 2 * memory.row_bytes(config, absent)
    assert memory.row_bytes(wide, here) == memory.row_bytes(wide, absent) == memory.row_bytes(config, here)
    token = 24 * 2 * 1024 * 4  # keys and values of all blocks in float32, as a CPU caches them
    longer = changed(config, "eval", max_new_tokens=config.eval.max_new_tokens + 1)
    more = memory.evaluation_bytes(longer, here) - memory.evaluation_bytes(config, here)
    assert more == config.eval.batch * token


def test_stages_of_full_training_and_of_lora() -> None:
    """What each stage must hold at the least, in bytes per weight, on one device and in eighths on eight."""
    full = changed(changed(sharded("7b1"), "train", rows_per_device=1), "eval", batch=8)
    count = parameter_count(full.model)
    for chips in (1, 8):
        weight = count / chips
        stages = memory.stage_bytes(full, abstract_mesh(full, chips))
        assert set(stages) == {"loading", "training", "evaluation"}
        assert stages["loading"] == pytest.approx(4 * weight, rel=0.02)
        assert stages["evaluation"] > (12 + 2) * weight
        adapted = changed(full, "lora", rank=16)
        stages = memory.stage_bytes(adapted, abstract_mesh(adapted, chips))
        assert stages["loading"] == pytest.approx(2 * weight, rel=0.02)
        held = memory.state_bytes(adapted, abstract_mesh(adapted, chips))
        assert stages["merging"] == pytest.approx(held + 2 * 4 * 4096**2 * 4 / chips, rel=1e-3)
        assert held < stages["evaluation"] < stages["training"] + 2 * weight
        wider = changed(adapted, "eval", dtype="float32")
        assert memory.evaluation_bytes(wider, abstract_mesh(wider, chips)) > stages["evaluation"] + 4 * weight
    no_tasks = changed(full, "train", final_evaluation=False)
    assert "evaluation" not in memory.stage_bytes(no_tasks, abstract_mesh(no_tasks, 1))


def test_evaluation_counts_its_batch_its_beams_and_its_lengths() -> None:
    config = changed(sharded("7b1"), "eval", batch=64)
    mesh = abstract_mesh(config, 8)
    whole = memory.evaluation_bytes(config, mesh)
    token = 30 * 2 * 4096 * 2  # keys and values of all blocks, bfloat16
    assert whole - memory.evaluation_bytes(changed(config, "eval", batch=8), mesh) > 7 * 964 * token
    assert memory.evaluation_bytes(changed(config, "eval", num_beams=4), mesh) - whole > 3 * 8 * 964 * token
    replicated = memory.evaluation_bytes(changed(config, "eval", mesh="data=8,fsdp=1"), mesh)
    assert replicated - whole > 2 * parameter_count(config.model) * 7 / 8 - 3 * 2**30  # less what fsdp gathers
    assert whole - memory.evaluation_bytes(changed(config, "eval", max_new_tokens=64), mesh) == 8 * 100 * token
