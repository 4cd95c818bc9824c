import asyncio
import concurrent.futures
import json
import os
import select
import signal
import socket
import threading
import time

import httpx2
import pytest

from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.serving import server
from serving.scripted import ScriptedEngine, events, eventually, read_response, running

HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
STREAM = {"prompt": [7] * 60, "max_tokens": 70, "stream": True}


def test_draining_lets_streams_finish_and_takes_nothing_new() -> None:
    engine = ScriptedEngine(pause=0.01)
    with running(engine) as made, concurrent.futures.ThreadPoolExecutor(8) as pool:
        kept = made.connect()  # opened before, used after
        streams = [pool.submit(made.post, "/v1/completions", STREAM) for _ in range(4)]
        assert eventually(lambda: len(made.scheduler.running) == 4)
        made.stop()
        assert eventually(lambda: made.service.state.draining)
        kept.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        status, headers, body = read_response(kept)
        assert (status, headers["retry-after"], json.loads(body)["error"]["code"]) == (503, "1", "draining")
        assert made.join()
        for stream in streams:
            status, text = stream.result()
            found = events(text)
            assert (status, found[-1], found[-2]["choices"][0]["finish_reason"]) == (200, "[DONE]", "stop")
            assert len(found) == 62, "60 tokens, the reason, the end mark"
    with pytest.raises(OSError, match="refused"):
        made.connect()


@pytest.mark.parametrize("twice", [False, True], ids=["time over", "second signal"])
def test_what_does_not_finish_in_time_ends_with_an_error(twice: bool) -> None:
    engine = ScriptedEngine()
    with running(engine, drain=30 if twice else 0.2) as made, concurrent.futures.ThreadPoolExecutor(8) as pool:
        engine.gate.clear()
        stream = pool.submit(made.post, "/v1/completions", STREAM)
        whole = pool.submit(made.post, "/v1/completions", {**STREAM, "stream": False})
        assert eventually(lambda: len(made.scheduler.running) == 2)
        made.stop()
        if twice:
            made.stop()
        assert made.join()
        found = events(stream.result()[1])
        assert found[-1]["error"]["message"] == "the server stops"
        assert (whole.result()[0], whole.result()[1]["error"]["code"]) == (503, "engine_error")


def test_headers_that_arrive_slowly_are_408_and_bytes_after_an_answer_do_not_hold_a_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "RECEIVE_SECONDS", 0.3)
    with running() as made:
        slow, endless = made.connect(), made.connect()
        endless.sendall(b"POST /nowhere HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                        b"content-length: 100000\r\n\r\n")  # fmt: skip
        assert endless.recv(4096).startswith(b"HTTP/1.1 404")
        for byte in b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-padding: " + b"a" * 200:
            try:
                slow.send(bytes([byte]))
                endless.send(b" ")
            except OSError:
                break
            if select.select([slow], [], [], 0)[0]:
                break
            time.sleep(0.02)
        status, headers, body = read_response(slow)
        assert (status, headers["connection"]) == (408, "close")
        assert "headers did not arrive" in json.loads(body)["error"]["message"]
        assert eventually(lambda: _closed(endless), 10)
        assert made.get("/health")[0] == 200


def _closed(client: socket.socket) -> bool:
    """Sends one more byte; returns whether the server has closed the connection."""
    try:
        client.sendall(b" ")
    except OSError:
        return True
    return False


@pytest.mark.parametrize(
    "content",
    [
        b"no http at all\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 100_000,
        HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\n{}",
    ],
    ids=lambda content: repr(content[:20]),
)
def test_what_is_no_http_is_refused_in_the_same_shape(content: bytes) -> None:
    with running() as made:
        with made.connect() as client:
            client.sendall(content)
            client.settimeout(5)
            status, _, body = read_response(client)
        assert 400 <= status < 500
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
        assert made.get("/health")[0] == 200


def test_kept_connections_outlive_the_pools_of_clients() -> None:
    assert server.IDLE_SECONDS > 60
    with running() as made, httpx2.Client(base_url=made.url) as client:
        for _ in range(20):
            assert client.get("/health").status_code == 200
            assert client.post("/v1/completions", json={"prompt": "a"}).status_code == 200
            assert client.post("/v1/completions", json={"prompt": 5}).status_code == 400


def test_a_port_in_use_is_an_error() -> None:
    with server.bind("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port={port}: .*in use"):
            server.bind("127.0.0.1", port)
    with pytest.raises(ConfigError, match="no-such-host"):
        server.bind("no-such-host.invalid", 0)


def test_signals_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`run` needs the main thread; the command's own test sends the signal."""
    seen = []

    async def serve(*arguments: object) -> None:
        seen.append(await asyncio.wait_for(arguments[-1].get(), 5))

    monkeypatch.setattr(server, "serve", serve)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    server.run(*[None] * 6)  # pyright: ignore
    assert seen == [signal.SIGINT]
