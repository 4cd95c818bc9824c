"""Runs the application on a socket, with deadlines for requests and an orderly shutdown."""

import asyncio
import contextlib
import json
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.serving.guard import State, error_body
from ecomgpt_jax.serving.protocol import RequestError
from ecomgpt_jax.serving.scheduler import Scheduler

IDLE_SECONDS = 75  # idle time of a connection, longer than clients' pools keep it
RECEIVE_SECONDS = 20.0  # deadline for a request's headers, and for a body that is not read

log = logging.getLogger(__name__)


class _Protocol(H11Protocol):
    """HTTP/1.1 with a deadline for requests that arrive slowly, and refusals in OpenAI's shape."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        state = self.conn.their_state
        arriving = state is h11.SEND_BODY or (state is h11.IDLE and self.conn.trailing_data[0])
        if arriving and self._deadline is None:
            self._deadline = self.loop.call_later(RECEIVE_SECONDS, self._too_slow)
        elif not arriving:
            self._clear()

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear()
        super().connection_lost(exc)

    def _clear(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:  # reading the body has another deadline
            self._deadline = self.loop.call_later(1.0, self._too_slow)
        elif self.conn.their_state is h11.IDLE:
            self._answer(408, f"the headers did not arrive within {RECEIVE_SECONDS:g} seconds")
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Responds to data that is not HTTP."""
        self._answer(400, msg)

    def _answer(self, status: int, message: str) -> None:
        body = json.dumps(error_body(RequestError(message, status=status))).encode()
        size = str(len(body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", size), (b"connection", b"close")]
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Does not handle signals; `serve` does."""
        yield


def bind(host: str, port: int) -> socket.socket:
    """Returns a listening socket; port 0 takes a free one.

    Raises:
      ConfigError: the socket cannot be opened.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--host={host} --port={port}: {error}; choose others") from None


async def serve(
    app: ASGIApp,
    state: State,
    scheduler: Scheduler,
    listening: socket.socket,
    drain_seconds: float,
    ready: Callable[[], None],
    stops: asyncio.Queue[int],
) -> None:
    """Serves until a number arrives in `stops`; then refuses new requests and lets running ones finish.

    Args:
      app: from `make_app`.
      state: of the same service.
      scheduler: of the same service; it is started and stopped here.
      listening: from `bind`.
      drain_seconds: time after which running requests end with an error; a second item in `stops` ends them at once.
      ready: called when the server listens.
      stops: queue of signal numbers.
    """
    config = uvicorn.Config(
        app, http=_Protocol, loop="asyncio", ws="none", lifespan="off", log_config=None, access_log=False,
        server_header=False, timeout_keep_alive=IDLE_SECONDS, timeout_graceful_shutdown=2,
    )  # fmt: skip
    server = _Server(config)
    scheduler.start(asyncio.get_running_loop())
    serving = asyncio.ensure_future(server.serve(sockets=[listening]))
    while not (server.started or serving.done()):
        await asyncio.sleep(0.01)
    ready()
    await stops.get()
    state.draining, end = True, time.monotonic() + drain_seconds
    log.warning("stopping: %d requests may finish within %g seconds", state.in_flight, drain_seconds)
    while state.in_flight and stops.empty() and time.monotonic() < end:
        await asyncio.sleep(0.02)
    await asyncio.to_thread(scheduler.stop)
    end = time.monotonic() + 2
    while state.in_flight and time.monotonic() < end:
        await asyncio.sleep(0.02)
    server.should_exit = True
    await serving


def run(
    app: ASGIApp,
    state: State,
    scheduler: Scheduler,
    listening: socket.socket,
    drain_seconds: float,
    ready: Callable[[], None],
) -> None:
    """Serves until SIGTERM or SIGINT; see `serve`."""

    async def until_signal() -> None:
        stops: asyncio.Queue[int] = asyncio.Queue()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stops.put_nowait, number)
        await serve(app, state, scheduler, listening, drain_seconds, ready, stops)

    asyncio.run(until_signal())
