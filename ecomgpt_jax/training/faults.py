"""Fault injection for `tests/faults/`; disabled unless ECOMGPT_TESTING=1 is set too.

ECOMGPT_FAULT is a comma list of `<fault>@<place><number>`, for example `kill@step7,full@save4`. Places are `step`
(before that optimizer step is started) and `save` (the step's files are written and not yet renamed). Faults: `kill`
and `term` send SIGKILL and SIGTERM to this process, `oom` and `full` raise the errors of a full device and a full disk,
`nan` (at `step`) puts token ids into the batch whose embedding is NaN.
"""

import errno
import os
import signal

import jax
import numpy as np


def inject_fault(place: str, number: int, batch: dict[str, np.ndarray] | None = None) -> None:
    """Injects the faults requested for this place.

    Args:
      place: `step` or `save`.
      number: optimizer step.
      batch: this host's rows of the step, for `nan`.
    """
    if os.environ.get("ECOMGPT_TESTING") != "1":
        return
    for order in os.environ.get("ECOMGPT_FAULT", "").split(","):
        fault, _, where = order.partition("@")
        if where != f"{place}{number}":
            continue
        if fault in ("kill", "term"):
            signal.raise_signal(signal.SIGKILL if fault == "kill" else signal.SIGTERM)
        elif fault == "oom":
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12884901888 bytes.")
        elif fault == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        elif fault == "nan" and batch is not None:
            batch["inputs"][...] = -1
