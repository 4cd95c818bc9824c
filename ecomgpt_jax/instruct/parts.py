"""Makes a data set in parts, in one process, in several, or on the workers of an Apache Beam pipeline.

Each part is surveyed, `settle` finds which records repeat others, then each part is made. In the folder of the build, a
part leaves

    <part>.npz                     the sketches of its records
    <part>.repeats.json            which of them stay out, and why
    <part>.train    <part>.test    its rows, tf.Examples in array_record; no file where there are none
    <part>.train.digests           the sha256 of each row
    <part>.json                    its account
    held_out/                      the task folders of its held-out tasks

Files carry everything, so that a part may be made by any process of any machine that shares the folder.
"""

import concurrent.futures
import contextlib
import hashlib
import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import tqdm
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.errors import ConfigError, StorageError
from ecomgpt_jax.files import read_json, write_json
from ecomgpt_jax.instruct import mixture, task_folder
from ecomgpt_jax.instruct.duplicates import NearDuplicates, Sketch
from ecomgpt_jax.instruct.quarantine import Quarantine
from ecomgpt_jax.instruct.rows import FIELDS, Account, Row
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow

SPLITS = ("train", "test")
DIGEST_BYTES = hashlib.sha256().digest_size
Work = Callable[[str], int]
_WORKER = "ecomgpt_jax build"  # name of the processes that a build starts
_CALLED_AGAIN = 113  # their exit code where they were about to build themselves
_NO_GUARD = (
    "data: the script builds at its top level, which the processes of a build import; write the call under "
    '`if __name__ == "__main__":`, or set data.workers=1'
)
Run = Callable[[Work, Sequence[str], str], None]


def digest(row: Mapping[str, str]) -> bytes:
    """Returns the sha256 of a row: of each field with its length before it."""
    values = (row[name].encode() for name in FIELDS)
    return hashlib.sha256(b"".join(len(value).to_bytes(4, "little") + value for value in values)).digest()


def to_example(row: Mapping[str, str]) -> bytes:
    """Returns a row as a serialised tf.Example: what tfds makes of `Text` features, ten times as fast."""
    example = tf_example_pb2.Example()
    features = example.features.feature
    for name in FIELDS:
        features[name].bytes_list.value.append(row[name].encode())
    return example.SerializeToString(deterministic=True)


def from_example(raw: bytes) -> Row:
    """Returns the row that `to_example` was given."""
    features = tf_example_pb2.Example.FromString(raw).features.feature
    return {name: features[name].bytes_list.value[0].decode() for name in FIELDS}


def survey_part(data: DataConfig, folder: Path, quarantine: Path, part: str) -> int:
    """Surveys one part and returns its number of records.

    Raises:
      EcomError: the source is missing or broken; `quarantine` lists its bad records.
    """
    ids, sketch = mixture.survey(data, part, Quarantine(quarantine))
    np.savez(folder / f"{part}.npz", ids=np.array(ids, np.str_), **vars(sketch))
    return len(ids)


def settle(parts: Sequence[str], folder: Path) -> dict[str, dict[str, str]]:
    """Returns by part which records repeat one of their own part or an earlier one, by id, and how."""
    seen, found = NearDuplicates(), {}
    for part in tqdm.tqdm(parts, desc="compare", unit="source", disable=None, delay=2):
        with np.load(folder / f"{part}.npz") as stored:
            arrays = dict(stored)
        ids = arrays.pop("ids").tolist()
        reasons = zip(ids, seen.add(part, Sketch(**arrays)), strict=True)
        found[part] = {record: reason for record, reason in reasons if reason}
    return found


def make_part(data: DataConfig, folder: Path, quarantine: Path, part: str) -> int:
    """Makes one part and returns its number of training rows.

    Raises:
      EcomError: a source or task folder is missing or broken; `quarantine` lists its bad records.
    """
    account, test = Account(quarantine=Quarantine(quarantine)), []
    held_out: dict[str, tuple[TaskFolder, list[TaskRow]]] = {}
    known = folder / f"{part}.repeats.json"
    repeats = read_json(known) if known.is_file() else None
    write_rows(folder, f"{part}.train", mixture.generate(data, part, account, test, held_out, repeats))
    write_rows(folder, f"{part}.test", test)
    for task, rows in held_out.values():
        if rows:
            task_folder.write_task(folder / "held_out", task, rows)
    counts = {name: len(rows) for name, (_, rows) in held_out.items()}
    write_json(folder / f"{part}.json", {"held_out": counts, "account": account.as_json()})
    return account.rows["train"].total()


def write_rows(folder: Path, name: str, rows: Iterable[Row]) -> None:
    """Writes rows and their digests; leaves no file where there are no rows."""
    rows = iter(rows)
    first = list(itertools.islice(rows, 1))
    if not first:
        return
    # Whole or not at all: Beam may make a part anew, even twice at a time.
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder) as scratch:
        writer = ArrayRecordWriter(str(Path(scratch, name)), "group_size:1")  # what random access wants
        with open(Path(scratch, f"{name}.digests"), "wb") as digests:
            for row in itertools.chain(first, rows):
                writer.write(to_example(row))
                digests.write(digest(row))
        writer.close()
        for made in (name, f"{name}.digests"):
            os.replace(Path(scratch, made), folder / made)


@contextlib.contextmanager
def processes(workers: int) -> Iterator[Run]:
    """Yields `run(work, parts, name)`, which does `work` for each part in `workers` processes, or in this one if 1.

    `run` raises:
      EcomError: the work of a part failed; the others are given up.
      ConfigError: the processes came to `refuse_in_worker`.
      StorageError: a process was ended from outside.
    """
    if workers == 1:
        yield lambda work, parts, name: _count(map(work, parts), len(parts), name)
        return
    # Spawned, because the caller may run threads (jax does) and a fork would copy their locks.
    context, started = multiprocessing.context.SpawnContext(), []

    def start(**arguments: Any) -> multiprocessing.Process:
        started.append(multiprocessing.context.SpawnProcess(**arguments, name=_WORKER))
        return started[-1]

    context.Process = start
    with concurrent.futures.ProcessPoolExecutor(workers, context, _end_with_parent) as pool:

        def run(work: Work, parts: Sequence[str], name: str) -> None:
            futures = [pool.submit(work, part) for part in parts]
            done = (future.result() for future in concurrent.futures.as_completed(futures))
            try:
                _count(done, len(parts), name)
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
    """Ends this process if a build has started it: it would wait for the lock that its parent holds."""
    if multiprocessing.current_process().name == _WORKER:
        os._exit(_CALLED_AGAIN)


def _count(done: Iterable[int], total: int, name: str) -> None:
    """Shows how many parts are done, and what they count together."""
    with tqdm.tqdm(total=total, desc=name, unit="source", disable=None, delay=2) as bar:
        for count in itertools.accumulate(done):
            bar.set_postfix_str(f"{count:,}", refresh=False)
            bar.update()


def _end_with_parent() -> None:
    """Ends this process silently at Ctrl-C, and as soon as its parent is gone: a killed build leaves nobody writing."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def beam_workers(runner: Any, options: Any) -> Run:
    """Returns `run(work, parts, name)`, which does `work` for each part on the workers of a Beam pipeline.

    They and this process must see the same folders. `run` raises StorageError when the pipeline fails; it says why.

    Args:
      runner: of `beam.Pipeline`, by name or object; None = what the options say.
      options: `PipelineOptions`.
    """
    beam = import_beam()

    def run(work: Work, parts: Sequence[str], name: str) -> None:
        try:
            with beam.Pipeline(runner=runner, options=options) as pipeline:
                _ = pipeline | "parts" >> beam.Create(list(parts)) | beam.Reshuffle() | name >> beam.Map(work)
        except Exception as error:  # each runner wraps what its workers raise in its own way
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise StorageError(f"Apache Beam: {reason}") from error

    return run


def beam_options(data: DataConfig) -> Any:
    """Returns `data.beam_options` as Beam's `PipelineOptions`.

    Raises:
      ConfigError: Apache Beam is not installed.
    """
    return import_beam().options.pipeline_options.PipelineOptions(list(data.beam_options))


def import_beam() -> ModuleType:
    """Returns the module apache_beam.

    Raises:
      ConfigError: it is not installed.
    """
    try:
        import apache_beam
        import apache_beam.options.pipeline_options
    except ImportError:
        raise ConfigError("data.beam_options needs Apache Beam; install ecomgpt_jax[beam]") from None
    return apache_beam
