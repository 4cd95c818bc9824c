"""Writes the rows of a build in shards: array_record files made by local processes or an Apache Beam pipeline.

The files of a shard in the folder of the build:

    <shard>.npz                     the sketches of its records
    <shard>.repeats.json            the records to leave out, with reasons
    <shard>.train   <shard>.test    its rows, tf.Examples in array_record; no file where there are none
    <shard>.train.digests           the sha256 of each row
    <shard>.json                    its `BuildStats` and the rows of its held-out tasks
    held_out/                       the task folders of its held-out tasks

Processes exchange data through these files only, so any machine with access to the folder can make a shard.

`data.total_instances` selects the first rows of each chosen task from a whole data set. The rows of a task have a
seeded order that does not depend on other tasks, so a build with a lower limit keeps the same ones.
"""

import collections
import concurrent.futures
import contextlib
import hashlib
import itertools
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import tqdm
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from ecomgpt_jax.errors import ConfigError, StorageError
from ecomgpt_jax.instruct.duplicates import NearDuplicates, Sketch
from ecomgpt_jax.instruct.instructions import ROW_FIELDS, Row

SPLITS = ("train", "test")
SAMPLE = "sample"  # the shard of rows selected from a whole data set
DIGEST_BYTES = hashlib.sha256().digest_size
Work = Callable[[str], int]
_WORKER = "ecomgpt_jax build"  # name of the processes that a build starts
_CALLED_AGAIN = 113  # their exit code if they call `build`
_NO_GUARD = (
    "data: the script builds at its top level, which the processes of a build import; write the call under "
    '`if __name__ == "__main__":`, or set data.workers=1'
)
Run = Callable[[Work, Sequence[str], str], None]


def digest(row: Mapping[str, str]) -> bytes:
    """Returns the sha256 of a row: of each field with its length before it."""
    values = (row[name].encode() for name in ROW_FIELDS)
    return hashlib.sha256(b"".join(len(value).to_bytes(4, "little") + value for value in values)).digest()


def to_example(row: Mapping[str, str]) -> bytes:
    """Returns a row as a serialised tf.Example, as tfds encodes `Text` features, ten times faster."""
    example = tf_example_pb2.Example()
    features = example.features.feature
    for name in ROW_FIELDS:
        features[name].bytes_list.value.append(row[name].encode())
    return example.SerializeToString(deterministic=True)


def from_example(raw: bytes) -> Row:
    """Returns the row of a serialised tf.Example; inverse of `to_example`."""
    features = tf_example_pb2.Example.FromString(raw).features.feature
    return {name: features[name].bytes_list.value[0].decode() for name in ROW_FIELDS}


class StoredRows(Sequence[Row]):
    """Random access to the rows of a split; parses the stored bytes five times faster than tfds."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return self.__getitems__(range(*index.indices(len(self))))
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Row]:
        """Returns several rows at once, which is faster per row."""
        return [from_example(raw) for raw in self._source.__getitems__(indices)]

    def __iter__(self) -> Iterator[Row]:
        for start in range(0, len(self), 1024):
            yield from self[start : start + 1024]


def find_duplicates(shards: Sequence[str], folder: Path) -> dict[str, dict[str, str]]:
    """Returns {shard: {id: reason}} for records that repeat one of their own shard or an earlier one.

    Reads the sketches that `write_sketch` wrote to the folder.
    """
    seen, found = NearDuplicates(), {}
    for shard in tqdm.tqdm(shards, desc="compare", unit="source", disable=None, delay=2):
        with np.load(folder / f"{shard}.npz") as stored:
            arrays = dict(stored)
        ids = arrays.pop("ids").tolist()
        reasons = zip(ids, seen.add(shard, Sketch(**arrays)), strict=True)
        found[shard] = {record: reason for record, reason in reasons if reason}
    return found


def write_sketch(folder: Path, shard: str, ids: Sequence[str], sketch: Sketch) -> None:
    """Writes the sketches of a shard's records."""
    np.savez(folder / f"{shard}.npz", ids=np.array(ids, np.str_), **vars(sketch))


def write_rows(folder: Path, name: str, rows: Iterable[Row]) -> None:
    """Writes rows and their digests; leaves no file where there are no rows."""
    rows = iter(rows)
    first = list(itertools.islice(rows, 1))
    if not first:
        return
    # Moved when complete: Beam may repeat a shard, even twice at the same time.
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder) as scratch:
        writer = ArrayRecordWriter(str(Path(scratch, name)), "group_size:1")  # for random access
        with open(Path(scratch, f"{name}.digests"), "wb") as digests:
            for row in itertools.chain(first, rows):
                writer.write(to_example(row))
                digests.write(digest(row))
        writer.close()
        for made in (name, f"{name}.digests"):
            os.replace(Path(scratch, made), folder / made)


def take_rows(
    limits: Mapping[str, Mapping[str, int]], read: Callable[[str], Iterable[Row]], folder: Path
) -> dict[str, collections.Counter[str]]:
    """Writes the first rows of each task as one shard, `SAMPLE`; returns their number by split and task.

    Args:
      limits: number of rows by split and task.
      read: returns the rows of one split of a whole data set.
      folder: where the shard is written.
    """
    taken = {split: collections.Counter[str]() for split in limits}

    def first(split: str) -> Iterator[Row]:
        for row in read(split):
            if taken[split][row["task"]] < limits[split].get(row["task"], 0):
                taken[split][row["task"]] += 1
                yield row

    for split in limits:
        write_rows(folder, f"{SAMPLE}.{split}", first(split))
    return taken


def allocate(
    sizes: Mapping[str, int], total: int, temperature: float, groups: Mapping[str, str], group_temperature: float
) -> dict[str, int]:
    """Returns the number of instances per task, `total` in all.

    A task's weight is size ** (1 / temperature), or 1 at temperature 0. A group's weight is the sum of its tasks'
    weights to the power of 1 / group_temperature, or 1 at 0. The total is divided among groups by their weights, and
    the share of a group among its tasks by theirs. No instance is repeated: of a task with fewer instances than its
    share all are used, and the other tasks get the rest.

    Args:
      sizes: instances by task.
      total: of all tasks.
      temperature: of the tasks.
      groups: the group of each task, such as its language, its family and whether an operator made it.
      group_temperature: of the groups; at 1 groups have no effect.

    Raises:
      ConfigError: the tasks have fewer than `total` instances.
    """
    if sum(sizes.values()) < total:
        raise ConfigError(f"data.total_instances={total}, and the other settings leave {sum(sizes.values())}")
    values = {name: size for name, size in sorted(sizes.items()) if size}
    power = 1 / temperature if temperature else 0.0
    if group_temperature == 1:
        return _share(sizes, values, power, total)
    members: dict[str, list[str]] = collections.defaultdict(list)
    for name in values:
        members[groups[name]].append(name)
    weights = _powers(values, power)
    group_sizes = {group: sum(sizes[name] for name in names) for group, names in members.items()}
    # Not 0, which no power would make relative to another.
    sums = {group: sum(weights[name] for name in names) or sys.float_info.min for group, names in members.items()}
    group_power = 1 / group_temperature if group_temperature else 0.0
    limits: dict[str, int] = {}
    for group, share in _share(group_sizes, sums, group_power, total).items():
        limits |= _share(sizes, {name: sizes[name] for name in members[group]}, power, share)
    return limits


def _powers(values: Mapping[str, float], power: float) -> dict[str, float]:
    """Returns the values to a power, relative to the largest one if floats would overflow."""
    largest = max(values.values(), default=1)
    unit = largest if abs(power * math.log2(largest)) > 1000 else 1
    return {name: (value / unit) ** power for name, value in values.items()}


def _share(sizes: Mapping[str, int], values: Mapping[str, float], power: float, total: int) -> dict[str, int]:
    """Returns the share of each name of `values`: proportional to value ** power, at most its size; `total` in all."""
    shares: dict[str, float] = {}
    while len(shares) < len(values):
        left = [name for name in values if name not in shares]
        weights = _powers({name: values[name] for name in left}, power)
        scale = (total - sum(shares.values())) / sum(weights.values())
        small = [name for name in left if sizes[name] <= scale * weights[name]]
        shares |= {name: sizes[name] if small else scale * weights[name] for name in small or left}
    limits = {name: math.floor(share) for name, share in shares.items()}
    rest = sorted(
        (name for name in shares if limits[name] < sizes[name]), key=lambda name: (limits[name] - shares[name], name)
    )
    return limits | {name: limits[name] + 1 for name in rest[: total - sum(limits.values())]}


@contextlib.contextmanager
def processes(workers: int) -> Iterator[Run]:
    """Yields `run(work, shards, name)`, which calls `work` for each shard in `workers` processes, or in this one if 1.

    `run` raises:
      EcomError: `work` failed for a shard; the others are cancelled.
      ConfigError: a process called `refuse_in_worker`.
      StorageError: a process was killed.
    """
    if workers == 1:
        yield lambda work, shards, name: _count(map(work, shards), len(shards), name)
        return
    # Spawned, since the caller may run threads (jax does) and a fork would copy their locks.
    context, started = multiprocessing.context.SpawnContext(), []

    def start(**arguments: Any) -> multiprocessing.Process:
        started.append(multiprocessing.context.SpawnProcess(**arguments, name=_WORKER))
        return started[-1]

    context.Process = start
    with concurrent.futures.ProcessPoolExecutor(workers, context, _end_with_parent) as pool:

        def run(work: Work, shards: Sequence[str], name: str) -> None:
            futures = [pool.submit(work, shard) for shard in shards]
            done = (future.result() for future in concurrent.futures.as_completed(futures))
            try:
                _count(done, len(shards), name)
            except concurrent.futures.process.BrokenProcessPool:
                for process in started:
                    process.join()
                if any(process.exitcode == _CALLED_AGAIN for process in started):
                    raise ConfigError(_NO_GUARD) from None
                raise StorageError(
                    f"{name}: a process was ended from outside (out of memory?); set data.workers=1"
                ) from None
            finally:
                for future in futures:
                    future.cancel()

        yield run


def refuse_in_worker() -> None:
    """Exits if a build started this process, which would otherwise wait for the lock of its parent."""
    if multiprocessing.current_process().name == _WORKER:
        os._exit(_CALLED_AGAIN)


def _count(done: Iterable[int], total: int, name: str) -> None:
    """Shows how many shards are done, and the sum of what `work` returned for them."""
    with tqdm.tqdm(total=total, desc=name, unit="source", disable=None, delay=2) as bar:
        for count in itertools.accumulate(done):
            bar.set_postfix_str(f"{count:,}", refresh=False)
            bar.update()


def _end_with_parent() -> None:
    """Makes this process exit at Ctrl-C and when its parent exits, so that it cannot write into a later build."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def beam_workers(options: Sequence[str]) -> Run:
    """Returns `run(work, shards, name)`, which calls `work` for each shard on the workers of a Beam pipeline.

    They and this process must have access to the same folders. `run` raises StorageError, with the reason, if the
    pipeline fails.

    Args:
      options: of the pipeline, `--runner=DirectRunner` for example.

    Raises:
      ConfigError: Apache Beam is not installed.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise ConfigError("data.beam_options needs Apache Beam; install ecomgpt_jax[beam]") from None

    def run(work: Work, shards: Sequence[str], name: str) -> None:
        try:
            with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
                _ = pipeline | "shards" >> beam.Create(list(shards)) | beam.Reshuffle() | name >> beam.Map(work)
        except Exception as error:  # runners wrap the errors of workers differently
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise StorageError(f"Apache Beam: {reason}") from error

    return run
