import pytest

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.errors import DataError
from ecomgpt_jax.model.hf_config import (
    every_nth_full,
    flag,
    layer_kinds,
    letters_of,
    number,
    only,
    refuse_foreign,
    rope,
    rope_entries,
    rope_scaling,
)

LLAMA3 = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, (1e4, "")),
        ({"rope_theta": 5e5}, (5e5, "")),
        ({"rope_theta": 1_000_000}, (1e6, "")),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, (1e6, "")),
        ({"rope_scaling": {"rope_theta": 5e5, "rope_type": "default"}}, (5e5, "")),
        ({"rope_theta": 5e5, "rope_scaling": None, "rope_parameters": None}, (5e5, "")),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, (1e4, "linear:2.0")),
        ({"rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 2}}, (1e4, "linear:2.0")),
        ({"rope_theta": 5e5, "rope_scaling": LLAMA3 | {"rope_type": "llama3"}}, (5e5, "llama3:32.0:1.0:4.0:8192")),
        ({"rope_parameters": LLAMA3 | {"rope_type": "llama3", "rope_theta": 5e5}}, (5e5, "llama3:32.0:1.0:4.0:8192")),
        (  # the rotation's own length counts
            {"rope_scaling": LLAMA3 | {"rope_type": "llama3"}, "original_max_position_embeddings": 64},
            (1e4, "llama3:32.0:1.0:4.0:8192"),
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"type": "linear", "factor": 2.0}},
            (1e4, "linear:2.0"),
        ),
    ],
)
def test_both_forms_of_the_rotation(values: dict, expected: tuple) -> None:
    assert rope(values, "config.json", 1e4) == expected
    theta, scaling = expected
    assert rope({"rope_parameters": rope_entries(theta, scaling)}, "config.json", 1.0) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        *(({"rope_scaling": {"rope_type": kind, "factor": 2.0}}, kind) for kind in ("dynamic", "yarn", "longrope")),
        ({"rope_parameters": {"rope_type": "proportional"}}, "proportional"),
        ({"rope_scaling": {"type": "linear", "rope_type": "llama3", "factor": 2.0}}, "rope_type='llama3' but type="),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor"),
        ({"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"rope_type": "default"}}, "keep one"),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, "rope_theta is"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_parameters": [1]}, "objects"),
    ],
)
def test_other_rotations_are_refused_by_name(values: dict, message: str) -> None:
    with pytest.raises(DataError, match=rf"config\.json: .*{message}"):
        rope(values, "config.json", 1e4)


@pytest.mark.parametrize(
    "change",
    [
        {"num_experts": 8}, {"num_local_experts": 8}, {"final_logit_softcapping": 30.0}, {"quantization_config": {}},
        {"attn_logit_softcapping": 50.0}, {"partial_rotary_factor": 0.5}, {"use_bidirectional_attention": True},
        {"residual_multiplier": 0.2}, {"pretraining_tp": 2},
    ],
)  # fmt: skip
def test_what_makes_another_network_is_refused_by_name(change: dict) -> None:
    refuse_foreign(dict.fromkeys(change), "config.json")
    with pytest.raises(DataError, match=next(iter(change))):
        refuse_foreign(change, "config.json")


def test_layer_types() -> None:
    types = ["sliding_attention", "full_attention"]
    assert layer_kinds({"layer_types": types}, "here", 2, "") == "sf"
    assert layer_kinds({}, "here", 2, "ff") == "ff"
    for wrong in (types[:1], ["sliding_attention", "linear_attention"], "sf"):
        with pytest.raises(DataError, match="layer_types"):
            layer_kinds({"layer_types": wrong}, "here", 2, "")


def test_numbers_and_flags() -> None:
    assert number({"b": 3.0}, "here", int, "a", "b") == 3
    for wrong in (0, -1, True, "3", 2.5):
        with pytest.raises(DataError, match="here: a is"):
            number({"a": wrong}, "here", int, "a")
    assert flag({"a": None}, "here", "a", default=True)
    with pytest.raises(DataError, match="true or false"):
        flag({"a": 1}, "here", "a")
    with pytest.raises(DataError, match="a=1 is not supported, only null"):
        only({"a": 1}, "here", a=())


def test_kinds_of_layers_and_the_older_scaling() -> None:
    assert [every_nth_full(5, n) for n in (1, 2, 6)] == ["fffff", "sfsfs", "sssss"]
    shape = {"size": "custom", "family": "gemma", "embed": 8, "heads": 2, "layers": 2}
    models = ({}, {"window": 4}, {"window": 4, "layer_kinds": "fs"})
    assert [letters_of(ModelConfig(**shape, **given)) for given in models] == ["ff", "ss", "fs"]
    assert rope_scaling(rope_entries(1e4, "")) is None
    assert rope_scaling(rope_entries(1e4, "linear:2.0")) == {"rope_type": "linear", "factor": 2.0}
