from pathlib import Path
from typing import Any

import pytest

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.errors import DataError
from ecomgpt_jax.instruct import inputs
from ecomgpt_jax.instruct.records import LabelledText
from ecomgpt_jax.instruct.rows import Account
from ecomgpt_jax.instruct.sources import catalogue as real_sources
from ecomgpt_jax.instruct.sources.reading import Intake


def settings(**fields: Any) -> DataConfig:
    return DataConfig(**({"synthetic_records": 40, "instances_per_task": 5} | fields))


def test_bad_records_of_real_sources_are_quarantined(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def read(source: object, directory: Path, intake: Intake) -> list[LabelledText]:
        intake.rows = 100
        intake.reject("f.txt", 7, "label", "unknown", "text")
        return []

    monkeypatch.setattr(real_sources, "read", read)
    with pytest.raises(DataError, match=r"^en_mams/f\.txt:7:1: label: unknown \(1 of 100"):
        inputs.read_source("en_mams", settings(mixture="real", sources_dir=str(tmp_path)), Account())
