"""Runs `train` and prints what it loads and decodes; with KILL_AFTER=n it kills itself after n answers."""

import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

from ecomgpt_jax import cli, train
from ecomgpt_jax.decoding import resumable

generate_tokens, load, answers = resumable.generate_tokens, train.loading.load_params, 0


def generate(
    params: Any, model: Any, prompts: Sequence[Any], *, on_finished: Callable[[int, list[int]], None], **settings: Any
) -> list[list[int]]:
    def finished(number: int, tokens: list[int]) -> None:
        global answers
        on_finished(number, tokens)
        answers += 1
        if answers == int(os.environ.get("KILL_AFTER", "0")):
            os.kill(os.getpid(), signal.SIGKILL)

    print(f"decode {len(prompts)}", flush=True)
    return generate_tokens(params, model, prompts, on_finished=finished, **settings)


def load_params(*arguments: Any, **settings: Any) -> Any:
    print("load", flush=True)
    return load(*arguments, **settings)


resumable.generate_tokens, train.loading.load_params = generate, load_params
if __name__ == "__main__":
    cli.run(train.main)
