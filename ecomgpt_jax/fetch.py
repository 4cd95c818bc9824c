"""Fetches data: `python -m ecomgpt_jax.fetch all`.

    python -m ecomgpt_jax.fetch sources|evaluation|benchmarks|all [NAME ...] --dir DIR

Prints licences and sizes, asks for confirmation, and downloads missing files; each file is compared with its sha256 and
renamed into place. Correct files stay, so the same command continues where an earlier one stopped. The token of
$GITHUB_TOKEN, if set, is sent to GitHub only.
"""

import concurrent.futures
import hashlib
import os
import shlex
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags
from tqdm import tqdm

from ecomgpt_jax import cli
from ecomgpt_jax.download import UPSTREAM, Downloader
from ecomgpt_jax.errors import ConfigError, DataError, EcomError, StorageError
from ecomgpt_jax.files import data_home
from ecomgpt_jax.instruct.sources import checksums
from ecomgpt_jax.instruct.sources.places import GROUPS, Collection, Wanted, choose
from ecomgpt_jax.instruct.sources.rows import zip_member
from ecomgpt_jax.waiting import only_one

_DIR = flags.DEFINE_string("dir", "", "receives sources/, evaluation/, benchmarks/; default ~/.cache/ecomgpt_jax/data")
_YES = flags.DEFINE_bool("yes", False, "do not ask")
_REDISTRIBUTABLE = flags.DEFINE_bool("redistributable", False, "only collections whose licence allows redistribution")
_MIRROR = flags.DEFINE_string("mirror", UPSTREAM, "address to fetch from; owner/name/commit/path is appended to it")
_PIN = flags.DEFINE_string("pin", "", "for contributors: write checksums of DIR/<this>, such as sources/en_mams")

PARTS = ".parts"  # folder of incomplete downloads
CONNECTIONS = 4  # concurrent, to one host
VARIABLES = {"sources": "ECOMGPT_SOURCES", "evaluation": "ECOMGPT_EVAL", "benchmarks": "ECOMGPT_BENCHMARKS"}


def digest_of(data: bytes, like: str) -> str:
    """Returns the sha256 of bytes, or their git blob id if `like` has the 40 digits of one."""
    if len(like) == 40:
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    return hashlib.sha256(data).hexdigest()


def is_right(path: Path, wanted: Wanted) -> bool:
    """Returns whether a file exists and has the expected bytes."""
    if not path.is_file():
        return False
    if len(wanted.digest) == 64:
        return checksums.file_sha256(path) == wanted.digest
    return digest_of(path.read_bytes(), wanted.digest) == wanted.digest


def fetch_remote(
    downloader: Downloader, remote: str, wanted: list[Wanted], directory: Path, received: Callable[[int], None]
) -> None:
    """Downloads one upstream file and makes the wanted files from it.

    Args:
      downloader: shared by all threads.
      remote: path below the downloader's base.
      wanted: files to make from it, none of which exists yet.
      directory: folder of `--dir`.
      received: gets the number of bytes of each piece.

    Raises:
      EcomError: as `Downloader.download`; DataError if the bytes differ from the pinned ones.
    """
    part = directory / PARTS / hashlib.sha256(remote.encode()).hexdigest()
    plain = wanted[0] if not (wanted[0].member or wanted[0].derive) else None
    for anew in (False, True) if part.exists() else (True,):  # a kept part may belong to another file
        if anew or not (plain and is_right(part, plain)):
            downloader.download(remote, part, received)
        try:
            _place(downloader, part, wanted, directory)
            break
        except DataError:
            part.unlink(missing_ok=True)
            if anew:
                raise
    part.unlink(missing_ok=True)


def _place(downloader: Downloader, part: Path, wanted: list[Wanted], directory: Path) -> None:
    for file in wanted:
        data = zip_member(part, file.member) if file.member else part.read_bytes()
        if file.derive:
            try:
                data = file.derive(data)
            except (ValueError, KeyError, OSError) as error:
                raise DataError(f"{downloader.url(file.remote)}: {file.target} cannot be made ({error})") from error
        found = digest_of(data, file.digest)
        if found != file.digest:
            kind = "git blob id" if len(file.digest) == 40 else "sha256"
            raise DataError(
                f"{downloader.url(file.remote)}: {file.target}: expected {kind} {file.digest}, found {found}"
            )
        _write(directory, file.target, data)


def _write(directory: Path, name: str, data: bytes) -> None:
    """Writes a file atomically; after a kill an incomplete one is left only in `.parts`."""
    target, scratch = directory / name, directory / PARTS / hashlib.sha256(name.encode()).hexdigest()
    try:
        scratch.write_bytes(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(scratch, target)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise StorageError(f"{target}: cannot be written ({error.strerror or error})") from error


def missing_files(collections: list[Collection], directory: Path) -> dict[str, list[Wanted]]:
    """Returns {remote path: files to make from it} for all files that are absent or have other bytes."""
    missing: dict[str, list[Wanted]] = {}
    for collection in tqdm(collections, "checking", leave=False, disable=not sys.stderr.isatty()):
        for wanted in collection.files:
            if not is_right(directory / wanted.target, wanted):
                missing.setdefault(wanted.remote, []).append(wanted)
    return missing


def fetch(missing: dict[str, list[Wanted]], directory: Path, mirror: str = UPSTREAM, token: str = "") -> None:
    """Downloads everything, `CONNECTIONS` files at one time.

    After a missing or wrong file the others are still downloaded; a failing connection or disk ends the download.
    Complete files and parts stay.

    Raises:
      EcomError: the first failure.
    """
    stop, failures = threading.Event(), []
    (directory / PARTS).mkdir(parents=True, exist_ok=True)
    with (
        tqdm(desc="fetching", unit="B", unit_scale=True, mininterval=0.5) as progress,
        concurrent.futures.ThreadPoolExecutor(CONNECTIONS) as pool,
    ):
        downloader = Downloader(mirror, token, say=lambda line: tqdm.write(line, sys.stderr), sleep=stop.wait)

        def received(count: int) -> None:
            progress.update(count)
            if stop.is_set():
                raise StorageError("stopped")

        def one(remote: str, wanted: list[Wanted]) -> None:
            try:
                if not stop.is_set():
                    fetch_remote(downloader, remote, wanted, directory, received)
            except EcomError as error:
                if not stop.is_set():
                    failures.append(error)
                if isinstance(error, StorageError):
                    stop.set()

        running = [pool.submit(one, *item) for item in missing.items()]
        try:
            for number, _ in enumerate(concurrent.futures.as_completed(running), 1):
                progress.set_postfix_str(f"{number} of {len(running)} files", refresh=False)
        except BaseException:
            stop.set()
            raise
    if failures:
        first = next((error for error in failures if isinstance(error, StorageError)), failures[0])
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise type(first)(f"{first}{more}; files that arrived whole are in {directory}")
    shutil.rmtree(directory / PARTS)


def table(collections: list[Collection], missing: dict[str, list[Wanted]]) -> str:
    """Returns a line per collection: name, size, whether it may be redistributed, licence."""
    open_ = {wanted.target for files in missing.values() for wanted in files}
    width = max(len(each.name) for each in collections) + 2
    lines = [f"{'name':<{width}}{'size':>9}  {'pass on':<8} licence and terms"]
    for each in collections:
        size = f"{each.bytes / 2**20:.1f} MB" if each.bytes else "unknown"
        if not any(wanted.target in open_ for wanted in each.files):
            size = "there" if each.files else "-"
        lines.append(f"{each.name:<{width}}{size:>9}  {'yes' if each.redistributable else 'no':<8} {each.licence}")
    return "\n".join(lines)


def _agree(collections: list[Collection], missing: dict[str, list[Wanted]], directory: Path) -> None:
    """Asks for confirmation, and checks the free space.

    Raises:
      ConfigError: the answer is no, or there is no terminal.
      StorageError: the disk has too little space.
    """
    absent = [
        each for each in collections if each.files and not any((directory / w.target).exists() for w in each.files)
    ]
    needed, free = sum(each.bytes for each in absent), shutil.disk_usage(directory).free
    if needed > free:
        raise StorageError(f"{directory}: needs {needed:,} bytes, but the disk has {free:,} left; give another --dir")
    if _YES.value:
        return
    if not sys.stdin.isatty():
        raise ConfigError("fetch: no terminal to ask on; use --yes if you accept these licences and terms")
    files = sum(len(wanted) for wanted in missing.values())
    answer = input(f"Fetch {files} files into {directory} under these licences and terms? [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        raise ConfigError("fetch: not agreed; nothing was fetched")


def main(arguments: list[str]) -> None:
    """Runs the command; see the module's docstring."""
    directory = Path(_DIR.value).expanduser().absolute() if _DIR.value else data_home()
    if _PIN.value:
        print(f"{checksums.TABLE}: {checksums.pin(_PIN.value, directory)} files of {_PIN.value}")
        _print_variables(directory, [group for group in GROUPS if _PIN.value.startswith(f"{group}/")])
        return
    if not arguments or arguments[0] not in (*GROUPS, "all"):
        raise ConfigError(f"fetch: name what to fetch: {', '.join(GROUPS)} or all")
    if not _MIRROR.value.startswith(("https://", "http://")):
        raise ConfigError(f"fetch: --mirror {_MIRROR.value!r} must begin with https:// or http://")
    groups = GROUPS if arguments[0] == "all" else (arguments[0],)
    collections = choose(groups, tuple(arguments[1:]), redistributable=_REDISTRIBUTABLE.value)
    with only_one(directory, "fetch", StorageError, "wait for it"):
        missing = missing_files(collections, directory)
        print(table(collections, missing), flush=True)
        if missing:
            _agree(collections, missing, directory)
            fetch(missing, directory, _MIRROR.value.rstrip("/"), os.environ.get("GITHUB_TOKEN", ""))
    files = sum(len(each.files) for each in collections)
    print(f"{files} files of {len(collections)} collections are in {directory}, each with the pinned checksum")
    _print_variables(directory, groups)


def _print_variables(directory: Path, groups: Sequence[str]) -> None:
    """Prints the environment variables by which the other commands find these groups."""
    if directory == data_home():
        print("this is the default folder, which the commands find without a variable")
        return
    for group in groups:
        print(f"export {VARIABLES[group]}={shlex.quote(str(directory / group))}")


if __name__ == "__main__":
    cli.run(main)
