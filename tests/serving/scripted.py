"""A server in this process whose engine says what a script tells it to, so that no model is needed."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ecomgpt_jax.data.tokenizer import Tokenizer, load_tokenizer
from ecomgpt_jax.decoding.continuous import ENDED, Request, Token
from ecomgpt_jax.serving import app, chat, scheduler, server

TOKENIZER = load_tokenizer(Path(__file__).parents[2] / "configs" / "nano")
VOCAB_SIZE, CONTEXT, SLOTS = 16384, 256, 4
Script = Callable[[Request], Sequence[int]]


def echo(request: Request) -> list[int]:
    """The answer is the prompt."""
    return list(request.prompt)


class ScriptedEngine:
    """A token a step from each slot; `gate` holds steps back, `broken` makes the next one fail."""

    context = CONTEXT

    def __init__(self, script: Script = echo, pause: float = 0.0) -> None:
        self.script, self.pause, self.broken, self.admitted, self.steps = script, pause, "", 0, 0
        self.gate = threading.Event()
        self.gate.set()
        self.reset()

    def reset(self) -> None:
        self.free, self._left = list(range(SLOTS)), {}

    def admit(self, requests: Sequence[Request]) -> list[Token]:
        if self.broken == "admit":
            self.broken = ""
            raise ValueError("broken on purpose")
        said = []
        for request in requests:
            slot = self.free.pop()
            self.admitted += 1
            self._left[slot] = (request, iter([*self.script(request), ENDED]), request.max_new_tokens)
            said.append(self._next(slot))
        return said

    def step(self) -> list[Token]:
        if not self.gate.wait(0.02):
            return []
        time.sleep(self.pause)
        self.steps += 1
        if self.broken == "step":
            self.broken = ""
            raise ValueError("broken on purpose")
        return [self._next(slot) for slot in list(self._left)]

    def release(self, slot: int) -> None:
        if self._left.pop(slot, None) is not None:
            self.free.append(slot)

    def _next(self, slot: int) -> Token:
        request, rest, left = self._left[slot]
        index = next(rest)
        last = index < 0 or left == 1
        self._left[slot] = (request, rest, left - 1)
        if last:
            self.release(slot)
        told = (-0.5, ((index, -0.5), (5, -2.0))) if request.logprobs and index >= 0 else (0.0, ())
        return Token(slot, index, last, *told)


class Running:
    """A server that runs; `stop` is SIGTERM."""

    def __init__(
        self, engine: Any, tokenizer: Tokenizer = TOKENIZER, *, capacity: int = 8, drain: float = 5.0,
        bounds: app.Bounds | None = None, hosts: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.engine, self.scheduler = engine, scheduler.Scheduler(engine, capacity)
        render, _ = chat.load_chat(tokenizer)
        self.service = app.Service(
            self.scheduler, tokenizer, render, model="m", vocab_size=VOCAB_SIZE, bounds=bounds or app.Bounds()
        )
        listening, ready = server.bind("127.0.0.1", 0), threading.Event()
        self.port = listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

        async def serve() -> None:
            self._loop, self._stops = asyncio.get_running_loop(), asyncio.Queue()
            application = app.make_app(self.service, hosts)
            await server.serve(
                application, self.service.state, self.scheduler, listening, drain, ready.set, self._stops
            )

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        self._thread.start()
        assert ready.wait(30)

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._stops.put_nowait, 15)

    def join(self) -> bool:
        self._thread.join(30)
        return not self._thread.is_alive()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def raw(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Sends bytes and returns status, headers and body of what comes back until the server closes or is done."""
        with self.connect() as client:
            client.sendall(request)
            return read_response(client)

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = {"host": f"127.0.0.1:{self.port}", "content-type": "application/json", "connection": "close", **headers}
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
        status, _, answer = self.raw(
            f"POST {path} HTTP/1.1\r\n{head}content-length: {len(content)}\r\n\r\n".encode() + content
        )
        return status, json.loads(answer) if answer[:1] == b"{" else answer.decode()

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
        head = "".join(f"{name}: {value}\r\n" for name, value in {"host": "localhost", **headers}.items())
        status, fields, body = self.raw(f"GET {path} HTTP/1.1\r\n{head}connection: close\r\n\r\n".encode())
        return status, fields, body.decode()


def read_response(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    content = b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(65536):
            content += part
    head, _, body = content.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    if headers.get("transfer-encoding") == "chunked":
        whole = b""
        while body and (size := int(body.partition(b"\r\n")[0], 16)):
            start = body.index(b"\r\n") + 2
            whole, body = whole + body[start : start + size], body[start + size + 2 :]
        body = whole
    return int(status.split()[1]), headers, body


def events(text: str) -> list[Any]:
    """Returns the data of server-sent events, parsed; the end mark as it is."""
    lines = [part.removeprefix("data: ") for part in text.split("\n\n") if part.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


@contextlib.contextmanager
def running(engine: Any = None, **settings: Any) -> Iterator[Running]:
    made = Running(engine or ScriptedEngine(), **settings)
    try:
        yield made
    finally:
        made.engine.gate.set()
        made.stop()
        made.stop()
        assert made.join()
