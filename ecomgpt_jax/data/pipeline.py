"""From the token store to batches: packed rows with random access, in an order independent of the hosts."""

import dataclasses
from collections.abc import Iterator

import grain
import numpy as np

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.data import packing
from ecomgpt_jax.data.token_store import TokenStore
from ecomgpt_jax.errors import DataError

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class PackedRows:
    """All rows of a run, in order, as a grain random-access source.

    Attributes:
      store: the tokenised instances.
      plan: the instances of each row, over all epochs.
      length: positions in a row.
      rows: number of rows: the plan's, then empty ones up to a whole number of steps.
      loss_on_prompt: whether prompt tokens are targets too.
      length_weighting: p; a target of an instance with n targets has the weight n ** -p.
    """

    store: TokenStore
    plan: packing.Plan
    length: int
    rows: int
    loss_on_prompt: bool = False
    length_weighting: float = 0.0

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> Batch:
        """Returns one row: `inputs targets segment_ids` int32 and `loss_mask` bool, each [length].

        With `length_weighting` `loss_mask` contains the weights, float32.

        For the prompt [p q r] and the response [s t] of the first segment:

            inputs       p q r s t
            targets      q r s t </s>
            loss_mask    0 0 1 1 1
            segment_ids  1 1 1 1 1
        """
        row = {
            "inputs": np.zeros(self.length, np.int32),
            "targets": np.zeros(self.length, np.int32),
            "loss_mask": np.zeros(self.length, np.float32 if self.length_weighting else np.bool_),
            "segment_ids": np.zeros(self.length, np.int32),
        }
        if index >= len(self.plan):
            return row
        start = 0
        for segment, instance in enumerate(self.plan.row(index).tolist(), 1):
            tokens = self.store.tokens[self.store.offsets[instance] : self.store.offsets[instance + 1]]
            stop = start + len(tokens) - 1
            row["inputs"][start:stop] = tokens[:-1]
            row["targets"][start:stop] = tokens[1:]
            unread = 0 if self.loss_on_prompt else max(0, int(self.store.prompt_lengths[instance]) - 1)
            row["loss_mask"][start + unread : stop] = max(1, stop - start - unread) ** -self.length_weighting
            row["segment_ids"][start:stop] = segment
            start = stop
        return row


def make_rows(store: TokenStore, data: DataConfig, epochs: int, rows_per_step: int) -> PackedRows:
    """Plans every row of a run; the last step is padded with empty rows, so no instance is left out.

    Raises:
      DataError: there is no training instance.
    """
    if not len(store):
        raise DataError("data: no training instance is left; loosen data.languages, data.num_tasks or data.sources")
    plan = packing.plan_epochs(store.positions, data.length, epochs, data.seed, data.packing)
    rows = -(-len(plan) // rows_per_step) * rows_per_step
    return PackedRows(store, plan, data.length, rows, data.loss_on_prompt, data.length_weighting)


@dataclasses.dataclass(frozen=True)
class _HostRows:
    """The rows of this process in each step from `first_row` on, as a grain random-access source."""

    rows: PackedRows
    rows_per_step: int
    first_row: int
    held: np.ndarray

    def __len__(self) -> int:
        return (len(self.rows) - self.first_row) // self.rows_per_step * len(self.held)

    def __getitem__(self, index: int) -> Batch:
        step, place = divmod(index, len(self.held))
        return self.rows[self.first_row + step * self.rows_per_step + int(self.held[place])]


def batches(
    rows: PackedRows, rows_per_step: int, first_row: int = 0, held: np.ndarray | None = None
) -> Iterator[Batch]:
    """Yields the rows `held` of each step from row `first_row` on, [len(held), length] each; no other row is read.

    Args:
      rows: all rows of the run; row `first_row + i * rows_per_step + j` is row j of the i-th step that is yielded.
      rows_per_step: rows of one optimizer step over all processes.
      first_row: the first row to yield.
      held: numbers of the rows of this process in a step (`train_step.step_rows`); None: all.
    """
    held = np.arange(rows_per_step) if held is None else held
    source = grain.MapDataset.source(_HostRows(rows, rows_per_step, first_row, held))
    return iter(source.batch(len(held), drop_remainder=True).to_iter_dataset())
