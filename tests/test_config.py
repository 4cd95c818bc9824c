import importlib.util
import re
from pathlib import Path

import pytest

from ecomgpt_jax import config as config_lib
from ecomgpt_jax.config import Config, field_paths, from_dict, resolve, to_dict, unused
from ecomgpt_jax.errors import ConfigError

FOLDER = Path(__file__).parent.parent / "configs"
CONFIGS = [path for path in sorted(FOLDER.glob("*.py")) if path.name != "ablations.py"]  # see test_experiment.py


def load(path: Path, *argument: str) -> Config:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert f"--config configs/{path.name}" in module.__doc__, "a config's docstring is the command that runs it"
    return module.get_config(*argument)


def with_value(path: str, value: object) -> Config:
    config = Config()
    *sections, name = path.split(".")
    target = config
    for section in sections:
        target = getattr(target, section)
    setattr(target, name, value)
    return config


def test_the_default_is_the_papers_recipe() -> None:
    config = resolve(Config())
    assert (config.model.embed, config.model.layers, config.model.heads, config.model.vocab_size) == (
        1024,
        24,
        16,
        250_880,
    )
    optimizer, train = config.optimizer, config.train
    assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.warmup_fraction) == (2e-5, 0.0, 0.03)
    assert (train.epochs, train.rows_per_device, train.accumulation, config.data.length) == (3, 4, 8, 1024)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_file_resolves_without_a_word(path: Path) -> None:
    config = load(path)
    assert from_dict(to_dict(resolve(config))) == resolve(config)
    assert unused(config) == []


@pytest.mark.parametrize(
    ("name", "argument"), [("demo", "nano"), *(("ecom_base", f"nano,{stage}") for stage in ("tune", "follow", "few"))]
)
def test_nor_do_the_stages_that_start_from_weights(name: str, argument: str) -> None:
    config = load(FOLDER / f"{name}.py", argument)
    config.model.init_from = config.model.init_from or "weights"
    resolve(config)
    assert unused(config) == []


@pytest.mark.parametrize("size", ["560m", "1b1", "1b7", "3b", "7b1"])
def test_the_recipes_differ_from_the_paper_in_no_hyperparameter(size: str) -> None:
    config, paper = resolve(load(Path(__file__).parent.parent / f"configs/bloomz_{size}.py")), resolve(Config())
    assert config.model.size == size
    rows = [train.rows_per_device * train.accumulation for train in (config.train, paper.train)]
    assert rows[0] == rows[1], "a step's rows; memory decides how many go at a time"
    config.train.rows_per_device, config.train.accumulation = paper.train.rows_per_device, paper.train.accumulation
    assert (config.optimizer, config.train, config.eval) == (paper.optimizer, paper.train, paper.eval)
    assert config.data.length == 1024


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("model.size", "560M", "did you mean '560m'"),
        ("optimizer.learning_rate", "2e-5", "must be float"),
        ("train.epochs", 1.5, "must be int"),
        ("train.epochs", True, "must be int"),
        ("data.packing", 1, "must be bool"),
        ("train.epochs", 0, "above 0"),
        ("data.num_tasks", -1, "not be negative"),
        ("data.languages", ("en", "de"), "'de'"),
        ("mesh.data", 0, "mesh.data"),
        ("mesh.tensor", 3, "not a multiple of mesh.tensor"),
        ("optimizer.warmup_fraction", 2.0, "at most 1"),
        ("model.attention", "flash", "none of auto"),
        ("data.operators", ("reversed",), "did you mean 'reversal'"),
        ("lora.targets", ("mlp",), "none of qkv"),
        ("data.languages", (), "is empty"),
        ("data.seed", -1, "not be negative"),
        ("optimizer.b2", 1.0, "below 1"),
        ("optimizer.learning_rate", float("nan"), "must be float"),
        ("train.seed", 2**32, "below 4294967296"),
        ("data.tokenizer_vocab", 259, "at least 260"),
        ("name", "", "names the default work folder"),
        ("name", "../x", "names the default work folder"),
        ("optimizer.decay_fraction", 0.98, "does not fit after optimizer.warmup_fraction=0.03"),
        ("eval.limit", float("inf"), "must be int"),
        ("data.licences", ("MIT",), "data.mixture=real"),
        ("data.temperature", 2.0, "data.total_instances"),
        ("data.copying", -1, "not be negative"),
        ("data.total_instances", -1, "not be negative"),
        ("data.mixture", "files", "needs data.files"),
        ("data.template", "letters", "released:letters"),
    ],
)
def test_a_wrong_value_is_named(path: str, value: object, words: str) -> None:
    with pytest.raises(ConfigError, match=path) as caught:
        resolve(with_value(path, value))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


FILES = {"data.mixture": "files", "data.files": ("mine.jsonl",)}
WEIGHTS = {"model.init_from": "weights"}
LLAMA = {"model.size": "custom", "model.embed": 64, "model.layers": 2, "model.heads": 4, "model.family": "llama"}
GEMMA = LLAMA | {"model.family": "gemma"}
UNSCORED = {"train.final_evaluation": False}
# A field, a value, a run in which the field has no effect, and a part of the message.
REFUSED = [
    *[(path, value, {}, "lora.rank") for path, value in (
        ("lora.alpha", 8.0), ("lora.targets", ("qkv",)), ("lora.dropout", 0.1)
    )],
    *[(path, value, FILES, "data.mixture") for path, value in (
        ("data.tasks", ("*",)), ("data.num_tasks", 3), ("data.sources", ("en_ae_110k",)), ("data.operators", ("base",)),
        ("data.leave_out_abilities", ("find spans",)), ("data.strict_held_out", True), ("data.chain_of_task", False),
        ("data.plain_text", True), ("data.copying", 2),
    )],
    ("data.operators", ("base",), {"data.mixture": "folder"}, "data.mixture"),
    ("data.licences", ("MIT",), {}, "data.mixture"),
    ("data.tasks_dir", "tasks", {}, "data.mixture=folder"),
    ("data.temperature", 0.0, {}, "data.total_instances"),
    ("data.family_temperature", 0.0, {}, "data.total_instances"),
    ("data.unseen_tasks", 2, {}, "data.total_instances"),
    ("data.unseen_tasks", 2, FILES | {"data.total_instances": 9}, "data.total_instances"),
    ("data.loss_on_prompt", True, {"data.plain_text": True}, "prompts"),
    ("data.template", "chat", {"data.plain_text": True}, "prompts"),
    ("data.chain_of_task", False, {"data.plain_text": True}, "instructions"),
    *[(path, value, {}, "model.family=llama or gemma") for path, value in (
        ("model.kv_heads", 4), ("model.head_dim", 32), ("model.mlp", 96), ("model.rope_theta", 1e6),
        ("model.rope_scaling", "linear:8.0"), ("model.window", 8), ("model.layer_kinds", "sf"),
    )],
    *[(path, value, GEMMA, "model.family=llama") for path, value in (
        ("model.biases", "qkv"), ("model.qk_norm", True), ("model.tied_head", False),
    )],
    *[(path, value, LLAMA, "model.family=gemma") for path, value in (
        ("model.local_rope_theta", 1e3), ("model.query_scale", 168.0),
    )],
]  # fmt: skip
MENTIONED = [
    ("data.sources_dir", "sources", {}, "data.mixture=real"),
    ("data.synthetic_records", 60, {"data.mixture": "real"}, "data.mixture=synthetic"),
    ("data.prompt_language", "zh", FILES, "data.mixture"),
    ("data.prompt_language", "zh", {"data.plain_text": True}, "instructions"),
    ("data.workers", 2, {"data.beam_options": ("--runner=DirectRunner",)}, "beam_options"),
    ("data.tokenizer_vocab", 600, {"model.tokenizer": "there"}, "model.tokenizer"),
    ("data.tokenizer_vocab", 600, WEIGHTS, "model.init_from"),
    ("model.embed", 7, {}, "model.size"),
    ("train.seed", 1, WEIGHTS, "model.init_from"),
    *[(path, value, UNSCORED, "train.final_evaluation") for path, value in (
        ("eval.tasks_dir", "tasks"), ("eval.batch", 8), ("eval.max_prompt_tokens", 9), ("eval.max_new_tokens", 9),
        ("eval.num_beams", 2), ("eval.protocol", "released:1"),
        ("eval.dtype", "float32"), ("eval.mesh", "data=1"), ("eval.limit", 5), ("eval.answer_loss", True),
    )],
    ("eval.limit", 50, UNSCORED | {"eval.every": 10}, "16 rows"),
    ("eval.answer_loss", True, UNSCORED | {"eval.every": 10}, "final_evaluation"),
]  # fmt: skip
ALWAYS = re.findall(
    r"\S+",
    """
    name model.size model.family model.vocab_size model.layer_norm_epsilon model.initializer_range model.init_from
    model.tokenizer model.compute_dtype model.attention model.remat model.head_chunk data.mixture data.files
    data.cache_dir data.languages data.instances_per_task data.total_instances data.length data.packing
    data.length_weighting
    data.beam_options data.seed optimizer.learning_rate optimizer.weight_decay optimizer.warmup_fraction
    optimizer.decay_fraction optimizer.b2 optimizer.epsilon optimizer.max_grad_norm optimizer.moment_dtype lora.rank
    train.epochs train.rows_per_device train.accumulation train.max_steps train.log_every train.profile_steps
    train.save_every train.keep train.validate_every train.best_metric train.skip_nonfinite train.final_evaluation
    mesh.data mesh.fsdp mesh.tensor eval.every
    """,
)


def run_with(settings: dict[str, object]) -> Config:
    config = Config()
    for path, value in settings.items():
        section, _, name = path.rpartition(".")
        setattr(getattr(config, section) if section else config, name, value)
    return config


@pytest.mark.parametrize(("path", "value", "run", "words"), REFUSED)
def test_what_the_run_cannot_obey_is_refused(path: str, value: object, run: dict[str, object], words: str) -> None:
    resolve(run_with(run))
    with pytest.raises(ConfigError, match=rf"^config: {path}=.* effect only .*{words}"):
        resolve(run_with({**run, path: value}))


@pytest.mark.parametrize(("path", "value", "run", "words"), MENTIONED)
def test_what_has_no_effect_costs_a_line(path: str, value: object, run: dict[str, object], words: str) -> None:
    assert unused(run_with(run)) == []
    resolve(run_with({**run, path: value}))
    (line,) = unused(run_with({**run, path: value}))
    assert path in line
    assert words in line


def test_every_field_has_an_effect_always_or_a_case_above() -> None:
    """A new field goes into ALWAYS, or into `USES` with a case for each run that it has no effect in."""
    shape = {"model.embed", "model.layers", "model.heads"}  # see test_a_custom_shape_must_be_whole
    sometimes = {path for use in config_lib.USES for path in use.fields.split()}
    assert sorted([*ALWAYS, *sometimes, *shape]) == sorted(field_paths(Config()))
    assert sometimes == {path for path, *_ in (*REFUSED, *MENTIONED)} - shape


def test_prompts_of_own_files_have_no_letters() -> None:
    resolve(run_with({"data.template": "chat:letters"}))
    with pytest.raises(ConfigError, match=r"data\.template: .* without letters"):
        resolve(run_with(FILES | {"data.template": "released:letters"}))


@pytest.mark.parametrize("mode", ["greedy", "constrained", "likelihood"])
def test_letters_go_with_every_way_of_answering_but_drawn_candidates(mode: str) -> None:
    resolve(run_with({"eval.protocol": f"{mode}:letters"}))
    for wrong in ("released:1:letters", "letters", f"{mode}:letters:letters"):
        with pytest.raises(ConfigError, match="may follow the first three"):
            resolve(run_with({"eval.protocol": wrong}))
    if mode == "constrained":
        with pytest.raises(ConfigError, match="decodes greedily"):
            resolve(run_with({"eval.protocol": f"{mode}:letters", "eval.num_beams": 2}))


def test_atomic_tasks_cannot_be_asked_for_and_left_out() -> None:
    config = run_with({"data.operators": ("base", "reversal"), "data.chain_of_task": False})
    with pytest.raises(ConfigError, match=r"data\.operators=base,reversal .*data\.chain_of_task"):
        resolve(config)
    config.data.operators = ("base",)
    resolve(config)


@pytest.mark.parametrize(("section", "name"), [("optimizer", "learning_rat"), ("data", "lenght"), ("", "modle")])
def test_an_unknown_field_is_refused_with_the_nearest(section: str, name: str) -> None:
    config = Config()
    with pytest.raises(ConfigError, match="did you mean"):
        setattr(getattr(config, section) if section else config, name, 1)
    with pytest.raises(ConfigError, match="did you mean"):
        from_dict({section: {name: 1}} if section else {name: 1})


def test_a_removed_field_is_read_at_its_fixed_value_alone() -> None:
    """Checkpoints of earlier versions name such fields."""
    assert from_dict({"optimizer": {"b1": 0.9}, "model": {"head": "targets"}}) == Config()
    with pytest.raises(ConfigError, match="b1"):
        from_dict({"optimizer": {"b1": 0.8}})


def test_resolving_copies_and_splits_lists() -> None:
    config = Config()
    config.data.languages = ("en,zh",)
    config.model.size = "7b1"
    resolved = resolve(config)
    assert resolved.data.languages == ("en", "zh")
    assert (resolved.model.embed, resolved.model.layers) == (4096, 30)
    assert config.model.embed == 0


def test_a_custom_shape_must_be_whole() -> None:
    config = Config()
    config.model.size = "custom"
    with pytest.raises(ConfigError, match=r"model\.embed must be above 0"):
        resolve(config)
    config.model.embed, config.model.layers, config.model.heads = 100, 2, 8
    with pytest.raises(ConfigError, match=r"not a multiple of model\.heads"):
        resolve(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.size": "560m"}, r"model\.size=560m is BLOOM's"),
        ({"model.kv_heads": 3}, r"not a multiple of model\.kv_heads=3"),
        ({"model.embed": 60, "model.heads": 4}, "width 15"),
        *(
            ({"model.rope_scaling": text}, r"model\.rope_scaling=.* numbers above 0 with LOW below HIGH")
            for text in (
                "yarn:4",
                "linear:0",
                "linear:e",
                "linear:1..2",
                "linear:1e999",
                "llama3:8:4:4:64",
                "llama3:8:1:4:0",
            )
        ),
        ({"model.window": 8, "model.layer_kinds": "s"}, r"model\.layer_kinds='s' must have a letter"),
        ({"model.window": 8, "model.layer_kinds": "sx"}, r"model\.layer_kinds='sx'"),
        ({"model.layer_kinds": "sf"}, r"model\.window=0 do not fit"),
        ({"model.window": 8, "model.layer_kinds": "ff"}, "do not fit"),
    ],
)
def test_a_shape_that_no_family_has_is_refused(change: dict[str, object], message: str) -> None:
    resolve(run_with(LLAMA))
    with pytest.raises(ConfigError, match=message):
        resolve(run_with(LLAMA | change))


def test_adapters_stand_beside_all_layers_of_the_family_unless_some_are_named() -> None:
    rank = {"lora.rank": 4}
    assert resolve(run_with(rank)).lora.targets == config_lib.LAYERS["bloom"]
    assert resolve(run_with(LLAMA | rank)).lora.targets == config_lib.LAYERS["llama"]
    assert resolve(resolve(run_with(GEMMA | rank | {"lora.targets": ("query",)}))).lora.targets == ("query",)


def test_every_field_has_a_reader() -> None:
    """Every option is read: each field's name occurs outside config.py."""
    package = Path(config_lib.__file__).parent
    text = "\n".join(path.read_text() for path in package.rglob("*.py") if path.name != "config.py")
    unread = [path for path in field_paths(Config()) if f".{path.split('.')[-1]}" not in text]
    assert [path for path in unread if path.split(".")[-1] not in text] == []
    # A checkpoint decides its shape; nobody sets that by hand.
    shape = {f"model.{name}" for name in (*config_lib.SHAPE, "layer_norm_epsilon")}
    assert len(shape) <= 18
    settings = field_paths(Config()).keys() - shape
    assert len(settings) <= 80  # what one person can still read through; data is the largest section


def test_comma_lists_of_files_know_names_with_commas(tmp_path: Path) -> None:
    for name in ("a,b.jsonl", "b.jsonl", "a"):
        (tmp_path / name).touch()
    both = f"{tmp_path}/a,b.jsonl"
    for text, expected in (
        (both, [both]),
        (f"{both},{tmp_path}/b.jsonl", [both, f"{tmp_path}/b.jsonl"]),
        (f"x.jsonl, {both} ,hub:me/data@0", ["x.jsonl", both, "hub:me/data@0"]),
        ("no,such.jsonl", ["no", "such.jsonl"]),
    ):
        config = Config()
        config.data.files = (text,)
        assert list(resolve(config).data.files) == expected
