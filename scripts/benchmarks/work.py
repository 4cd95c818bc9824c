"""The cases of both sides of a benchmark, and the loop that runs and measures a side. Needs only numpy.

Each side is a separate process. It prepares one case, prints its properties, and then runs the case once per line of
input, so that the two sides can alternate; a waiting side uses no CPU.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

EOS = 2  # also in the configuration of the exported weights
FIRST_TOKEN = 400  # random tokens start here; the ids below count down to the end of an answer (`ours.countdown`)

# Twenty equally likely lengths in tokens (prompt; answer) for each of EcomInstruct's twelve evaluation tasks, in task
# order. Estimated from the released texts: 1.15 Chinese characters or 4.3 others to a token.
LENGTHS = {
    "EN-ABSA-CLS-review_topic_category": (
        "73 74 74 75 76 77 78 78 79 80 80 82 83 84 85 87 90 91 95 102",
        "1 1 1 1 1 1 1 2 2 2 3 3 3 5 5 5 5 5 5 7",
    ),
    "EN-Lenovo-Condition_Extract-Condition_Extract": (
        "67 72 75 77 80 81 84 87 89 91 93 96 99 105 113 123 137 162 236 344",
        "1 2 2 3 3 4 5 6 7 7 9 10 11 12 15 17 22 33 56 104",
    ),
    "EN-Lenovo-NER-NER": (
        "70 75 78 80 83 85 87 90 92 94 97 100 102 108 116 126 140 165 239 347",
        "13 14 14 15 15 16 16 17 18 19 20 21 22 23 25 27 31 42 67 113",
    ),
    "EN-Reddit_QA-Extract-Extract_QA": (
        "146 161 183 194 202 206 209 213 221 228 241 249 257 275 284 303 320 356 382 436",
        "1 1 1 1 1 2 2 2 3 3 3 4 4 4 5 6 8 9 13 22",
    ),
    "ZH-MEPAVE-Condition_Extract-attribute_value_detection": (
        "130 130 131 131 132 132 132 133 133 133 133 133 134 134 135 136 136 138 139 141",
        "2 2 2 2 2 2 2 2 2 2 2 2 3 3 3 3 4 4 4 6",
    ),
    "ZH-MEPAVE-NER-attribute_value_extraction": (
        "134 135 135 136 136 136 137 137 137 137 138 138 139 139 140 141 141 142 143 146",
        "106 106 106 106 106 106 106 106 106 106 106 106 106 106 106 106 106 107 107 109",
    ),
    "ZH-Multi_CPR-Extract-product_select_2": (
        "152 157 160 163 164 166 167 169 169 170 171 172 173 174 175 176 179 185 190 201",
        "14 18 20 22 22 23 24 24 24 25 25 25 25 26 26 26 26 26 26 43",
    ),
    "ZH-OpenBG_Align-CLS-item_align": (
        "161 191 209 222 234 247 259 274 283 294 303 318 346 361 373 397 415 456 547 713",
        "1 1 1 1 1 1 1 1 1 2 2 2 2 2 2 2 2 2 2 2",
    ),
    "ZH-OpenBG_Align-CLS-item_coarse_classify": (
        "103 118 126 134 141 147 155 161 167 173 177 186 193 204 212 223 236 252 277 358",
        "2 2 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3",
    ),
    "ZH-OpenBG_Align-CLS-item_fine_classify": (
        "287 305 314 323 332 341 350 356 363 370 376 382 389 396 403 416 429 445 467 600",
        "2 2 2 3 3 3 3 3 3 3 3 3 3 3 4 5 5 5 6 7",
    ),
    "ZH-OpenBG_Align-CLS-title_attribute_matching": (
        "107 124 133 140 145 152 158 164 172 181 186 192 199 209 220 232 246 265 309 441",
        "1 1 1 1 1 1 1 1 1 2 2 2 2 2 2 2 2 2 2 2",
    ),
    "ZH-OpenBG_Align-Generate-title_generate": (
        "72 84 93 100 106 113 119 126 131 137 142 148 157 169 178 190 203 217 246 349",
        "17 22 23 24 24 24 25 25 25 25 25 26 26 26 26 26 26 26 29 39",
    ),
}


def task_lengths(rows: int, seed: int = 0) -> list[tuple[int, int]]:
    """Returns (prompt, answer) lengths of `rows` instances of each task, task after task."""
    random = np.random.default_rng(seed)
    prompts_and_answers = [[np.array(side.split(), int) for side in sides] for sides in LENGTHS.values()]
    return [
        (int(random.choice(prompts)), int(random.choice(answers)))
        for prompts, answers in prompts_and_answers
        for _ in range(rows)
    ]


def full_batch(rows: int, length: int, vocab: int, share: float, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns rows of random tokens without padding, `share` of them targets; the last position is never one.

    `inputs targets segment_ids` int32 and `loss_mask` bool, [rows, length].
    """
    random = np.random.default_rng(seed)
    tokens = random.integers(FIRST_TOKEN, vocab, (rows, length + 1)).astype(np.int32)
    mask = random.random((rows, length)) < share
    mask[:, -1] = False  # the peer has no target there
    segments = np.ones((rows, length), np.int32)
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "loss_mask": mask, "segment_ids": segments}


def instances(count: int, vocab: int, seed: int = 0, longest: int = 1024) -> list[tuple[np.ndarray, int]]:
    """Returns (tokens, length of the prompt) of `count` instances of random tokens, shuffled over the tasks.

    Prompts are cut so that an instance has at most `longest` tokens.
    """
    random = np.random.default_rng(seed)
    lengths = task_lengths(-(-count // len(LENGTHS)), seed)
    chosen = [lengths[i] for i in random.permutation(len(lengths))[:count]]
    chosen = [(min(prompt, longest - answer), answer) for prompt, answer in chosen]
    return [(random.integers(FIRST_TOKEN, vocab, sum(both)).astype(np.int32), both[0]) for both in chosen]


def counting_prompts(rows: int, vocab: int, shrink: int = 1) -> tuple[list[list[int]], list[int]]:
    """Returns prompts of the twelve tasks and the lengths of their answers with the weights of `ours.countdown`.

    A prompt's last token is the length of its answer. `shrink` divides the lengths of prompts, not of answers.
    """
    random = np.random.default_rng(1)
    lengths = task_lengths(rows)
    prompts = [[*random.integers(FIRST_TOKEN, vocab, max(1, p // shrink)).tolist(), EOS + 1 + a] for p, a in lengths]
    return prompts, [answer for _, answer in lengths]


def _megabytes(field: str) -> float:
    """Returns VmRSS or VmHWM of this process in MiB; nan if the system does not provide it."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field)), float("nan"))


def peak_growth(run: Callable[[], object]) -> float:
    """Returns the maximum growth of the process in MiB while `run` runs."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _megabytes("VmRSS")
    kept = run()
    growth = _megabytes("VmHWM") - before
    del kept
    return growth


def measured(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Runs a case once; returns its results, its seconds (`cpu`, `wall`), and the process's largest size so far."""
    used, wall = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    results = run()
    wall, now = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_SELF)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return {"cpu": cpu, "wall": wall, "peak_mib": now.ru_maxrss / 1024, **results}


def serve(prepare: Callable[[dict[str, Any]], tuple[Callable[[], dict[str, Any]], dict[str, Any]]]) -> None:
    """Runs one side: `prepare(case)` returns a function that runs the case, and the properties to print before."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries is not a result

    def say(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        run, facts = prepare(json.loads(sys.argv[1]))
        say({"ready": True, **facts})
        for _ in sys.stdin:
            say(measured(run))
    except Exception as error:
        say({"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"[:300]})
        raise
