"""The clock against a simulated host and device, whose timeline gives the expected times."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import pytest

from ecomgpt_jax.training.step_clock import PARTS, StepClock


@dataclasses.dataclass
class Machine:
    """A device that runs one step after the other, and a host whose clock moves only when it does something.

    Attributes:
      now: the host's time.
      free: when the device has done all it was given.
      ends: of the steps.
      idle: seconds in which the device had nothing to do, by what the host did meanwhile, for each step.
    """

    now: float = 0.0
    free: float = 0.0
    ends: list[float] = dataclasses.field(default_factory=list)
    idle: list[dict[str, float]] = dataclasses.field(default_factory=lambda: [{}])

    def do(self, what: str, seconds: float) -> None:
        begin, self.now = max(self.now, self.free), self.now + seconds
        self.idle[-1][what] = self.idle[-1].get(what, 0.0) + max(0.0, self.now - begin)

    def step(self, seconds: float, dispatch: float, inline: bool = False) -> tuple[str, float]:
        if inline:  # as XLA's CPU client does with small programs
            self.now = self.free = max(self.now, self.free) + seconds
        else:
            self.do("host", dispatch)
            self.free = max(self.now, self.free) + seconds
        self.ends.append(self.free)
        self.idle.append({})
        return "state", self.free

    def wait(self, step: int) -> None:
        self.now = max(self.now, self.ends[step])


# Seconds of: rows, dispatch, device, a checkpoint after the step, an evaluation after the step.
RUNS = {
    "slow device": [(0.1, 0.2, 9.0, 0, 0)] * 4,
    "fast device": [(0.1, 0.2, 0.001, 0, 0)] * 4,
    "slow rows": [(5.0, 0.2, 1.0, 0, 0)] * 4,
    "compiles first": [(0.1, 60.0, 3.0, 0, 0), *[(0.1, 0.2, 3.0, 0, 0)] * 3],
    "saves": [(0.1, 0.2, 3.0, 7.0 * (step == 1), 0) for step in range(4)],
    "evaluates": [(0.1, 0.2, 3.0, 0, 100.0 * (step == 1)) for step in range(4)],
    "both after each": [(0.1, 0.2, 3.0, 7.0, 100.0)] * 3,
    "one step": [(0.1, 30.0, 9.0, 0, 0)],
    "every other is slow": [(0.1, 0.2, 0.01 + 8.0 * (step % 2), 0, 0) for step in range(5)],
}


@pytest.mark.parametrize("name", RUNS)
def test_each_step_has_the_seconds_between_the_ends(name: str) -> None:
    machine = Machine()
    clock = StepClock(lambda: machine.now, ended=lambda end: end)
    read = []
    for number, (rows, dispatch, device, saving, scoring) in enumerate(RUNS[name]):
        with clock.spending("data"):
            machine.do("data", rows)
        clock.call(machine.step, device, dispatch)
        while number + 1 - len(read) > (0 if saving or scoring else 1):
            machine.wait(len(read))
            read.append(clock.read())
        for what, seconds in (("evaluation", scoring), ("checkpoint", saving)):
            with clock.spending(what):
                machine.do(what, seconds)
    while len(read) < len(machine.ends):
        machine.wait(len(read))
        read.append(clock.read())
    clock.close()
    for spent, idle, end, last in zip(read, machine.idle, machine.ends, [0.0, *machine.ends], strict=False):
        assert spent["seconds"] == pytest.approx(end - last - idle.get("evaluation", 0.0))
        assert spent["data"] == pytest.approx(idle.get("data", 0.0))
        assert spent["checkpoint"] == pytest.approx(idle.get("checkpoint", 0.0))
        assert spent["host"] == pytest.approx(idle.get("host", 0.0) + idle.get("checkpoint", 0.0))
        assert sum(spent[part] for part in PARTS) == pytest.approx(spent["seconds"])
        assert min(spent.values()) >= -1e-9


def test_a_program_that_runs_inside_its_call_is_the_devices_time() -> None:
    machine = Machine()
    clock = StepClock(lambda: machine.now, ended=lambda end: end)
    for inline in (False, True, True):
        machine.do("host", 1.0)
        clock.call(machine.step, 0.5, 0.25, inline)
    read = [clock.read() for _ in range(3)]
    clock.close()
    assert [(spent["host"], spent["step"]) for spent in read] == [(1.25, 0.5), (0.5, 0.5), (1.0, 0.5)]


def test_the_ends_of_real_steps_lie_between_those_of_the_host() -> None:
    begin = time.monotonic()
    clock = StepClock()
    step = jax.jit(lambda state, x: (state + x, {"loss": (state * x).sum()}))
    state = jnp.zeros(8)
    for _ in range(3):
        state, metrics = clock.call(step, state, jnp.ones(8))
    read = [clock.read() for _ in range(3)]
    clock.close()
    assert float(metrics["loss"]) == 16.0
    assert all(spent["seconds"] >= 0 for spent in read)
    assert sum(spent["seconds"] for spent in read) <= time.monotonic() - begin


def test_a_failed_step_is_told_by_its_reader() -> None:
    def fail(outputs: object) -> float:
        raise RuntimeError("the device is gone")

    clock = StepClock(ended=fail)
    clock.call(lambda: ("state", "metrics"))
    with pytest.raises(RuntimeError, match="gone"):
        clock.read()
    clock.close()
