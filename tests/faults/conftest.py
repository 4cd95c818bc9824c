"""Shared by the fault tests: the toy run of `tests/training`."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def faults_are_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECOMGPT_TESTING", "1")
    monkeypatch.delenv("ECOMGPT_FAULT", raising=False)
