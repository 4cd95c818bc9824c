from ecomgpt_jax.evaluation.terminal import score_table


def scores(**values: float) -> dict:
    baselines = {"majority": {"corrected": {"score": 0.25}}, "copy": {"corrected": {"score": 0.125}}}
    return {"tasks": {name: {"corrected": {"score": value}, "baselines": baselines} for name, value in values.items()}}


def test_both_models_and_the_best_baseline_stand_side_by_side() -> None:
    assert score_table(scores(short=0.5, much_longer=0.0), scores(short=0.25, much_longer=0.0)).splitlines() == [
        "task          before  after  best baseline",
        "short          0.250  0.500  0.250 majority",
        "much_longer    0.000  0.000  0.250 majority",
        "average of 2   0.125  0.250",
        "better than before training on 1 of 2 tasks (corrected scores)",
    ]


def test_one_model_alone() -> None:
    assert score_table(scores(a=1.0)).splitlines() == [
        "task          score  best baseline",
        "a             1.000  0.250 majority",
        "average of 1  1.000",
    ]
