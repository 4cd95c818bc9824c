"""Middleware before the routes: access checks, counters, and the form of errors."""

import contextlib
import functools
import ipaddress
from collections.abc import Sequence
from typing import Any

import prometheus_client as prometheus
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ecomgpt_jax.serving.protocol import RequestError

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class State:
    """The server's record of its requests.

    Attributes:
      draining: no new request is accepted.
      in_flight: accepted requests with a body that are not answered yet.
      registry: of the metrics.
    """

    def __init__(self) -> None:
        self.draining, self.in_flight = False, 0
        self.registry = prometheus.CollectorRegistry()
        make = functools.partial(prometheus.Counter, registry=self.registry)
        self.requests = make("ecomgpt_requests", "Requests answered", ["route", "status"])
        self.disconnected = make("ecomgpt_disconnected_clients", "Clients that left before their answer was complete")
        self.prompt_tokens = make("ecomgpt_prompt_tokens", "Tokens of accepted prompts")
        self.completion_tokens = make("ecomgpt_completion_tokens", "Tokens of answers")
        self.seconds = prometheus.Histogram(
            "ecomgpt_request_seconds", "Time to the last token", registry=self.registry,
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
        )  # fmt: skip


def error_body(error: RequestError) -> dict[str, Any]:
    """Returns an error in OpenAI's shape."""
    kinds = {429: "rate_limit_error", 404: "not_found_error", 403: "permission_error"}
    kind = kinds.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}


def refuse(request: Request | None, error: Exception) -> Response:
    """Returns the response to a failed request; an exception handler of Starlette."""
    headers: dict[str, str] = {}
    if isinstance(error, HTTPException):  # of the router: unknown path or method
        headers, error = dict(error.headers or {}), RequestError(error.detail, status=error.status_code)
    elif not isinstance(error, RequestError):
        error = RequestError("internal error; see the server's log", status=500)
    if error.status in (408, 413):
        headers["connection"] = "close"
    if error.status in (429, 503):
        headers["retry-after"] = "1"
    return JSONResponse(error_body(error), error.status, headers)


class Guard:
    """Plain ASGI middleware: counts requests, and refuses pages of other sites and all requests while draining."""

    def __init__(self, app: ASGIApp, state: State, hosts: Sequence[str]) -> None:
        self._app, self._state = app, state
        self._hosts = {*_LOOPBACK, *(host.lower() for host in hosts)}
        self._any_address = not self._hosts.isdisjoint({"0.0.0.0", "::"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        state, status = self._state, 0

        async def counting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        counts = scope["method"] == "POST"
        state.in_flight += counts
        try:
            error = self._fault(scope)
            await (self._app if error is None else refuse(None, error))(scope, receive, counting)
        except ClientDisconnect:
            status = 0
            state.disconnected.inc()
        finally:
            state.in_flight -= counts
            route = getattr(scope.get("route"), "path", "other")
            state.requests.labels(route, str(status) if status else "left").inc()

    def _fault(self, scope: Scope) -> RequestError | None:
        headers = dict(scope["headers"])
        host, origin = (headers.get(name, b"").decode("latin-1") for name in (b"host", b"origin"))
        if host and not self._known(host):
            return RequestError(f"the host {host!r:.100} is not served here; see --allowed_hosts", status=403)
        if origin and not self._known(origin.partition("://")[2]):
            return RequestError(f"pages of {origin!r:.100} may not use this server", status=403)
        if self._state.draining:
            return RequestError("the server is shutting down; try another", status=503, code="draining")
        kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
        if scope["method"] == "POST" and kind != "application/json":
            return RequestError("the content type must be application/json", status=415)
        return None

    def _known(self, netloc: str) -> bool:
        name = netloc.partition("]")[0][1:] if netloc.startswith("[") else netloc.partition(":")[0]
        if name.lower() in self._hosts:
            return True
        with contextlib.suppress(ValueError):  # names of other sites may resolve to this host, addresses cannot
            return self._any_address and bool(ipaddress.ip_address(name))
        return False
