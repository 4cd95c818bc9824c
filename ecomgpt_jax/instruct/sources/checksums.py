"""Names, sizes and sha256 of every file of `fetch`, read from `files.sha256` next to this module.

The file has the form of `sha256sum -c`, with paths below the folder of `fetch --dir`: `sources/<source>/<file>`,
`evaluation/<dataset>/tasks/<task>/<file>`, `benchmarks/<benchmark>/<file>`.
"""

import hashlib
import re
from pathlib import Path

from ecomgpt_jax.errors import DataError, MissingInputError
from ecomgpt_jax.files import write_text

TABLE = Path(__file__).with_name("files.sha256")
_SIZE = re.compile(r"# (\d+) (\S+)")
_FILE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def file_sha256(path: Path) -> str:
    """Returns a file's sha256 in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_table(table: Path = TABLE) -> tuple[dict[str, dict[str, str]], dict[str, int]]:
    """Returns {collection: {file in it: sha256}} and {collection: bytes}; `sources/en_mams` is a collection.

    Raises:
      DataError: a line is neither a size, nor a checksum of a file in that collection, nor a comment.
    """
    files: dict[str, dict[str, str]] = {}
    sizes: dict[str, int] = {}
    name = ""
    for number, line in enumerate(table.read_text(encoding="utf-8").split("\n"), 1):
        if size := _SIZE.fullmatch(line):
            name = size[2]
            files[name], sizes[name] = {}, int(size[1])
        elif (entry := _FILE.fullmatch(line)) and name and entry[2].startswith(f"{name}/"):
            files[name][entry[2].removeprefix(f"{name}/")] = entry[1]
        elif line and not line.startswith("# "):
            raise DataError(f"{table}:{number}: no `sha256  path` below {name or 'a line with a size'}: {line[:100]!r}")
    return files, sizes


def pin(name: str, directory: Path, table: Path = TABLE) -> int:
    """Writes size and checksums of a collection on disk into the table; returns the number of its files.

    Args:
      name: such as `sources/en_mams`.
      directory: folder that contains the path `name`.
      table: the file to change.

    Raises:
      MissingInputError: there is no such folder, or no file in it.
    """
    folder = directory / name
    found = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not found:
        raise MissingInputError(f"{folder}: no files to pin; give --dir the folder that holds {name}")
    kept, skipping = [], False
    for line in table.read_text(encoding="utf-8").splitlines():
        if size := _SIZE.fullmatch(line):
            skipping = size[2] == name
        if not skipping:
            kept.append(line)
    kept.append(f"# {sum(path.stat().st_size for path in found)} {name}")
    kept += [f"{file_sha256(path)}  {name}/{path.relative_to(folder).as_posix()}" for path in found]
    write_text(table, "\n".join(kept) + "\n")
    return len(found)


ALL, SIZES = read_table()
FILES: dict[str, dict[str, str]] = {
    name.removeprefix("sources/"): files for name, files in ALL.items() if name.startswith("sources/")
}
