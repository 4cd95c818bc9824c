import numpy as np
import pytest

from ecomgpt_jax.training import faults


def test_nothing_happens_outside_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECOMGPT_FAULT", "kill@step1,full@save1,oom@step1")
    monkeypatch.delenv("ECOMGPT_TESTING", raising=False)
    faults.inject_fault("step", 1)
    faults.inject_fault("save", 1)


def test_faults_happen_where_they_are_ordered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECOMGPT_TESTING", "1")
    monkeypatch.setenv("ECOMGPT_FAULT", "full@save2,oom@step12,nan@step3")
    batch = {"inputs": np.ones(3, np.int32)}
    faults.inject_fault("step", 1, batch)
    faults.inject_fault("save", 1)
    faults.inject_fault("step", 2, batch)
    assert batch["inputs"].tolist() == [1, 1, 1]
    faults.inject_fault("step", 3, batch)
    assert batch["inputs"].tolist() == [-1, -1, -1]
    with pytest.raises(OSError, match="No space"):
        faults.inject_fault("save", 2)
    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
        faults.inject_fault("step", 12)
