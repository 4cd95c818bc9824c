import asyncio
from collections.abc import Callable, Sequence

import pytest

from ecomgpt_jax.decoding.continuous import Request, Token
from ecomgpt_jax.serving.scheduler import EngineGone, QueueFull, Scheduler
from serving.scripted import ScriptedEngine, eventually

Told = list[Token | Exception]


def run(engine: ScriptedEngine, capacity: int, work: Callable[[Scheduler], None]) -> None:
    """Runs `work` in a thread beside the event loop."""

    async def main() -> None:
        scheduler = Scheduler(engine, capacity)
        scheduler.start(asyncio.get_running_loop())
        try:
            await asyncio.to_thread(work, scheduler)
        finally:
            engine.gate.set()
            if not scheduler.failed:
                scheduler.stop()

    asyncio.run(main())


def ids(told: Told) -> list[int]:
    return [token.id for token in told if isinstance(token, Token) and token.id >= 0]


def test_answers_that_end_at_once_do_not_mix_with_those_that_take_their_slots() -> None:
    """The first token may be the last; its slot then goes to the next prompt of the same round."""
    told: list[Told] = [[] for _ in range(40)]

    def work(scheduler: Scheduler) -> None:
        limits = [1, 3, 1, 1, 2, 1, 5, 1] * 5
        prompts = [list(range(10 * index, 10 * index + 9)) for index in range(40)]
        scheduler.submit(
            [
                (Request(prompt, limit), told[index].append)
                for index, (prompt, limit) in enumerate(zip(prompts, limits, strict=True))
            ]
        )
        assert eventually(lambda: all(own and own[-1].last for own in told))
        assert [ids(own) for own in told] == [prompt[:n] for prompt, n in zip(prompts, limits, strict=True)]
        assert scheduler.running == {}
        assert len(scheduler.waiting) == 0

    engine = ScriptedEngine()
    run(engine, 40, work)
    assert sorted(engine.free) == [0, 1, 2, 3]


def test_a_slot_may_be_left_to_an_earlier_prompt_of_the_same_round() -> None:
    """The engine reads prompts of like length together: the third enters, ends, and leaves its slot to the second."""

    class ByLength(ScriptedEngine):
        def admit(self, requests: Sequence[Request]) -> list[Token]:
            order = sorted(range(len(requests)), key=lambda index: len(requests[index].prompt))
            said = dict(zip(order, super().admit([requests[index] for index in order]), strict=True))
            return [said[index] for index in range(len(requests))]

    told: list[Told] = [[] for _ in range(3)]
    asked = [Request([5, 6], 2), Request([7, 8, 9], 3), Request([4, 5], 1)]

    def work(scheduler: Scheduler) -> None:
        scheduler.submit([(request, own.append) for request, own in zip(asked, told, strict=True)])
        assert eventually(lambda: all(own and own[-1].last for own in told), seconds=5)
        assert [ids(own) for own in told] == [[5, 6], [7, 8, 9], [4]]
        assert scheduler.running == {}

    run(ByLength(), 3, work)


def test_the_queue_takes_all_or_none() -> None:
    engine = ScriptedEngine()
    engine.gate.clear()

    def work(scheduler: Scheduler) -> None:
        nothing = (Request([5, 6], 2), lambda token: None)
        scheduler.submit([nothing] * 2)
        assert eventually(lambda: len(scheduler.running) == 2)
        scheduler.submit([nothing] * 2)
        assert eventually(lambda: len(scheduler.running) == 4)
        scheduler.submit([nothing] * 2)
        with pytest.raises(QueueFull):
            scheduler.submit([nothing] * 2)
        scheduler.submit([nothing])
        assert len(scheduler.waiting) == 3

    run(engine, 3, work)


def test_cancelled_prompts_leave_queue_and_slots() -> None:
    engine, told = ScriptedEngine(lambda request: [7] * 200, pause=0.2), []  # 40 s to the end

    def work(scheduler: Scheduler) -> None:
        tickets = scheduler.submit([(Request([5], 200), told.append)] * 6)
        assert eventually(lambda: len(scheduler.running) == 4)
        for ticket in tickets + tickets:
            scheduler.cancel(ticket)
        assert len(scheduler.waiting) == 0
        assert eventually(lambda: len(engine.free) == 4)
        count = len(told)
        scheduler.submit([(Request([5], 2), told.append)])
        assert eventually(lambda: len(told) == count + 2)

    run(engine, 8, work)


def test_an_engine_that_cannot_be_reset_is_gone_and_says_so() -> None:
    class Gone(ScriptedEngine):
        resets = 0

        def reset(self) -> None:
            self.resets += 1
            if self.resets > 1:
                raise MemoryError("no device")
            super().reset()

    engine, told = Gone(), []

    def work(scheduler: Scheduler) -> None:
        engine.broken = "step"
        scheduler.submit([(Request([5, 6, 7], 3), told.append)] * 6)
        assert eventually(lambda: sum(isinstance(each, Exception) for each in told) == 6)
        assert scheduler.failed == "the engine has failed"
        assert any(isinstance(each, EngineGone) for each in told), "those that waited"
        with pytest.raises(EngineGone):
            scheduler.submit([(Request([5], 3), told.append)])

    run(engine, 8, work)


def test_logits_that_are_not_finite_fail_their_own_request() -> None:
    told: list[Told] = [[], []]

    def work(scheduler: Scheduler) -> None:
        scheduler.submit([(Request([-1], 3), told[0].append), (Request([5, 6], 2), told[1].append)])
        assert eventually(lambda: bool(told[0]) and len(told[1]) == 2)

    run(ScriptedEngine(), 8, work)
    assert "not finite" in str(told[0][0])
    assert ids(told[1]) == [5, 6]
