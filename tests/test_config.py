import importlib.util
from pathlib import Path

import pytest

from ecomgpt_jax import config as config_lib
from ecomgpt_jax.config import Config, field_paths, from_dict, resolve, to_dict
from ecomgpt_jax.errors import ConfigError

FOLDER = Path(__file__).parent.parent / "configs"
CONFIGS = [path for path in sorted(FOLDER.glob("*.py")) if path.name != "ablations.py"]  # see test_experiment.py


def load(path: Path) -> Config:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert f"--config configs/{path.name}" in module.__doc__, "a config's docstring is the command that runs it"
    return module.get_config()


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
def test_every_config_file_resolves(path: Path) -> None:
    config = load(path)
    assert from_dict(to_dict(resolve(config))) == resolve(config)


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
        ("data.licences", ("MIT",), "data.mixture=real"),
        ("data.temperature", 2.0, "data.total_instances"),
        ("data.copying", -1, "not be negative"),
        ("data.total_instances", -1, "not be negative"),
        ("data.mixture", "files", "needs data.files"),
    ],
)
def test_a_wrong_value_is_named(path: str, value: object, words: str) -> None:
    with pytest.raises(ConfigError, match=path) as caught:
        resolve(with_value(path, value))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_copying_needs_the_texts_of_sources() -> None:
    config = with_value("data.copying", 2)
    resolve(config)
    config.data.mixture, config.data.files = "files", ("mine.jsonl",)
    with pytest.raises(ConfigError, match=r"data\.copying .*data\.mixture=synthetic"):
        resolve(config)


@pytest.mark.parametrize(("section", "name"), [("optimizer", "learning_rat"), ("data", "lenght"), ("", "modle")])
def test_an_unknown_field_is_refused_with_the_nearest(section: str, name: str) -> None:
    config = Config()
    with pytest.raises(ConfigError, match="did you mean"):
        setattr(getattr(config, section) if section else config, name, 1)
    with pytest.raises(ConfigError, match="did you mean"):
        from_dict({section: {name: 1}} if section else {name: 1})


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


def test_every_field_has_a_reader() -> None:
    """An option that nothing reads is a defect: each field's name occurs outside config.py."""
    package = Path(config_lib.__file__).parent
    text = "\n".join(path.read_text() for path in package.rglob("*.py") if path.name != "config.py")
    unread = [path for path in field_paths(Config()) if f".{path.split('.')[-1]}" not in text]
    assert [path for path in unread if path.split(".")[-1] not in text] == []
    assert len(field_paths(Config())) <= 80  # what one person can still read through; data is the largest section
