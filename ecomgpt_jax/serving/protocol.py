"""Parses the body of a request strictly into a `Job`.

Null means absent, and unknown fields are ignored; unsupported fields that would change the answer are errors.
"""

import codecs
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ecomgpt_jax import strict_json

MAX_STOPS, MAX_STOP_LENGTH = 4, 1000
# {unsupported field: values without effect}
_REFUSED: Mapping[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "echo": (False,), "suffix": ("",), "logit_bias": ({},), "presence_penalty": (0,),
    "frequency_penalty": (0,), "tools": ([],), "tool_choice": ("none", "auto"), "functions": ([],),
    "function_call": ("none", "auto"), "response_format": ({"type": "text"},), "modalities": (["text"],), "audio": (),
    "prediction": (), "web_search_options": (), "top_k": (-1, 0), "min_p": (0,), "repetition_penalty": (1,),
    "min_tokens": (0,), "ignore_eos": (False,), "stop_token_ids": ([],), "guided_json": (), "guided_regex": (),
    "guided_choice": (), "guided_grammar": (), "structured_outputs": (), "use_beam_search": (False,),
    "add_generation_prompt": (True,), "continue_final_message": (False,), "skip_special_tokens": (True,),
    "bad_words": ([],), "allowed_token_ids": (), "truncate_prompt_tokens": (), "length_penalty": (1,),
    "typical_p": (1,), "chat_template": (), "documents": ([],),
}  # fmt: skip
_ROLES = ("system", "developer", "user", "assistant")


class RequestError(Exception):
    """A refused request; becomes an error body in OpenAI's form.

    Attributes:
      status: of HTTP.
      param: the invalid field, if there is one.
      code: identifier for programs.
    """

    def __init__(self, message: str, param: str | None = None, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.param, self.status, self.code = param, status, code


def unknown_model(name: str, served: str) -> RequestError:
    """Returns the error for a model other than the served one."""
    return RequestError(f"the model {name!r:.100} is not served here; {served!r} is", "model", 404, "model_not_found")


@dataclasses.dataclass
class Job:
    """A request for completions.

    Attributes:
      chat: whether it is a conversation.
      prompts: texts or lists of ids; one conversation [{"role", "content"}, ...] where `chat`.
      variables: of the chat template, such as Qwen3's `enable_thinking`.
      max_tokens: of each answer; None: the default.
      temperature: 0 selects the most likely token.
      top_p: see `continuous.Request`.
      seed: None: a random one.
      stops: strings that end an answer.
      alternatives: number of most likely tokens to return per token; None: no log-probabilities at all.
      stream: answer with server-sent events.
      include_usage: end a stream with the number of tokens.
    """

    chat: bool
    prompts: list[Any]
    variables: dict[str, str | bool | int | float]
    max_tokens: int | None
    temperature: float
    top_p: float
    seed: int | None
    stops: tuple[str, ...]
    alternatives: int | None
    stream: bool
    include_usage: bool


def read_object(body: bytes) -> dict[str, Any]:
    """Returns the JSON object of a body, without fields that are null.

    Raises:
      RequestError: it is not a JSON object.
    """
    try:
        value = strict_json.parse(body.removeprefix(codecs.BOM_UTF8).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is not UTF-8 at byte {error.start}") from None
    except strict_json.NotJSON as error:
        reason = f"the body cannot be read as JSON, line {error.line}, column {error.column}: {error.reason}"
        raise RequestError(reason) from None
    if not isinstance(value, dict):
        raise RequestError(f"the body must be a JSON object, not {_kind(value)}")
    return {key: given for key, given in value.items() if given is not None}


def read_job(body: bytes, *, chat: bool, model: str, vocab_size: int) -> Job:
    """Returns the job of a body.

    Args:
      body: of the request.
      chat: whether it is a request for chat completions.
      model: name of the model that is served.
      vocab_size: rows of its embedding; ids of a prompt are below.

    Raises:
      RequestError: a field is invalid; names it.
    """
    given = read_object(body)
    if _read(given, "model", str, model) != model:
        raise unknown_model(given["model"], model)
    for name, neutral in _REFUSED.items():
        if name in given and not any(_equal(given[name], value) for value in neutral):
            raise RequestError(f"{name} is not supported; leave it out", name, code="unsupported_parameter")
    stream = _read(given, "stream", bool, False)
    options = _read(given, "stream_options", dict, {})
    if options and not stream:
        raise RequestError("stream_options is for streams; set stream to true", "stream_options")
    include_usage = options.get("include_usage") or False
    if type(include_usage) is not bool:
        raise RequestError("stream_options.include_usage must be true or false", "stream_options")
    limits = {name: _whole(given, name, 1, 2**63 - 1) for name in ("max_tokens", *["max_completion_tokens"] * chat)}
    wanted = {limit for limit in limits.values() if limit is not None}
    if len(wanted) > 1:
        raise RequestError("max_tokens and max_completion_tokens differ; give one of them", "max_completion_tokens")
    return Job(
        chat=chat,
        prompts=[_messages(given)] if chat else _prompts(given, vocab_size),
        variables=_variables(given, chat),
        max_tokens=next(iter(wanted), None),
        temperature=_real(given, "temperature", 0, 2, 0.0),
        top_p=_real(given, "top_p", 0, 1, 1.0),
        seed=_whole(given, "seed", -(2**63), 2**64 - 1),
        stops=_stops(given),
        alternatives=_alternatives(given, chat),
        stream=stream,
        include_usage=include_usage,
    )


def _equal(one: object, other: object) -> bool:
    return one == other and (type(one) is bool) == (type(other) is bool)  # bool is a subclass of int


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def _read(given: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = given.get(name, default)
    if type(value) is not kind:
        raise RequestError(f"{name} must be {_kind(kind())}, not {_kind(value)}", name)
    return value


def _whole(given: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    value = given.get(name)
    if value is None:
        return None
    if type(value) is not int or not least <= value <= most:
        raise RequestError(f"{name} must be a whole number from {least} to {most}", name)
    return value


def _real(given: Mapping[str, Any], name: str, least: int, most: int, default: float) -> float:
    value = given.get(name, default)
    if type(value) not in (int, float) or not least <= value <= most:
        raise RequestError(f"{name} must be a number from {least} to {most}", name)
    return float(value)


def _stops(given: Mapping[str, Any]) -> tuple[str, ...]:
    stops = given.get("stop", [])
    stops = [stops] if isinstance(stops, str) else stops
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        raise RequestError(f"stop must be a string or a list of at most {MAX_STOPS} strings", "stop")
    if not all(isinstance(stop, str) and 0 < len(stop) <= MAX_STOP_LENGTH for stop in stops):
        raise RequestError(f"each stop must be a string of 1 to {MAX_STOP_LENGTH} characters", "stop")
    return tuple(stops)


def _alternatives(given: Mapping[str, Any], chat: bool) -> int | None:
    if not chat:
        return _whole(given, "logprobs", 0, 5)
    count, wanted = _whole(given, "top_logprobs", 0, 20), _read(given, "logprobs", bool, False)
    if count is not None and not wanted:
        raise RequestError("top_logprobs needs logprobs to be true", "top_logprobs")
    return (count or 0) if wanted else None


def _variables(given: Mapping[str, Any], chat: bool) -> dict[str, str | bool | int | float]:
    variables = _read(given, "chat_template_kwargs", dict, {})
    if variables and not chat:
        raise RequestError("chat_template_kwargs is for chats", "chat_template_kwargs")
    for name, value in variables.items():
        if not isinstance(value, str | bool | int | float):
            problem = f"chat_template_kwargs.{name:.50} must be a string, a number, true or false"
            raise RequestError(problem, "chat_template_kwargs")
    return variables


def _check_text(text: str, where: str, param: str) -> str:
    if "\0" in text:
        raise RequestError(f"{where} holds the character U+0000 (NUL)", param)
    return text


def _prompts(given: Mapping[str, Any], vocab_size: int) -> list[str | list[int]]:
    """Returns the prompts: a text, ids, or a list of either."""
    prompt = given.get("prompt")
    several = isinstance(prompt, list) and bool(prompt) and all(isinstance(item, str | list) for item in prompt)
    prompts: Sequence[Any] = prompt if several else [prompt]
    for number, item in enumerate(prompts):
        where = f"prompt {number} (counted from 0)" if several else "prompt"
        if not isinstance(item, str | list):
            raise RequestError("prompt must be a string, a list of strings, ids, or a list of lists of ids", "prompt")
        if not item:
            raise RequestError(f"{where} is empty: there is nothing to continue", "prompt")
        if isinstance(item, str):
            _check_text(item, where, "prompt")
        elif not all(type(index) is int and 0 <= index < vocab_size for index in item):
            raise RequestError(
                f"{where} holds a value that is not an id; ids are whole numbers from 0 to {vocab_size - 1}", "prompt"
            )
    return list(prompts)


def _messages(given: Mapping[str, Any]) -> list[dict[str, str]]:
    messages = given.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages must be a list of at least one object with role and content", "messages")
    return [_message(message, f"messages[{number}]") for number, message in enumerate(messages)]


def _message(message: object, where: str) -> dict[str, str]:
    if not isinstance(message, dict):
        raise RequestError(f"{where} must be an object with role and content", "messages")
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        raise RequestError(f"{where}.role must be one of {', '.join(_ROLES)}", "messages")
    for name in ("tool_calls", "function_call", "audio"):
        if message.get(name):
            raise RequestError(f"{where}.{name} is not supported", "messages")
    parts = content if isinstance(content, list) else [{"type": "text", "text": "" if content is None else content}]
    texts = []
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, dict) else _kind(part)
            raise RequestError(f"{where}.content holds a part of type {kind!r:.50}; only text is supported", "messages")
        if not isinstance(part.get("text"), str):
            raise RequestError(f"{where}.content must be a string or a list of text parts", "messages")
        texts.append(part["text"])
    return {
        "role": "system" if role == "developer" else role,
        "content": _check_text("".join(texts), where, "messages"),
    }
