"""Weighted averages of checkpoints in Hugging Face's layout, a few rows of one tensor at a time.

Between a base and its tuned model: WiSE-FT (Wortsman et al., arXiv 2109.01903, section 3); of several runs: model soups
(arXiv 2203.05482).
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from ecomgpt_jax.errors import DataError
from ecomgpt_jax.model.hf_files import Tensors
from ecomgpt_jax.model.tensor_stream import Tensor, write_weights

CHUNK = 2**20  # weights of one source that are in memory at a time


def _rows(sources: Sequence[tuple[Tensors, float]], name: str) -> Iterator[np.ndarray]:
    """Yields the average of one tensor some rows at a time, summed in float32; a single source is copied unchanged."""
    shape = sources[0][0].shapes[name]
    count, step = shape[0], max(1, CHUNK // math.prod(shape[1:]))
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        if len(sources) == 1:
            yield sources[0][0].read(name, rows)
            continue
        total = np.float32(0)
        for tensors, weight in sources:
            total = total + np.float32(weight) * tensors.read(name, rows).astype(np.float32, copy=False)
        yield total


def write_average(directories: Sequence[Path], weights: Sequence[float], target: Path, dtype: str) -> None:
    """Writes the weighted sum of the weights of Hugging Face directories.

    Besides the memory-mapped files, rows of at most two tensors are in memory. A source of weight 0 is not read, so
    weights 0 and 1 give the ends bit by bit.

    Args:
      directories: of one model's checkpoints.
      weights: one per directory; they sum to 1.
      target: an existing directory.
      dtype: `float32` or `bfloat16`, of the stored weights.

    Raises:
      DataError: the directories do not hold the same tensors.
    """
    checkpoints = [Tensors(directory) for directory in directories]
    first = checkpoints[0]
    for other in checkpoints[1:]:
        if other.shapes != first.shapes:
            differing = sorted(dict(other.shapes.items() ^ first.shapes.items()))
            raise DataError(f"{other.directory}: not the same tensors as {first.directory}: {', '.join(differing[:5])}")
    counted = [pair for pair in zip(checkpoints, weights, strict=True) if pair[1]]
    prefix = "transformer." if "word_embeddings.weight" in first.shapes else "model."
    tensors = [
        Tensor(name if name == "lm_head.weight" else prefix + name, shape, partial(_rows, counted, name))
        for name, shape in first.shapes.items()
    ]
    write_weights(target, tensors, np.dtype(jnp.dtype(dtype)))
