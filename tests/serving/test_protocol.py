import json
from typing import Any

import pytest

from ecomgpt_jax.serving.protocol import Job, RequestError, read_job


def read(body: dict[str, Any], chat: bool = False) -> Job:
    return read_job(json.dumps(body).encode(), chat=chat, model="m", vocab_size=100)


def fault(body: dict[str, Any], chat: bool = False) -> str:
    with pytest.raises(RequestError) as caught:
        read(body, chat)
    return f"{caught.value.param}: {caught.value}"


@pytest.mark.parametrize(
    ("stop", "read_as"),
    [("a", ("a",)), (["a", "bc"], ("a", "bc")), ([], ()), (None, ()), (["a"] * 4, ("a",) * 4)],
)
def test_forms_of_stop(stop: Any, read_as: tuple[str, ...]) -> None:
    assert read({"prompt": "x", "stop": stop}).stops == read_as


@pytest.mark.parametrize("stop", ["", [""], 5, ["a"] * 5, [5], {"a": 1}, "a" * 1001, ["a"] * 100_000])
def test_wrong_stops(stop: Any) -> None:
    assert fault({"prompt": "x", "stop": stop}).startswith("stop: ")


@pytest.mark.parametrize(
    ("prompt", "read_as"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 99]], [[1], [2, 99]])],
)
def test_forms_of_prompts(prompt: Any, read_as: list[Any]) -> None:
    assert read({"prompt": prompt}).prompts == read_as


@pytest.mark.parametrize(
    "prompt",
    ["", [], [""], ["a", ""], [[]], [[1], []], 5, {"a": 1}, [-1], [100], [True], [1.5], [2**63], ["a", 1],
     [[1], "a", 2], [["a"]], "a\0"],
)  # fmt: skip
def test_wrong_prompts(prompt: Any) -> None:
    assert fault({"prompt": prompt}).startswith("prompt: ")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", [-1, 2.1, "1", True, [], 10**400]),
        ("top_p", [-0.1, 1.1, "1"]),
        ("seed", [1.5, "1", True, 2**64]),
        ("max_tokens", [0, -1, 1.5, "5", True]),
        ("stream", [1, "true"]),
        ("stream_options", [True, []]),
        ("logprobs", [6, -1, True]),
        ("model", [5, ["m"]]),
        ("n", [0, 2, "1", True, 1.5]),
        ("echo", [True, 1]),
        ("best_of", [2]),
        ("suffix", ["x"]),
        ("logit_bias", [{"5": 1}]),
        ("presence_penalty", [0.1]),
        ("frequency_penalty", [-1]),
        ("top_k", [5]),
        ("repetition_penalty", [1.1]),
        ("response_format", [{"type": "json_object"}]),
        ("skip_special_tokens", [False]),
        ("bad_words", [["red"]]),
        ("allowed_token_ids", [[5]]),
        ("truncate_prompt_tokens", [9]),
        ("chat_template_kwargs", [{"enable_thinking": False}, []]),
    ],
)
def test_wrong_values_are_refused_by_name(name: str, values: list[Any]) -> None:
    for value in values:
        assert fault({"prompt": "x", name: value}).startswith(f"{name}: "), value


def test_values_that_ask_for_nothing_are_taken() -> None:
    body = {"n": 1, "echo": False, "best_of": 1, "suffix": "", "logit_bias": {}, "presence_penalty": 0.0, "top_k": -1,
            "frequency_penalty": 0, "response_format": {"type": "text"}, "user": "u", "unheard_of": [1]}  # fmt: skip
    assert read({"prompt": "x", **body}) == read({"prompt": "x"})


def test_limits_and_settings_are_read() -> None:
    job = read({"prompt": "x", "max_tokens": 5, "temperature": 0.5, "top_p": 0, "seed": -3, "logprobs": 0})
    assert (job.max_tokens, job.temperature, job.top_p, job.seed, job.alternatives) == (5, 0.5, 0.0, -3, 0)
    plain = read({"prompt": "x"})
    assert (plain.max_tokens, plain.temperature, plain.top_p, plain.seed, plain.alternatives) == (
        None,
        0,
        1,
        None,
        None,
    )


def test_a_chat_has_another_name_for_its_limit() -> None:
    talk = {"messages": [{"role": "user", "content": "a"}]}
    assert read({**talk, "max_completion_tokens": 3}, chat=True).max_tokens == 3
    assert read({**talk, "max_completion_tokens": 3, "max_tokens": 3}, chat=True).max_tokens == 3
    assert fault({**talk, "max_completion_tokens": 3, "max_tokens": 4}, chat=True).startswith("max_completion_tokens")
    assert read({"prompt": "x", "max_completion_tokens": 3}).max_tokens is None, "completions do not know it"


def test_contents_of_messages() -> None:
    parts = [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]
    for role in ("user", "assistant", "system"):
        read_as = read({"messages": [{"role": role, "content": parts}]}, chat=True).prompts
        assert read_as == [[{"role": role, "content": "xy"}]]
    read_as = read({"messages": [{"role": "developer", "content": None}]}, chat=True).prompts
    assert read_as == [[{"role": "system", "content": ""}]]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "messages: messages must be"),
        ("hi", "messages: messages must be"),
        (["hi"], r"messages: messages[0] must be an object"),
        ([{"role": "tool", "content": "x"}], "messages: messages[0].role"),
        ([{"role": ["user"], "content": "x"}], "messages: messages[0].role"),
        ([{"role": "user", "content": 5}], "messages: messages[0].content must be"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            "messages: messages[0].content holds",
        ),
        ([{"role": "user", "content": ["x"]}], "messages: messages[0].content holds"),
        ([{"role": "assistant", "content": "", "tool_calls": [{}]}], "messages: messages[0].tool_calls"),
        ([{"role": "user", "content": "a\0"}], "messages: messages[0] holds the character U+0000"),
    ],
)
def test_wrong_messages(messages: Any, words: str) -> None:
    assert fault({"messages": messages}, chat=True).startswith(words)


def test_a_chat_asks_for_log_probabilities_otherwise() -> None:
    talk = {"messages": [{"role": "user", "content": "a"}]}
    assert read({**talk, "logprobs": True}, chat=True).alternatives == 0
    assert read({**talk, "logprobs": True, "top_logprobs": 20}, chat=True).alternatives == 20
    assert read({**talk, "logprobs": False}, chat=True).alternatives is None
    assert fault({**talk, "logprobs": 3}, chat=True).startswith("logprobs: ")
    assert fault({**talk, "top_logprobs": 3}, chat=True).startswith("top_logprobs: ")
    assert fault({**talk, "logprobs": True, "top_logprobs": 21}, chat=True).startswith("top_logprobs: ")


def test_options_are_for_streams() -> None:
    assert fault({"prompt": "x", "stream_options": {"include_usage": True}}).startswith("stream_options: ")
    options = {"prompt": "x", "stream": True, "stream_options": {"include_usage": True}}
    assert read(options).include_usage
    assert not read({**options, "stream_options": {"include_usage": None}}).include_usage
    assert fault({**options, "stream_options": {"include_usage": 1}}).startswith("stream_options: ")


def test_variables_of_a_chat_template_are_plain_values() -> None:
    talk = {"messages": [{"role": "user", "content": "a"}]}
    assert read({**talk, "chat_template_kwargs": {"enable_thinking": False}}, chat=True).variables == {
        "enable_thinking": False
    }
    assert read(talk, chat=True).variables == {}
    assert fault({**talk, "chat_template_kwargs": {"tools": [1]}}, chat=True).startswith("chat_template_kwargs: ")
    for name, value in (("continue_final_message", True), ("add_generation_prompt", False), ("chat_template", "x")):
        assert fault({**talk, name: value}, chat=True).startswith(f"{name}: ")
