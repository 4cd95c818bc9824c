"""A LoRA run through the loop: what changes, what is kept, what a checkpoint of it gives back."""

import json
import shutil
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loaded import load_checkpoint
from toy import toy_config, toy_rows

from ecomgpt_jax import convert
from ecomgpt_jax.config import Config, LoraConfig, MeshConfig
from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError
from ecomgpt_jax.model import decoder, hf_shards, hf_weights, loading, lora
from ecomgpt_jax.model.hf_weights import load_hf, save_hf
from ecomgpt_jax.model.parameters import Params, parameter_count
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training import loop
from ecomgpt_jax.training.optimizer import make_optimizer
from ecomgpt_jax.training.progress import read_metrics
from ecomgpt_jax.training.train_step import global_batch, init_state, make_train_step

MESH = make_mesh(MeshConfig(data=2), jax.devices()[:2])


def lora_config(base: Path, rank: int = 4) -> Config:
    config = toy_config(save_every=10)
    config.model.initializer_range = 0.3  # a base whose frozen head can tell words apart
    config.lora = LoraConfig(rank=rank, alpha=8.0, dropout=0.1)
    config.model.init_from = str(base)
    return config


def train(config: Config, workdir: Path) -> Params:
    rows = toy_rows(loop.rows_per_step(config, MESH), instances=160)
    return stacked(loop.train(config, rows, MESH, workdir, partial(load_base, config)))


def load_base(config: Config, layered: bool = False) -> Params:
    return load_hf(config.model.init_from, config.model, MESH, config.model.compute_dtype, layered=layered)


def stacked(params: Params) -> Params:
    return params | {"blocks": jax.tree.map(lambda *layers: jnp.stack(layers), *params["blocks"])}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Params]:
    """(base, workdir, parameters) of a two-epoch run."""
    folder = tmp_path_factory.mktemp("lora")
    config = lora_config(folder / "base")
    save_hf(decoder.init_sharded_params(config.model, MESH, jax.random.key(3)), config.model, folder / "base")
    return folder / "base", folder / "run", train(config, folder / "run")


def losses(workdir: Path) -> list[float]:
    return [line["train/loss"] for line in read_metrics(workdir / "metrics.jsonl")]


def test_two_epochs_overfit(run: tuple[Path, Path, Params]) -> None:
    found = losses(run[1])
    assert np.mean(found[-5:]) < 0.5 * found[0]


def test_only_adapted_kernels_change(run: tuple[Path, Path, Params]) -> None:
    base, _, params = run
    before = dict(jax.tree_util.tree_leaves_with_path(load_hf(base)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        same = np.array_equal(leaf, before[path])
        assert same == (path[-1].key != "kernel"), jax.tree_util.keystr(path)


def test_checkpoint_holds_adapters_alone_and_loads_as_merged_weights(run: tuple[Path, Path, Params]) -> None:
    _, workdir, params = run
    adapters, config = loading.load_adapters(workdir, MESH)
    assert config.lora.rank == 4
    assert {name.key for path, _ in jax.tree_util.tree_leaves_with_path(adapters) for name in path[-1:]} == {
        "lora_a",
        "lora_b",
    }
    loaded, model = load_checkpoint(workdir, MESH)
    assert model.embed == 32
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-6), loaded, params)


def test_resumed_run_is_bit_equal(run: tuple[Path, Path, Params], tmp_path: Path) -> None:
    """The dropout of a step is the same whether or not the run was stopped before it."""
    base, workdir, _ = run
    shutil.copytree(workdir, tmp_path / "run")
    newest = max((tmp_path / "run" / "checkpoints").iterdir(), key=lambda path: int(path.name))
    shutil.rmtree(newest)
    train(lora_config(base), tmp_path / "run")
    assert losses(tmp_path / "run") == losses(workdir)


def test_other_adapters_do_not_resume(run: tuple[Path, Path, Params], tmp_path: Path) -> None:
    base, workdir, _ = run
    shutil.copytree(workdir, tmp_path / "run")
    with pytest.raises(ConfigError, match="lora"):
        train(lora_config(base, rank=2), tmp_path / "run")


def test_convert_writes_merged_weights_and_adapters(
    run: tuple[Path, Path, Params], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base, workdir, params = run
    convert.convert(str(workdir), str(tmp_path / "hf"), "hf", "float32")
    merged = load_hf(tmp_path / "hf")
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-6), merged, params)
    convert.convert(str(workdir), str(tmp_path / "peft"), "peft", "float32")
    assert json.loads((tmp_path / "peft" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    assert not (tmp_path / "peft" / "README.md").exists()
    shutil.copytree(workdir, tmp_path / "run")
    (tmp_path / "run" / "hf").mkdir()
    (tmp_path / "run" / "hf" / "README.md").write_text(f"---\nlibrary_name: transformers\n---\nfrom {base}.\n")
    convert.convert(str(tmp_path / "run"), str(tmp_path / "named"), "peft", "bfloat16", base="owner/name")
    described = json.loads((tmp_path / "named" / "adapter_config.json").read_text())
    assert described["base_model_name_or_path"] == "owner/name"
    card = (tmp_path / "named" / "README.md").read_text(encoding="utf-8")
    assert card == "---\nlibrary_name: peft\nbase_model: owner/name\n---\nfrom owner/name.\n"
    for source, against in (("peft", ""), ("named", str(base))):
        convert.merge_peft(str(tmp_path / source), str(tmp_path / f"{source}_merged"), "float32", against)
    jax.tree.map(np.testing.assert_array_equal, load_hf(tmp_path / "peft_merged"), merged)
    narrow = load_hf(tmp_path / "named_merged")
    gaps = [float(np.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (narrow, merged)), strict=True)]
    changes = [float(np.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (load_hf(base), merged)), strict=True)]
    assert 0 < max(gaps) < 2**-7 * max(changes), "adapters in bfloat16"
    card = (tmp_path / "named_merged" / "README.md").read_text(encoding="utf-8")
    assert "library_name: transformers\nbase_model: owner/name\n" in card
    assert "other weights" not in caplog.text
    convert.merge_peft(str(tmp_path / "peft"), str(tmp_path / "twice"), "float32", str(tmp_path / "hf"))
    assert "trained on other weights than" in caplog.text
    with pytest.raises(MissingInputError, match=r"owner/name.*--base"):
        convert.merge_peft(str(tmp_path / "named"), str(tmp_path / "none"), "float32")
    with pytest.raises(MissingInputError, match="--format hf"):
        loading.find_checkpoint(tmp_path / "peft")
    assert not (tmp_path / "none").exists()
    sizes = [(tmp_path / name / "adapter_model.safetensors").stat().st_size for name in ("peft", "named")]
    assert 0.45 < sizes[1] / sizes[0] < 0.6
    with pytest.raises(ConfigError, match="adapters"):
        convert.convert(str(base), str(tmp_path / "none"), "peft", "float32")
    assert not (tmp_path / "none").exists()


def test_a_base_that_has_gone_is_named(run: tuple[Path, Path, Params], tmp_path: Path) -> None:
    base, workdir, _ = run
    base.rename(tmp_path / "elsewhere")
    try:
        with pytest.raises(MissingInputError, match="init_from"):
            load_checkpoint(workdir, MESH)
    finally:
        (tmp_path / "elsewhere").rename(base)


@pytest.mark.parametrize("change", ["a kernel", "adapters merged into it", "a fresh base of another seed"])
def test_other_weights_under_the_adapters_are_refused(
    run: tuple[Path, Path, Params], tmp_path: Path, change: str
) -> None:
    """Norms are the same in all of them: what LoRA or a seed changes are kernels."""
    base, workdir, merged = run
    config, other = lora_config(base), load_hf(base)
    if change == "a kernel":
        other["blocks"]["qkv"]["kernel"] = other["blocks"]["qkv"]["kernel"].at[0, 0, 0, 0, 0].add(1e-3)
    elif change == "adapters merged into it":
        other = merged
    else:
        other = decoder.init_sharded_params(config.model, MESH, jax.random.key(4))
    norms = [
        [weights[name]["scale"] for name in ("embedding_norm", "final_norm")] for weights in (other, load_hf(base))
    ]
    np.testing.assert_array_equal(*norms)
    save_hf(other, config.model, tmp_path / "other")
    base.rename(tmp_path / "right")
    try:
        (tmp_path / "other").rename(base)
        with pytest.raises(DataError, match=f"trained on other weights .*{base}"):
            load_checkpoint(workdir, MESH)
        shutil.copytree(workdir, tmp_path / "run")
        with pytest.raises(DataError, match="trained on other weights"):
            train(config, tmp_path / "run")
    finally:
        shutil.rmtree(base)
        (tmp_path / "right").rename(base)


def test_a_base_that_was_replaced_while_the_run_went_on_is_not_merged(
    run: tuple[Path, Path, Params], tmp_path: Path
) -> None:
    config = lora_config(run[0])
    config.train.max_steps = 1

    def base(layered: bool = False) -> Params:
        params = load_base(config, layered)
        if layered:  # as it is read for merging
            params["final_norm"]["scale"] *= 2
        return params

    rows = toy_rows(loop.rows_per_step(config, MESH))
    with pytest.raises(DataError, match="trained on other weights"):
        loop.train(config, rows, MESH, tmp_path, base)


def test_a_checkpoint_that_recorded_norms_alone_is_refused(run: tuple[Path, Path, Params]) -> None:
    meta = {"base": "0" * 64, "config": {"model": {"init_from": ""}}}
    with pytest.raises(DataError, match="--format peft"):
        loading.check_base(run[1], meta, "0" * 64)


def test_the_same_base_in_another_dtype_is_the_same(run: tuple[Path, Path, Params], tmp_path: Path) -> None:
    """Compared is what the run computes with: a bfloat16 run's base may lie on disk in either dtype."""
    config = lora_config(run[0])
    config.model.compute_dtype = "bfloat16"
    narrow = load_hf(run[0], dtype="bfloat16")
    save_hf(narrow, config.model, tmp_path / "base", "bfloat16")
    config.model.init_from = str(tmp_path / "base")
    config.train.max_steps = 2
    train(config, tmp_path / "run")
    shutil.rmtree(tmp_path / "base")
    save_hf(load_hf(run[0]), config.model, tmp_path / "base")
    assert load_checkpoint(tmp_path / "run", MESH, "bfloat16")[1].embed == 32


def test_dropout_follows_the_seed(run: tuple[Path, Path, Params], tmp_path: Path) -> None:
    config, other = lora_config(run[0]), lora_config(run[0])
    other.train.seed = 1
    optimizer = make_optimizer(config.optimizer, 10)
    rows = toy_rows(loop.rows_per_step(config, MESH))
    batch = {name: np.stack([rows[index][name] for index in range(4)]) for name in rows[0]}
    found = []
    with jax.set_mesh(MESH):
        for settings in (config, other):
            state = init_state(config, optimizer, MESH, load_hf(run[0], config.model, MESH))  # one seed's adapters
            # B starts at zero, and with it what dropout does to the loss: the gradient of B shows it.
            step = make_train_step(settings, optimizer, MESH)
            found.append(float(step(state, global_batch(batch, 2, MESH))[1]["grad_norm"]))
    assert found[0] != found[1]


def test_evaluation_sees_merged_weights_and_training_goes_on_from_the_base(
    run: tuple[Path, Path, Params], tmp_path: Path
) -> None:
    """The base is merged where it lies and read again: the run is the same as without evaluations."""
    config, seen = lora_config(run[0]), []
    config.eval.every = 10
    rows = toy_rows(loop.rows_per_step(config, MESH), instances=160)

    def evaluate(params: Params) -> dict[str, float]:
        seen.append(jax.device_get(params))
        return {"eval/average/score": 0.0}

    last = loop.train(config, rows, MESH, tmp_path / "run", partial(load_base, config), evaluate=evaluate)
    assert losses(tmp_path / "run") == losses(run[1])
    assert len(seen) >= 2
    first = load_base(config, layered=True)["blocks"][0]["qkv"]["kernel"]
    assert not np.array_equal(seen[0]["blocks"][0]["qkv"]["kernel"], first)
    jax.tree.map(np.testing.assert_array_equal, stacked(last), run[2])
    save_hf(last, config.model, tmp_path / "layered")
    jax.tree.map(np.testing.assert_array_equal, load_hf(tmp_path / "layered"), run[2])


def live_bytes() -> int:
    """Bytes of all arrays on devices, a buffer that several of them share once."""
    arrays = [array for array in jax.live_arrays() if not array.is_deleted() and array.sharding.num_devices == 1]
    return sum({array.unsafe_buffer_pointer(): array.nbytes for array in arrays}.values())


@pytest.mark.parametrize("loaded", ["bfloat16", "float32"])
def test_a_run_holds_the_base_once_from_start_to_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: str
) -> None:
    """At most 2.4 bytes per weight at every stage; a base loaded in float32 (the control) takes more."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    config = lora_config(tmp_path / "base", rank=1)
    config.model.embed, config.model.layers, config.model.vocab_size = 64, 8, 4096
    config.model.compute_dtype, config.eval.every, config.train.max_steps = "bfloat16", 1, 2
    count = parameter_count(config.model)
    save_hf(
        decoder.init_sharded_params(config.model, mesh, jax.random.key(3), "bfloat16"), config.model, tmp_path / "base"
    )
    found: dict[str, int] = {}
    before = live_bytes()

    def seen(stage: str) -> None:
        found[stage] = max(found.get(stage, 0), live_bytes() - before)

    def spied(module: object, name: str) -> None:
        function = getattr(module, name)

        def spy(*args: object) -> object:
            seen(name)
            result = function(*args)
            seen(name)
            return result

        monkeypatch.setattr(module, name, spy)

    for name in ("_put_rows", "_place"):
        spied(hf_weights, name)
    spied(hf_shards, "tensor_pieces")
    spied(lora, "merge_layer")
    spied(loop, "content_hash")

    def evaluate(params: Params) -> dict[str, float]:
        seen("evaluate")
        jax.tree.map(lambda leaf: leaf.block_until_ready(), params)
        return {}

    def base(layered: bool = False) -> Params:
        return load_hf(config.model.init_from, config.model, mesh, loaded, layered=layered)

    rows = toy_rows(loop.rows_per_step(config, mesh))
    params = loop.train(config, rows, mesh, tmp_path / "run", base, evaluate=evaluate)
    save_hf(params, config.model, tmp_path / "hf", "bfloat16")
    assert set(found) == {"_put_rows", "_place", "merge_layer", "content_hash", "tensor_pieces", "evaluate"}
    assert (max(found.values()) <= 2.4 * count) == (loaded == "bfloat16"), {k: v / count for k, v in found.items()}
