import concurrent.futures
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import openai
import pytest
from forked import Command
from xla_flags import fake_devices

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.data.tokenizer import load_tokenizer, train_tokenizer
from ecomgpt_jax.decoding.engine import generate_tokens
from ecomgpt_jax.instruct import own_data
from ecomgpt_jax.model.decoder import init_params
from ecomgpt_jax.model.hf_weights import load_hf, model_config_from_hf, save_hf

TEXTS = (
    "red cotton shirt, size M", "a phone case for {model}", "</s> is plain text here", "红色 连衣裙 夏季", "100% wool",
    "does it fit?", "the battery died after a week", "快递很快，质量不错", "a", "\ttabs and\nlines\u2028too",
)  # fmt: skip
CONTEXT, MAX_TOKENS = 192, 40
ENVIRONMENT = {**os.environ, "XLA_FLAGS": fake_devices(1)}


class Server(NamedTuple):
    process: subprocess.Popen
    port: int
    line: str
    checkpoint: Path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights that choose the end-of-sequence token now and then, wide enough that a step takes its time."""
    directory = tmp_path_factory.mktemp("serve") / "tiny"
    tokenizer = train_tokenizer(TEXTS * 5, 320, directory.parent / "tokenizer")
    model = ModelConfig(
        size="custom", embed=192, layers=2, heads=6, vocab_size=384, compute_dtype="float32", initializer_range=0.2
    )
    params = init_params(model, jax.random.key(2))
    params["final_norm"]["bias"] += 0.8 * params["embedding"]["table"][tokenizer.eos_id]
    save_hf(params, model, directory, tokenizer_dir=tokenizer.directory)
    return directory


def start(checkpoint: Path, *flags: str) -> Server:
    command = [
        sys.executable, "-m", "ecomgpt_jax.serve", f"--checkpoint={checkpoint}", "--port=0", f"--context={CONTEXT}",
        f"--cache_dir={checkpoint.parent}/cache", *flags,
    ]  # fmt: skip
    process = subprocess.Popen(
        command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if found := re.search(r"at http://127\.0\.0\.1:(\d+);", line):
            return Server(process, int(found[1]), line, checkpoint)
    raise AssertionError(lines + process.stderr.readlines())


def stop(server: Server) -> int:
    server.process.send_signal(signal.SIGTERM)
    stderr = server.process.communicate(timeout=120)[1]
    assert "Traceback" not in stderr, stderr
    return server.process.returncode


@pytest.fixture(scope="module")
def server(checkpoint: Path) -> Iterator[Server]:
    started = start(checkpoint)
    yield started
    assert stop(started) == 0


def expected(checkpoint: Path, texts: list[str]) -> list[str]:
    """What `generate` answers."""
    tokenizer, model = load_tokenizer(checkpoint), model_config_from_hf(checkpoint)
    found = generate_tokens(
        load_hf(checkpoint, model), model, tokenizer.encode_prompts(texts), max_new_tokens=MAX_TOKENS, batch=32,
        eos_ids=tokenizer.stop_ids, allowed_ids=tokenizer.ids,
    )  # fmt: skip
    return [tokenizer.decode(tokens) for tokens in found]


def ask(connection: http.client.HTTPConnection, **body: Any) -> dict[str, Any]:
    content = json.dumps({"max_tokens": MAX_TOKENS, **body})
    connection.request("POST", "/v1/completions", content, {"content-type": "application/json"})
    answer = connection.getresponse()
    value = json.loads(answer.read())
    assert answer.status == 200, value
    return value


def test_the_official_client_gets_what_generate_answers_whoever_else_asks(server: Server) -> None:
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0)
    assert f"context {CONTEXT}, 16 slots, chats by the released layout" in server.line
    assert [model.id for model in client.models.list()] == ["tiny"]

    def one(number: int) -> Any:
        warm = {"temperature": 1.3, "top_p": 0.9, "seed": number // 2} if number % 2 else {}
        return client.completions.create(
            model="tiny", prompt=TEXTS[number // 2], max_tokens=MAX_TOKENS, timeout=300, **warm
        )

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        found = list(pool.map(one, range(20)))
    cold, warm = found[::2], [one.choices[0].text for one in found[1::2]]
    assert [one.choices[0].text for one in cold] == expected(server.checkpoint, list(TEXTS))
    assert {one.choices[0].finish_reason for one in cold} == {"stop", "length"}
    assert [one(number).choices[0].text for number in range(1, 20, 2)] == warm, "a seed decides, alone or among others"

    streamed = client.completions.create(model="tiny", prompt=list(TEXTS[:3]), max_tokens=MAX_TOKENS, stream=True)
    texts = ["", "", ""]
    for chunk in streamed:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [one.choices[0].text for one in cold[:3]]

    message = [{"role": "user", "content": TEXTS[0]}]
    asked = own_data.prompt_of({"messages": message})
    chat = client.chat.completions.create(model="tiny", messages=message, max_tokens=MAX_TOKENS)
    assert [chat.choices[0].message.content] == expected(server.checkpoint, [asked])


@pytest.mark.slow
def test_64_clients_lose_nothing_and_are_served_five_times_faster_than_one(server: Server) -> None:
    texts = [f"{TEXTS[number % 10]} {number}" for number in range(640)]
    wanted = expected(server.checkpoint, texts)

    def client(number: int) -> list[str]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
        mine = texts[number * 10 : number * 10 + 10]
        return [ask(connection, prompt=text)["choices"][0]["text"] for text in mine]

    begin = time.monotonic()
    assert [*client(0), *client(1), *client(2), *client(3)] == wanted[:40]
    alone = 40 / (time.monotonic() - begin)
    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        found = [text for mine in pool.map(client, range(64)) for text in mine]
    together = 640 / (time.monotonic() - begin)
    print(f"one client {alone:.1f} requests/s, 64 clients {together:.1f} requests/s, ratio {together / alone:.1f}")
    assert found == wanted
    assert together >= 5 * alone


def test_sigterm_finishes_what_runs_and_ends_with_0(checkpoint: Path) -> None:
    server, ended = start(checkpoint), []

    def stream() -> None:
        body = json.dumps({"prompt": [9], "max_tokens": CONTEXT - 1, "temperature": 2, "stream": True}).encode()
        with socket.create_connection(("127.0.0.1", server.port), timeout=120) as client:
            client.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                           b"content-length: %d\r\n\r\n%b" % (len(body), body))  # fmt: skip
            content = client.recv(4096)
            started.release()
            while part := client.recv(65536):
                content += part
        ended.append(content)

    started = threading.Semaphore(0)
    threads = [threading.Thread(target=stream) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert started.acquire(timeout=120)
    assert stop(server) == 0
    for thread in threads:
        thread.join(60)
    assert [content.count(b"data: [DONE]") for content in ended] == [1] * 4
    assert not any(b'"error"' in content for content in ended)


@pytest.fixture(scope="module")
def command() -> Iterator[Command]:
    with Command("ecomgpt_jax.serve", ENVIRONMENT) as command:
        yield command


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        ((), 2, "--checkpoint is missing"),
        (("--checkpoint=nowhere",), 66, "nowhere"),
        (("--checkpoint=nowhere", "here"), 2, "unexpected argument 'here'"),
        (("--checkpoint=nowhere", "--port=70000"), 2, "--port=70000"),
        (("--checkpoint=nowhere", "--host=no-such-host.invalid"), 2, "--host=no-such-host.invalid"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(
    command: Command, flags: tuple[str, ...], code: int, words: str
) -> None:
    done = command("--port=0", *flags)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert done.stderr.strip().count("\n") == 0
