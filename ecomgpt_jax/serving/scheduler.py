"""Runs the engine in a thread: puts requests into slots and passes their tokens to the event loop."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from ecomgpt_jax.decoding.continuous import Request, Token
from ecomgpt_jax.errors import DataError

_AT_ONCE = 4  # prompts prefilled between two steps, so that running answers continue

log = logging.getLogger(__name__)


class Engine(Protocol):
    """The interface of `decoding.continuous.SlotBatch`; tests use a scripted one."""

    context: int
    free: list[int]

    def admit(self, requests: Sequence[Request]) -> list[Token]:
        """Prefills prompts into free slots and returns their first tokens, in order."""

    def step(self) -> list[Token]:
        """Returns the next tokens of all slots in use."""

    def release(self, slot: int) -> None:
        """Frees a slot."""

    def reset(self) -> None:
        """Empties all slots, also after an error."""


class QueueFull(Exception):
    """The queue of prompts is full."""


class EngineGone(Exception):
    """The engine's thread has ended."""


class Ticket:
    """A prompt that waits for a slot or has one; created by `Scheduler.submit`.

    Attributes:
      request: for the engine.
      deliver: called in the event loop with each token, or with the exception that ended the answer.
      done: no more tokens are delivered.
    """

    def __init__(self, request: Request, deliver: Callable[[Token | Exception], None]) -> None:
        self.request, self.deliver, self.done = request, deliver, False


class Scheduler:
    """Runs an engine.

    Attributes:
      capacity: maximum number of waiting prompts.
      waiting: prompts without a slot.
      running: {slot: its ticket}.
      failed: reason why the thread has ended; empty while it runs.
    """

    def __init__(self, engine: Engine, capacity: int) -> None:
        self.engine, self.capacity = engine, capacity
        self.waiting: deque[Ticket] = deque()
        self.running: dict[int, Ticket] = {}
        self.failed = ""
        self._changed, self._stopping = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts the thread; tokens are delivered in `loop`."""
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the current step and waits for it; remaining tickets get `EngineGone`."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def submit(self, requests: Sequence[tuple[Request, Callable[[Token | Exception], None]]]) -> list[Ticket]:
        """Queues prompts, all or none.

        Raises:
          QueueFull: the queue has too little room for all of them.
          EngineGone: the thread has ended.
        """
        with self._changed:
            if self.failed:
                raise EngineGone(self.failed)
            if len(self.waiting) + len(requests) > self.capacity:
                raise QueueFull
            tickets = [Ticket(request, deliver) for request, deliver in requests]
            self.waiting.extend(tickets)
            self._changed.notify()
        return tickets

    def cancel(self, ticket: Ticket) -> None:
        """Removes a prompt from the queue or its slot, which is free after the current step; may be called twice."""
        with self._changed:
            ticket.done = True
            if ticket in self.waiting:
                self.waiting.remove(ticket)
            self._changed.notify()

    def _run(self) -> None:
        try:
            while self._wait():
                tokens: list[tuple[Ticket, Token | Exception]] = []
                try:
                    self._turn(tokens)
                except Exception as error:  # the slots may be invalid too
                    log.exception("the engine failed; all slots are reset")
                    tokens += [(ticket, error) for ticket in self.running.values()]
                    self.running.clear()
                    self.engine.reset()
                finally:
                    self._loop.call_soon_threadsafe(_deliver, tokens)
            reason = "the server stops"
        except Exception:
            log.exception("the engine cannot continue")
            reason = "the engine has failed"
        with self._changed:
            self.failed, left = reason, [*self.running.values(), *self.waiting]
            self.running.clear()
            self.waiting.clear()
        self._loop.call_soon_threadsafe(_deliver, [(ticket, EngineGone(reason)) for ticket in left])

    def _wait(self) -> bool:
        with self._changed:
            while not (self._stopping or self.waiting or self.running):
                self._changed.wait()
            return not self._stopping

    def _turn(self, tokens: list[tuple[Ticket, Token | Exception]]) -> None:
        """Frees cancelled slots, admits waiting prompts, and steps once; appends the new tokens to `tokens`."""
        for slot, ticket in list(self.running.items()):
            if ticket.done:
                self.engine.release(slot)
                del self.running[slot]
        with self._changed:
            places = min(_AT_ONCE if self.running else len(self.engine.free), len(self.engine.free), len(self.waiting))
            entering = [self.waiting.popleft() for _ in range(places)]
        try:
            first = self.engine.admit([ticket.request for ticket in entering]) if entering else []
        except Exception as error:
            tokens += [(ticket, error) for ticket in entering]
            raise
        for ticket, token in zip(entering, first, strict=True):
            if not token.last:  # an answer that ends at once has freed its slot, perhaps for another of this round
                self.running[token.slot] = ticket
            tokens.append((ticket, _said(token)))
        for token in self.engine.step() if self.running else ():
            ticket = self.running.pop(token.slot) if token.last else self.running[token.slot]
            tokens.append((ticket, _said(token)))


def _said(token: Token) -> Token | Exception:
    return DataError("the model's logits are not finite") if token.id == -1 else token


def _deliver(tokens: Sequence[tuple[Ticket, Token | Exception]]) -> None:
    for ticket, token in tokens:
        if not ticket.done:
            ticket.done = isinstance(token, Exception) or token.last
            ticket.deliver(token)
