import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from ecomgpt_jax.config import Config, resolve
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.parallel.topology import parse_topology
from ecomgpt_jax.training import planning
from ecomgpt_jax.training.loop import rows_per_step
from ecomgpt_jax.training.optimizer import make_optimizer
from ecomgpt_jax.training.train_step import abstract_state, make_train_step

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.py") if path.stem != "ablations")  # grids of other configs
# What `plan --json` promises.
KEYS = {
    "topology", "chips", "hbm_bytes_per_chip", "hbm_limit_bytes", "fits", "flops_per_step", "parameters",
    "compile_seconds",
}  # fmt: skip
needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")


def config_of(path: Path) -> Config:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = resolve(module.get_config())
    config.model.vocab_size = config.model.vocab_size or 8192
    return config


def sized(size: str, **fields: object) -> Config:
    config = config_of(ROOT / "configs" / f"bloomz_{size}.py")
    for name, value in fields.items():
        section, field = name.split("__")
        setattr(getattr(config, section), field, value)
    return config


def tiny() -> Config:
    config = Config()
    config.model.size, config.model.embed, config.model.layers, config.model.heads = "custom", 128, 2, 2
    config.model.vocab_size, config.model.head_chunk = 1024, 64
    config.mesh.fsdp, config.data.length, config.train.rows_per_device, config.train.accumulation = -1, 128, 1, 2
    return resolve(config)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_lowers_at_full_size(path: Path) -> None:
    """The real step on eight devices, without making an array."""
    config = config_of(path)
    mesh, optimizer = make_mesh(config.mesh), make_optimizer(config.optimizer, 1000)
    shape = (config.train.accumulation, rows_per_step(config, mesh) // config.train.accumulation, config.data.length)
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name in ("inputs", "targets", "segment_ids", "loss_mask")}
    with jax.set_mesh(mesh):
        state = abstract_state(config, optimizer, mesh)
        text = make_train_step(config, optimizer, mesh).lower(state, batch).as_text()
    assert f"{config.model.vocab_size}x{config.model.embed}xf32" in text


def test_arithmetic_for_gpus() -> None:
    one = planning.make_plan(sized("7b1", train__accumulation=1, train__rows_per_device=8), parse_topology("h200"))
    assert set(one) >= KEYS
    assert one["method"] == "arithmetic"
    assert (one["fits"], one["chips"], one["compile_seconds"]) == (True, 1, 0)
    assert one["largest_rows_per_device"] >= 8
    assert not planning.make_plan(sized("7b1", model__remat="none", train__rows_per_device=32), parse_topology("h200"))[
        "fits"
    ]
    eight = planning.make_plan(sized("7b1", train__accumulation=1, train__rows_per_device=8), parse_topology("h200:8"))
    assert eight["state_bytes_per_chip"] == pytest.approx(one["state_bytes_per_chip"] / 8, rel=0.01)
    assert eight["flops_per_step"] == 8 * one["flops_per_step"]
    assert eight["estimate"]["epoch_hours"] == pytest.approx(one["estimate"]["epoch_hours"] / 8, rel=0.01)
    assert eight["estimate"]["epoch_dollars"] == pytest.approx(one["estimate"]["epoch_dollars"], rel=0.01)
    assert planning.make_plan(sized("560m"), parse_topology("h200"), price=0)["estimate"]["epoch_dollars"] == 0


def test_a_plan_counts_evaluation_too() -> None:
    """Training fits into a chip, decoding 4,096 prompts with its state does not: the plan reports it, rows stay."""
    config = sized("560m", train__rows_per_device=1)
    plan = planning.make_plan(config, parse_topology("h200"))
    assert plan["fits"]
    config.eval.batch = 4096
    larger = planning.make_plan(config, parse_topology("h200"))
    stages = larger["stage_bytes_per_chip"]
    assert not larger["fits"]
    assert larger["hbm_bytes_per_chip"] == stages["evaluation"] > larger["hbm_limit_bytes"] > stages["training"]
    assert larger["largest_rows_per_device"] == plan["largest_rows_per_device"]
    assert "evaluation" in planning.describe(larger)


def test_the_largest_rows_are_the_last_that_fit() -> None:
    topology = parse_topology("h200")
    rows = planning.make_plan(sized("1b7"), topology)["largest_rows_per_device"]
    assert planning.make_plan(sized("1b7", train__rows_per_device=rows), topology)["fits"]
    assert not planning.make_plan(sized("1b7", train__rows_per_device=rows + 1), topology)["fits"]


@pytest.mark.parametrize("limit", [0, 1, 2, 5, 6, 13])
@pytest.mark.parametrize("guess", [0, 1, 5, 9, 40])
def test_the_search_for_the_largest(limit: int, guess: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def compiled(config: Config, mesh: object) -> tuple[int, bool]:
        tried.append(config.train.rows_per_device)
        return 0, config.train.rows_per_device <= limit

    monkeypatch.setattr(planning, "compiled_bytes", compiled)
    assert planning._largest_rows(Config(), None, guess) == limit
    assert len(tried) == len(set(tried))
    if guess == limit > 0:
        assert tried == [limit, limit + 1]


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 16.19G of 15.75G hbm. Exceeded",
            16.19 * 2**30,
        ),
        ("RESOURCE_EXHAUSTED: ... HLO temporaries (768.00M) exceeds available HBM (15.75G).", 768 * 2**20),
        ("something else", 0),
    ],
)
def test_what_a_refusal_says(message: str, wanted: float) -> None:
    assert planning._refused_bytes(message) == int(wanted)


def test_in_words() -> None:
    text = planning.describe(planning.make_plan(sized("7b1", train__rows_per_device=64), parse_topology("h200")))
    assert "DOES NOT FIT" in text
    assert "estimate, not measured" in text


@needs_libtpu
def test_a_tiny_model_is_compiled_for_a_tpu() -> None:
    """The whole step with splash, ahead of time; the compiler's memory is near the arithmetic of the state."""
    result = planning.make_plan(tiny(), parse_topology("v5e-4"))
    assert set(result) >= KEYS
    assert result["fits"]
    assert (result["method"], result["attention"]) == ("compiled", "splash")
    assert result["compile_seconds"] > 0
    assert result["state_bytes_per_chip"] < result["hbm_bytes_per_chip"] < result["hbm_limit_bytes"]
    mesh_config = tiny()
    mesh_config.mesh.fsdp, mesh_config.mesh.tensor = 2, 2
    assert planning.make_plan(mesh_config, parse_topology("v5e-4"))["fits"]


@needs_libtpu
def test_too_large_a_model_is_refused_by_the_compiler() -> None:
    config = sized("7b1")
    config.model.layers = 4
    config.train.rows_per_device = 512
    result = planning.make_plan(config, parse_topology("v5e-4"))
    assert not result["fits"]
    assert result["hbm_bytes_per_chip"] > result["hbm_limit_bytes"]
    assert result["largest_rows_per_device"] < 512
