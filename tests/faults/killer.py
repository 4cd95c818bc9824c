"""Runs the toy run to its end through a number of SIGKILLs: `killer.py WORKDIR STEPS KILLS`.

Each life is a fork of this process, which has imported everything and used no device, so a life costs no more than its
run. A fifth of the lives end at a random moment of their start, the others at a random moment in or after the saves
that follow: the kill waits for up to two new steps to appear and then for a random part of a step. Prints the kills.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import survivor

from ecomgpt_jax.model.step_files import list_steps


def newest(workdir: Path) -> int:
    """Returns the newest step that has its name."""
    return max(list_steps(workdir), default=0)


def wait_for_moment(workdir: Path, child: int, choose: random.Random) -> bool:
    """Waits for the moment to kill; False where the child ended before it."""
    wanted = newest(workdir) + choose.choice((0, 1, 1, 1, 2))
    begin = newest(workdir)
    deadline = time.monotonic() + (choose.uniform(0, 2) if wanted == begin else 120)
    while time.monotonic() < deadline and (wanted == begin or newest(workdir) < wanted):
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.002)
    time.sleep(choose.uniform(0, 0.1))
    return not os.waitpid(child, os.WNOHANG)[0]


def main() -> None:
    """Kills, then lets the run end."""
    workdir, steps, kills = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    choose, done = random.Random(0), 0
    while True:
        child = os.fork()
        if child == 0:
            sys.argv = ["survivor.py", str(workdir), steps]
            survivor.main()
            sys.stdout.flush()
            os._exit(0)
        if done == kills:
            break
        if not wait_for_moment(workdir, child, choose):
            sys.exit(f"the run ended after {done} kills; give it more steps")
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        done += 1
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        sys.exit("the last life failed")
    print(f"kills {done}")


if __name__ == "__main__":
    main()
