"""Shared by the fault tests: the toy run of `tests/training`, and a compilation cache, since they start it often."""

import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compilation-cache")


@pytest.fixture(scope="module", autouse=True)
def compilation_cache(cache_folder: Path) -> Iterator[None]:
    settings = {
        "jax_compilation_cache_dir": str(cache_folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(autouse=True)
def faults_are_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECOMGPT_TESTING", "1")
    monkeypatch.delenv("ECOMGPT_FAULT", raising=False)
