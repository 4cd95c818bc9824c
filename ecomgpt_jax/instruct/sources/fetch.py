"""Downloading a source from its upstream repository (optional: an unpacked folder is as good)."""

import contextlib
import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from ecomgpt_jax.errors import DataError, StorageError
from ecomgpt_jax.instruct.sources.reading import Source, file_sha256, zip_member

MAX_DOWNLOAD_BYTES = 256 * 2**20
TIMEOUT_SECONDS = 60


def fetch(source: Source, sources_dir: str | os.PathLike[str]) -> Path:
    """Downloads what is missing of a source and returns its folder.

    Each file is taken from raw.githubusercontent.com at the source's commit, unpacked or cut down where the source
    says so, compared with its sha256 and put in place in one step. Files that are there and right stay as they are.

    Args:
        source: What to fetch.
        sources_dir: Folder that holds one folder a source; made if missing.

    Raises:
        StorageError: The network or the disk failed.
        DataError: Upstream's bytes are not those that this version reads, or are too many.
    """
    folder = Path(sources_dir) / source.name
    with tempfile.TemporaryDirectory(prefix="ecomgpt_jax_") as downloads:
        for file, expected in source.files.items():
            target = folder / file
            if target.is_file() and file_sha256(target) == expected:
                continue
            data = _upstream_bytes(source, file, Path(downloads))
            found = hashlib.sha256(data).hexdigest()
            if found != expected:
                raise DataError(
                    f"{_url(source, _place(source, file)[0])}: {file} has sha256 {found}, expected {expected}"
                )
            _write(target, data)
    return folder


def _place(source: Source, file: str) -> tuple[str, str]:
    """Returns a file's path in the repository, and its name in the archive there ("" if it lies open)."""
    upstream = source.upstream
    path, _, member = upstream.renamed.get(file, f"{upstream.path}/{file}" if upstream.path else file).partition("!")
    return path, member


def _url(source: Source, path: str) -> str:
    parts = (source.upstream.repo, source.upstream.commit, urllib.parse.quote(path))
    return "https://raw.githubusercontent.com/" + "/".join(parts)


def _upstream_bytes(source: Source, file: str, downloads: Path) -> bytes:
    path, member = _place(source, file)
    local = downloads / hashlib.sha256(path.encode()).hexdigest()
    if not local.exists():
        local.write_bytes(_download(_url(source, path)))
    data = zip_member(local, member) if member else local.read_bytes()
    return source.upstream.derive(data) if source.upstream.derive else data


def _download(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
            data = response.read(MAX_DOWNLOAD_BYTES + 1)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise StorageError(f"{url}: cannot be fetched ({error}); try again, or unpack the source by hand") from error
    if len(data) > MAX_DOWNLOAD_BYTES:
        raise DataError(f"{url}: more than {MAX_DOWNLOAD_BYTES} bytes; not fetched")
    return data


def _write(target: Path, data: bytes) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise StorageError(f"{target}: cannot be written ({error.strerror})") from error
