"""Compares every file of `fetch` with copies of the upstream repositories, and prints a Markdown table.

    python scripts/check_places.py CLONES > table.md

CLONES contains git directories (`owner/name`, bare or not). A file that is missing in a partial clone is compared by
its git blob id, if it is not unpacked or derived; its bytes are then read from --data, a folder made by `fetch`.
"""

import argparse
import collections
import subprocess
import tempfile
from pathlib import Path

from ecomgpt_jax.errors import DataError
from ecomgpt_jax.fetch import digest_of
from ecomgpt_jax.instruct.sources.places import COLLECTIONS, Collection, Wanted
from ecomgpt_jax.instruct.sources.rows import zip_member


def _git(repository: Path, *arguments: str) -> bytes | None:
    """Returns the output of a git command; None if it fails."""
    command = ["git", "-c", "safe.directory=*", "-C", str(repository), *arguments]
    done = subprocess.run(command, capture_output=True, check=False)
    return None if done.returncode else done.stdout


def check(wanted: Wanted, clones: Path, data: Path | None) -> str:
    """Returns `equal`, `equal by blob id`, or why a file could not be compared or differs."""
    owner, name, commit, path = wanted.remote.split("/", 3)
    repository = clones / owner / name
    if not repository.is_dir():
        return "no copy of the repository"
    if _git(repository, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        return "commit not in the copy"
    blob = _git(repository, "rev-parse", "--verify", "--quiet", f"{commit}:{path}")
    if blob is None:
        return "DIFFERS: no such path at the commit"
    blob_id = blob.decode().strip()
    if wanted.digest == blob_id:
        return "equal by blob id"
    content = _git(repository, "cat-file", "blob", blob_id)
    if content is None:
        local = data / wanted.target if data else None
        if wanted.member or wanted.derive or not (local and local.is_file()):
            return "bytes not in the copy"
        return "equal by blob id" if digest_of(local.read_bytes(), blob_id) == blob_id else "DIFFERS by blob id"
    try:
        if wanted.member:
            with tempfile.NamedTemporaryFile() as archive:
                archive.write(content)
                archive.flush()
                content = zip_member(Path(archive.name), wanted.member)
        content = wanted.derive(content) if wanted.derive else content
    except (DataError, ValueError, KeyError) as error:
        return f"DIFFERS: {error}"
    return "equal" if digest_of(content, wanted.digest) == wanted.digest else "DIFFERS"


def table(collections_: list[Collection], clones: Path, data: Path | None = None) -> str:
    """Returns the Markdown table: one line per collection with the outcome of all its files."""
    lines = ["| collection | repository at commit | files | compared |", "|---|---|---:|---|"]
    for each in collections_:
        outcomes = collections.Counter(check(wanted, clones, data) for wanted in each.files)
        where = {"/".join(w.remote.split("/")[:2]) + "@" + w.remote.split("/")[2][:12] for w in each.files} or {"-"}
        said = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()) or "never fetched"
        lines.append(f"| {each.name} | {', '.join(sorted(where))} | {len(each.files)} | {said} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clones", type=Path)
    parser.add_argument("--data", type=Path, default=None)
    arguments = parser.parse_args()
    print(table(list(COLLECTIONS.values()), arguments.clones, arguments.data))
