import dataclasses

import pytest

from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.experiment import Experiment, Variant, cells

TWO = Experiment(
    name="two",
    question="Which?",
    config="configs/demo.py",
    variants=(Variant("all"), Variant("short", ("data.num_tasks=20",), start="configs/demo.py:other")),
    seeds=(0, 3),
    start="configs/demo.py",
    overrides=("train.max_steps=5",),
)


def test_cells_run_seed_by_seed_and_hold_all_that_is_set() -> None:
    made = cells(TWO)
    assert [cell.folder for cell in made] == ["all-seed0", "short-seed0", "all-seed3", "short-seed3"]
    assert made[3].overrides == ("train.max_steps=5", "data.num_tasks=20", "data.seed=3", "train.seed=3")
    assert [cell.start for cell in made[:2]] == ["configs/demo.py", "configs/demo.py:other"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"variants": ()}, "at least one variant"),
        ({"seeds": ()}, "one seed"),
        ({"seeds": (1, 1)}, "twice"),
        ({"variants": (Variant("a"), Variant("a"))}, "twice"),
        ({"variants": (Variant("../a"),)}, "no name"),
        ({"variants": (Variant("a", ("data.num_task=3",)),)}, "did you mean 'data.num_tasks'"),
        ({"overrides": ("data.num_tasks",)}, "<field>=<value>"),
    ],
)
def test_what_cannot_be_run_is_refused(change: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        cells(dataclasses.replace(TWO, **change))
