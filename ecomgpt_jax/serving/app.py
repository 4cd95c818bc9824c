"""The server's application: routes, limits, and the handling of a request by the engine."""

import asyncio
import contextlib
import functools
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, NamedTuple

import prometheus_client as prometheus
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ecomgpt_jax.data.tokenizer import Tokenizer
from ecomgpt_jax.decoding import continuous
from ecomgpt_jax.errors import DataError
from ecomgpt_jax.serving import page
from ecomgpt_jax.serving.chat import Render
from ecomgpt_jax.serving.guard import Guard, State, error_body, refuse
from ecomgpt_jax.serving.protocol import Job, RequestError, read_job, read_object, unknown_model
from ecomgpt_jax.serving.responses import Answer, Piece, Writer
from ecomgpt_jax.serving.scheduler import EngineGone, QueueFull, Scheduler, Ticket

MAX_BODY = 2**20  # bytes
_READ_ON = 32 * 2**20  # bytes of a refused body that are read, so that the client can read the response
DEFAULT_TOKENS = 16  # of a completion; a chat may use the rest of the context
SILENCE = 5.0  # seconds without a token after which a stream sends a comment


class Bounds(NamedTuple):
    """Time limits of a request.

    Attributes:
      body_seconds: for its body to arrive.
      request_seconds: from its body to the end of its answers.
    """

    body_seconds: float = 20.0
    request_seconds: float = 600.0


class Service:
    """State shared by the routes."""

    def __init__(
        self, scheduler: Scheduler, tokenizer: Tokenizer, render: Render, *, model: str, vocab_size: int, bounds: Bounds
    ) -> None:
        self.scheduler, self.tokenizer, self.render, self.bounds = scheduler, tokenizer, render, bounds
        self.model, self.vocab_size, self.started = model, vocab_size, int(time.time())
        self.state = State()
        for name, text, read in (
            ("ecomgpt_running_prompts", "Prompts that have a slot", lambda: len(scheduler.running)),
            ("ecomgpt_waiting_prompts", "Prompts that wait for a slot", lambda: len(scheduler.waiting)),
            ("ecomgpt_requests_in_flight", "Requests accepted and not answered yet", lambda: self.state.in_flight),
        ):
            prometheus.Gauge(name, text, registry=self.state.registry).set_function(read)

    def encode(self, job: Job) -> list[continuous.Request]:
        """Returns the engine's request for each prompt of a job.

        Raises:
          RequestError: a prompt and its answer are longer than the context, or the layout has no form for the messages.
        """
        texts = [prompt for prompt in job.prompts if isinstance(prompt, str)]
        encoded = iter(self.tokenizer.encode_prompts(texts))
        try:
            prompts = [
                self.render(prompt, job.variables) if job.chat else next(encoded) if isinstance(prompt, str) else prompt
                for prompt in job.prompts
            ]
        except DataError as error:
            raise RequestError(str(error), "messages") from None
        context, param, found = self.scheduler.engine.context, "messages" if job.chat else "prompt", []
        for number, prompt in enumerate(prompts):  # a seed per answer, or repeated prompts would have equal answers
            seed = secrets.randbits(64) if job.seed is None else (job.seed + number) % 2**64
            left = context - len(prompt)
            tokens = job.max_tokens or (left if job.chat else min(DEFAULT_TOKENS, left))
            if not prompt:
                raise RequestError("the prompt has no tokens: there is nothing to continue", param)
            if left < 1 or tokens > left:
                reason = f"the prompt has {len(prompt)} tokens"
                reason += f" and max_tokens is {tokens}" if job.max_tokens and left > 0 else ""
                problem = f"this model's context is {context} tokens, and {reason}"
                raise RequestError(problem, "max_tokens" if left > 0 else param, code="context_length_exceeded")
            found.append(
                continuous.Request(prompt, tokens, job.temperature, job.top_p, seed, job.alternatives is not None)
            )
        if len(found) > self.scheduler.capacity:
            raise RequestError(f"{len(found)} prompts in one request; at most {self.scheduler.capacity}", "prompt")
        return found

    async def answer(self, request: Request, *, chat: bool) -> Response | None:
        """Answers a request for completions."""
        body = await _body(request, self.bounds.body_seconds)
        job = read_job(body, chat=chat, model=self.model, vocab_size=self.vocab_size)
        asked = await asyncio.to_thread(self.encode, job)
        running = _Running(self, job, asked)
        if job.stream:
            return running
        pieces: list[list[Piece]] = [[] for _ in asked]

        async def collect() -> None:
            async for piece in running.pieces():
                if piece is not None:
                    pieces[piece.index].append(piece)

        with running:
            await _unless_gone(request.receive, collect())
        return JSONResponse(running.writer.whole(pieces, running.usage()))


class _Running(Response):
    """The answers of one job, from the queue to the last token; as a response, a stream of server-sent events."""

    def __init__(self, service: Service, job: Job, asked: Sequence[continuous.Request]) -> None:
        self._service, self._asked = service, asked
        self.writer = Writer(job, service.model, service.tokenizer)
        self._answers = [Answer(index, service.tokenizer, job) for index in range(len(asked))]
        self._queue: asyncio.Queue[tuple[int, continuous.Token | Exception]] = asyncio.Queue()
        self._start = time.monotonic()
        puts = [functools.partial(self._put, index) for index in range(len(asked))]
        try:
            self._tickets: list[Ticket] = service.scheduler.submit(list(zip(asked, puts, strict=True)))
        except QueueFull:
            raise RequestError("too many waiting prompts; try again later", status=429, code="queue_full") from None
        except EngineGone as error:
            raise RequestError(str(error), status=503, code="engine_error") from None
        service.state.prompt_tokens.inc(sum(len(each.prompt) for each in asked))

    def _put(self, index: int, token: continuous.Token | Exception) -> None:
        self._queue.put_nowait((index, token))

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        for ticket in self._tickets:
            self._service.scheduler.cancel(ticket)

    def usage(self) -> dict[str, int]:
        """Returns the number of tokens so far, with OpenAI's names."""
        prompt, completion = sum(len(each.prompt) for each in self._asked), sum(each.count for each in self._answers)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    async def pieces(self) -> AsyncIterator[Piece | None]:
        """Yields pieces as they arrive, and None after each `SILENCE`.

        Raises:
          RequestError: the engine failed, or the time limit has passed.
        """
        end = self._start + self._service.bounds.request_seconds
        while not all(answer.finish for answer in self._answers):
            left = end - time.monotonic()
            if left <= 0:
                limit = self._service.bounds.request_seconds
                raise RequestError(f"no complete answer within {limit:g} seconds", status=503, code="timeout")
            try:
                index, token = await asyncio.wait_for(self._queue.get(), min(SILENCE, left))
            except TimeoutError:
                yield None
                continue
            if isinstance(token, Exception):
                status = 503 if isinstance(token, EngineGone) else 500
                raise RequestError(str(token) or type(token).__name__, status=status, code="engine_error") from token
            answer = self._answers[index]
            if answer.finish:
                continue
            if token.id != continuous.ENDED:
                self._service.state.completion_tokens.inc()
            if (piece := answer.push(token)) is not None:
                if piece.finish:
                    self._service.scheduler.cancel(self._tickets[index])
                yield piece
        self._service.state.seconds.observe(time.monotonic() - self._start)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the stream; slots are released however it ends."""
        with self:
            try:
                await _unless_gone(receive, self._send(send))
            except TimeoutError:
                raise ClientDisconnect from None

    async def _send(self, send: Send) -> None:
        async def event(line: str, more: bool = True) -> None:
            async with asyncio.timeout(self._service.bounds.request_seconds):  # for a client that does not read
                await send({"type": "http.response.body", "body": f"{line}\n\n".encode(), "more_body": more})

        async def data(chunks: Sequence[dict[str, Any]]) -> None:
            for chunk in chunks:
                await event(f"data: {json.dumps(chunk)}")  # ASCII: clients may split lines at U+2028 and U+0085

        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",
        }
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        await data(self.writer.opening())
        try:
            async with contextlib.aclosing(self.pieces()) as pieces:
                async for piece in pieces:
                    await (event(": waiting") if piece is None else data(self.writer.chunks(piece)))
        except RequestError as error:
            await event(f"data: {json.dumps(error_body(error))}", more=False)  # the end marker would mean success
            return
        await data(self.writer.closing(self.usage()))
        await event("data: [DONE]", more=False)


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` to its end, or cancels it when the client disconnects.

    Raises:
      ClientDisconnect: the client disconnected.
    """

    async def leave() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(leave())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _body(request: Request, seconds: float) -> bytes:
    """Returns a request's body; limits the received bytes, independent of its headers.

    Raises:
      RequestError: it is too long (413) or too slow (408).
    """
    content, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= MAX_BODY:
                    content.append(chunk)
                if size > _READ_ON:
                    break
    except TimeoutError:
        raise RequestError(f"the body did not arrive within {seconds:g} seconds", status=408) from None
    if size > MAX_BODY:
        raise RequestError(f"the body has more than {MAX_BODY:,} bytes", status=413, code="body_too_large")
    return b"".join(content)


def make_app(service: Service, hosts: Sequence[str] = ()) -> ASGIApp:
    """Returns the application.

    Args:
      service: state of the routes.
      hosts: host names and addresses that requests may use, besides those of the loopback; 0.0.0.0 and :: mean any
        address.
    """
    described = {"id": service.model, "object": "model", "created": service.started, "owned_by": "ecomgpt_jax"}

    async def models(request: Request) -> Response:
        name = request.path_params.get("name", service.model)
        if name != service.model:
            raise unknown_model(name, service.model)
        return JSONResponse(described if "name" in request.path_params else {"object": "list", "data": [described]})

    async def health(request: Request) -> Response:
        if service.scheduler.failed:
            raise RequestError(service.scheduler.failed, status=503)
        return JSONResponse({"status": "ok"})

    async def metrics(request: Request) -> Response:
        return Response(prometheus.generate_latest(service.state.registry), media_type=prometheus.CONTENT_TYPE_LATEST)

    async def show(request: Request) -> Response:
        return HTMLResponse(page.page(service.model), headers={"content-security-policy": page.POLICY})

    async def prompt(request: Request) -> Response:
        return JSONResponse({"prompt": page.prompt(read_object(await _body(request, service.bounds.body_seconds)))})

    def answer(chat: bool) -> Callable[[Request], Coroutine[Any, Any, Response | None]]:
        async def endpoint(request: Request) -> Response | None:
            return await service.answer(request, chat=chat)

        return endpoint

    routes = [
        Route("/v1/completions", answer(False), methods=["POST"]),
        Route("/v1/chat/completions", answer(True), methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", models),
        Route("/health", health),
        Route("/metrics", metrics),
        Route("/prompt", prompt, methods=["POST"]),
        Route("/", show),
    ]
    app = Starlette(routes=routes, exception_handlers={RequestError: refuse, HTTPException: refuse, Exception: refuse})
    app.router.redirect_slashes = False
    return Guard(app, service.state, hosts)
