import concurrent.futures
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from ecomgpt_jax.serving import app
from ecomgpt_jax.serving.protocol import read_job
from serving.scripted import (
    CONTEXT,
    TOKENIZER,
    VOCAB_SIZE,
    Running,
    ScriptedEngine,
    events,
    eventually,
    read_response,
    running,
)

TEXT = "one two three, four 牦牛👍好 </s>\u2028 end"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as made:
        yield made


def client_of(server: Running, retries: int = 0) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=retries, timeout=30)


@pytest.mark.parametrize("chat", [False, True])
def test_the_official_client_completes_streams_and_stops(server: Running, chat: bool) -> None:
    client = client_of(server)

    def create(**more: Any) -> Any:
        settings = {"model": "m", "max_tokens": 120, **more}
        if chat:
            return client.chat.completions.create(messages=[{"role": "user", "content": TEXT}], **settings)
        return client.completions.create(prompt=TEXT, **settings)

    def text_of(choice: Any) -> str:
        return choice.message.content if chat else choice.text

    def delta_of(choice: Any) -> str:
        return (choice.delta.content or "") if chat else choice.text

    whole = create()
    asked = f"### Instruction:\n{TEXT}\n### Response:"
    assert text_of(whole.choices[0]).endswith(asked if chat else TEXT), "the script says the prompt"
    assert whole.choices[0].finish_reason == "stop"
    prompt_tokens = len(TOKENIZER.encode(text_of(whole.choices[0])))
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (prompt_tokens, prompt_tokens)

    parts = list(create(stream=True, stream_options={"include_usage": True}))
    assert [part.usage for part in parts[:-1]] == [None] * (len(parts) - 1)
    assert (parts[-1].choices, parts[-1].usage) == ([], whole.usage)
    deltas = [part.choices[0] for part in parts[:-1]]
    assert "".join(map(delta_of, deltas)) == text_of(whole.choices[0])
    assert [delta.finish_reason for delta in deltas] == [None] * (len(deltas) - 1) + ["stop"]
    assert delta_of(deltas[-1]) == ""
    if chat:
        assert [delta.delta.role for delta in deltas] == ["assistant"] + [None] * (len(deltas) - 1)

    stopped = create(stop=["four", " thr"])
    assert text_of(stopped.choices[0]).endswith("one two")
    assert stopped.choices[0].finish_reason == "stop"
    assert 0 < stopped.usage.completion_tokens < whole.usage.completion_tokens
    streamed = list(create(stop=["four", " thr"], stream=True))
    assert "".join(delta_of(part.choices[0]) for part in streamed) == text_of(stopped.choices[0])
    assert all(part.choices and part.usage is None for part in streamed), "no usage unless it is asked for"

    short = create(max_tokens=3)
    assert (short.usage.completion_tokens, short.choices[0].finish_reason) == (3, "length")


def test_models_health_metrics_and_the_default_lengths(server: Running) -> None:
    client = client_of(server)
    assert [model.id for model in client.models.list()] == [client.models.retrieve("m").id] == ["m"]
    with pytest.raises(openai.NotFoundError, match="'x/y' is not served"):
        client.models.retrieve("x/y")
    assert server.get("/health")[0] == 200
    prompt = [*range(10, 70)]
    found = client.completions.create(model="m", prompt=prompt)
    assert (found.usage.completion_tokens, found.choices[0].finish_reason) == (16, "length")
    found = client.completions.create(model="m", prompt=[7] * (CONTEXT - 3))
    assert found.usage.completion_tokens == 3, "what the context leaves"
    assert len(client.chat.completions.create(model="m", messages=[{"role": "user", "content": "a b"}]).id) > 9


def test_metrics_have_fixed_names_and_series(server: Running) -> None:
    def series() -> set[str]:
        lines = server.get("/metrics")[2].splitlines()
        return {line.rpartition(" ")[0] for line in lines if line[0] != "#"}

    body = {"prompt": "a", "max_tokens": 1}
    server.post("/v1/completions", body)
    server.post("/v1/completions", {**body, "model": "none"})
    server.get("/nowhere/0")
    series()  # the page counts itself
    before = series()
    for number in range(40):
        assert server.post("/v1/completions", {**body, "model": f"none{number}"})[0] == 404
        assert server.get(f"/nowhere/{number}")[0] == 404
    assert series() == before
    assert 'ecomgpt_requests_total{route="/v1/completions",status="200"}' in before
    assert "ecomgpt_completion_tokens_total" in before


def test_several_prompts_answer_by_index(server: Running) -> None:
    prompts = ["a", "one two three four five six", "red dress, size M"]
    found = client_of(server).completions.create(model="m", prompt=prompts, max_tokens=50)
    assert [(choice.index, choice.text) for choice in found.choices] == list(enumerate(prompts))
    parts = list(client_of(server).completions.create(model="m", prompt=prompts, max_tokens=50, stream=True))
    for index, prompt in enumerate(prompts):
        own = [part.choices[0] for part in parts if part.choices[0].index == index]
        assert "".join(choice.text for choice in own) == prompt
        assert own[-1].finish_reason == "stop"


def test_log_probabilities_in_both_forms_and_both_modes(server: Running) -> None:
    client = client_of(server)
    whole = client.completions.create(model="m", prompt="好👍 a", logprobs=2, max_tokens=50)
    told, tokens = whole.choices[0].logprobs, whole.usage.completion_tokens
    assert len(told.tokens) == len(told.token_logprobs) == len(told.text_offset) == tokens > 4
    assert told.token_logprobs == [-0.5] * tokens
    assert list(map(len, told.top_logprobs)) == [2] * tokens
    assert "bytes:\\xf0\\x9f" in told.tokens, "the first token of an emoji is no text"
    parts = [part.choices[0].logprobs for part in client.completions.create(
        model="m", prompt="好👍 a", logprobs=2, max_tokens=50, stream=True)]  # fmt: skip
    assert [token for part in parts if part for token in part.tokens] == told.tokens
    assert [offset for part in parts if part for offset in part.text_offset] == told.text_offset
    message = [{"role": "user", "content": "👍"}]
    chat = client.chat.completions.create(model="m", messages=message, logprobs=True, top_logprobs=1)
    content = chat.choices[0].logprobs.content
    assert len(content) == chat.usage.completion_tokens
    assert bytes(byte for token in content for byte in token.bytes).decode() == chat.choices[0].message.content
    assert {len(token.top_logprobs) for token in content} == {1}
    assert client.completions.create(model="m", prompt="a", logprobs=0).choices[0].logprobs.top_logprobs is None


GOOD = {"model": "m", "prompt": "a", "max_tokens": 2}
TALK = [{"role": "user", "content": "a"}]


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "words"),
    [
        ("completions", b"{", 400, None, "line 1, column 2"),
        ("completions", b"\xff", 400, None, "UTF-8"),
        ("completions", b"[" * 20_000, 400, None, "nested too deeply"),
        ("completions", b'{"prompt": "a", "temperature": NaN}', 400, None, "NaN is not JSON"),
        ("completions", b'{"prompt": "a", "temperature": 1e999}', 400, None, "1e999"),
        ("completions", b'["a"]', 400, None, "must be a JSON object, not a list"),
        ("completions", {**GOOD, "max_tokens": 10**9}, 400, "max_tokens", f"{CONTEXT} tokens.* 1000000000"),
        ("completions", {**GOOD, "max_tokens": 10**40}, 400, "max_tokens", "whole number"),
        ("completions", {**GOOD, "max_tokens": 0}, 400, "max_tokens", "from 1"),
        ("completions", {**GOOD, "prompt": [5] * CONTEXT}, 400, "prompt", f"{CONTEXT} tokens, and the prompt has"),
        ("completions", {**GOOD, "prompt": ["a"] * 9}, 400, "prompt", "9 prompts in one request; at most 8"),
        ("completions", {**GOOD, "prompt": [5, VOCAB_SIZE]}, 400, "prompt", f"0 to {VOCAB_SIZE - 1}"),
        ("completions", {**GOOD, "n": 2, "stream": True}, 400, "n", "n is not supported"),
        ("completions", {**GOOD, "echo": True}, 400, "echo", "echo is not supported"),
        ("completions", {**GOOD, "model": "gpt"}, 404, "model", "'gpt' is not served"),
        ("completions", {"model": "m"}, 400, "prompt", "prompt must be"),
        ("chat/completions", {"model": "m"}, 400, "messages", "at least one"),
        ("chat/completions", {"messages": TALK * 2}, 400, "messages", "should be 'assistant'"),
        ("chat/completions", {"messages": TALK, "tools": [{}]}, 400, "tools", "not supported"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_by_name(
    server: Running, path: str, body: Any, status: int, param: str | None, words: str
) -> None:
    admitted = server.engine.admitted
    found, answer = server.post(f"/v1/{path}", body)
    assert (found, answer["error"]["param"]) == (status, param)
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert re.search(words, answer["error"]["message"]), answer
    assert server.engine.admitted == admitted, "refused before the engine"
    assert "NaN" not in json.dumps(answer, allow_nan=False).replace("NaN is not", "")


def test_the_rest_of_the_errors_have_the_same_shape(server: Running) -> None:
    for path, status in (("/v1/nothing", 404), ("/v1/completions", 405), ("/v1/models/other", 404)):
        found, _, body = server.get(path)
        assert (found, set(json.loads(body)["error"])) == (status, {"message", "type", "param", "code"})


def test_null_is_absent_and_unknown_fields_are_ignored(server: Running) -> None:
    nulls = dict.fromkeys(("max_tokens", "temperature", "top_p", "seed", "stop", "stream", "stream_options", "n",
                           "logprobs", "echo", "best_of", "user", "model", "logit_bias"))  # fmt: skip
    plain = server.post("/v1/completions", {"prompt": "red"})[1]
    found = server.post("/v1/completions", {"prompt": "red", **nulls, "no_such_field": {"a": [1]}})[1]
    assert [answer["choices"] for answer in (plain, found)] == [plain["choices"]] * 2


def test_a_stream_is_ascii_lines_and_says_that_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "SILENCE", 0.05)
    engine = ScriptedEngine()
    with running(engine) as server, server.connect() as client:
        engine.gate.clear()
        body = json.dumps({"prompt": "a\u2028b\x85c", "stream": True}).encode()
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                       b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))  # fmt: skip
        first = client.recv(4096)
        assert first.startswith(b"HTTP/1.1 200"), "headers leave before the first token"
        seen = first
        while b": waiting\n\n" not in seen:
            seen += client.recv(4096)
        assert b"text/event-stream" in seen
        assert b"no-cache" in seen
        engine.gate.set()
        while b"[DONE]" not in seen:
            seen += client.recv(4096)
    text = seen.decode("ascii")
    found = events("\n\n".join(re.findall(r"data: .*", text)))
    assert "".join(event["choices"][0]["text"] for event in found[:-1]) == "a\u2028b\x85c"


@pytest.mark.parametrize("where", ["admit", "step"])
def test_an_engine_that_fails_ends_what_runs_and_serves_the_next(where: str) -> None:
    engine = ScriptedEngine()
    with running(engine) as server:
        client = client_of(server)
        engine.broken = where
        with pytest.raises(openai.APIError, match="broken on purpose"):
            list(client.completions.create(model="m", prompt="one two three", stream=True))
        engine.broken = where
        status, answer = server.post("/v1/completions", {"prompt": "one two three"})
        assert (status, answer["error"]["type"]) == (500, "server_error")
        engine.broken = where
        text = server.post("/v1/completions", {"prompt": "one two three", "stream": True})[1]
        assert "error" in events(text)[-1], "no end mark, which would mean success"
        assert "[DONE]" not in text
        assert client.completions.create(model="m", prompt="one two").choices[0].text == "one two"
        assert sorted(engine.free) == [0, 1, 2, 3]


def test_a_full_queue_is_429_and_the_client_gets_through_later() -> None:
    engine = ScriptedEngine()
    with running(engine, capacity=2) as server, concurrent.futures.ThreadPoolExecutor(8) as pool:
        engine.gate.clear()
        body = {"prompt": "one two three", "max_tokens": 9}
        first = []
        for count in range(1, 5):
            first.append(pool.submit(server.post, "/v1/completions", body))
            assert eventually(lambda count=count: len(server.scheduler.running) == count)
        first += [pool.submit(server.post, "/v1/completions", body) for _ in range(2)]
        assert eventually(lambda: len(server.scheduler.waiting) == 2)
        content = json.dumps(body).encode()
        status, headers, answer = server.raw(
            b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(content), content)
        )
        assert (status, headers["retry-after"]) == (429, "1")
        assert json.loads(answer)["error"]["type"] == "rate_limit_error"
        later = pool.submit(client_of(server, retries=5).completions.create, model="m", **body)
        assert eventually(lambda: 'status="429"} 2.0' in server.get("/metrics")[2])
        assert server.get("/health")[0] == 200
        engine.gate.set()
        assert later.result().choices[0].text == "one two three"
        assert [future.result()[0] for future in first] == [200] * 6


def test_a_request_that_takes_too_long_is_ended() -> None:
    engine = ScriptedEngine()
    with running(engine, bounds=app.Bounds(request_seconds=0.2)) as server:
        engine.gate.clear()
        status, answer = server.post("/v1/completions", {"prompt": "a b c"})
        assert (status, answer["error"]["code"]) == (503, "timeout")
        engine.gate.set()
        assert eventually(lambda: len(engine.free) == 4)


@pytest.mark.parametrize("stream", [False, True])
def test_clients_that_leave_free_their_slots_and_places(stream: bool) -> None:
    engine = ScriptedEngine(lambda request: [7] * 250, pause=0.2)  # 50 s to the end, more than is waited for
    with running(engine, capacity=8) as server:
        body = json.dumps({"prompt": "a", "max_tokens": 250, "stream": stream}).encode()
        clients = [server.connect() for _ in range(8)]
        for client in clients:
            client.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                           b"content-length: %d\r\n\r\n%b" % (len(body), body))  # fmt: skip
        assert eventually(lambda: len(server.scheduler.running) == 4 and len(server.scheduler.waiting) == 4)
        if stream:
            assert clients[0].recv(100).startswith(b"HTTP/1.1 200")
        for client in clients:
            client.close()
        assert eventually(lambda: server.service.state.in_flight == 0)
        steps = engine.steps
        assert eventually(lambda: len(engine.free) == 4 and not server.scheduler.waiting)
        assert engine.steps - steps <= 5
        told = server.get("/metrics")[2]
        assert "ecomgpt_disconnected_clients_total 8.0" in told
        assert re.search(r"ecomgpt_running_prompts 0.0\n", told)
        tokens = re.search(r"\necomgpt_completion_tokens_total (\S+)", told)[1]
        time.sleep(2 * engine.pause)
        assert f"ecomgpt_completion_tokens_total {tokens}\n" in server.get("/metrics")[2], "nothing goes on"


@pytest.mark.parametrize("length", [True, False], ids=["with its length", "in chunks"])
def test_a_body_of_five_megabytes_is_413(server: Running, length: bool) -> None:
    content = json.dumps({"prompt": "a" * 5_000_000}).encode()
    size = b"content-length: %d" % len(content) if length else b"transfer-encoding: chunked"
    sent = content if length else b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
    status, headers, answer = server.raw(
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        + size
        + b"\r\n\r\n"
        + sent
    )
    assert (status, headers["connection"], json.loads(answer)["error"]["code"]) == (413, "close", "body_too_large")


def test_a_body_that_does_not_arrive_is_408() -> None:
    with running(bounds=app.Bounds(body_seconds=0.2)) as server, server.connect() as client:
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                       b"content-length: 1000\r\n\r\n{")  # fmt: skip
        status, headers, answer = read_response(client)
    assert (status, headers["connection"]) == (408, "close")
    assert "0.2 seconds" in json.loads(answer)["error"]["message"]


def test_health_answers_while_a_prompt_is_encoded_and_a_step_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, begun, answered, waited = ScriptedEngine(), threading.Event(), threading.Event(), []
    with running(engine) as server, concurrent.futures.ThreadPoolExecutor() as pool:
        encode = server.service.encode

        def slow(job: Any) -> Any:
            begun.set()
            waited.append(answered.wait(20))
            return encode(job)

        engine.gate.clear()
        first = pool.submit(server.post, "/v1/completions", {"prompt": "a b c"})
        assert eventually(lambda: len(server.scheduler.running) == 1)
        monkeypatch.setattr(server.service, "encode", slow)
        second = pool.submit(server.post, "/v1/completions", {"prompt": "red dress " * 90_000})
        assert begun.wait(20)
        assert server.get("/health")[0] == 200
        answered.set()
        assert not first.done()
        engine.gate.set()
        assert (first.result()[0], second.result()[0]) == (200, 400)
        assert waited == [True], "the event loop was free"


def test_idle_connections_hold_nothing_up(server: Running) -> None:
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(64)]
    assert server.get("/health")[0] == 200
    assert server.post("/v1/completions", GOOD)[0] == 200
    for connection in idle:
        connection.close()


def test_repeated_prompts_of_one_request_are_drawn_apart(server: Running) -> None:
    """The first has the seed of the request, as if it came alone."""

    def seeds(**more: Any) -> list[int]:
        body = json.dumps({"prompt": ["red", "red", "mug"], "temperature": 1, **more}).encode()
        job = read_job(body, chat=False, model="m", vocab_size=VOCAB_SIZE)
        return [request.seed for request in server.service.encode(job)]

    assert seeds(seed=5) == [5, 6, 7]
    assert seeds(seed=2**64 - 1) == [2**64 - 1, 0, 1]
    assert len({*seeds(), *seeds()}) == 6
