import hashlib
import io
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ecomgpt_jax.errors import DataError, StorageError
from ecomgpt_jax.instruct.sources import fetch as fetching
from ecomgpt_jax.instruct.sources.reading import Source, Upstream


def archive(members: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as out:
        for name, data in members.items():
            out.writestr(name, data)
    return stream.getvalue()


REMOTE = {
    "https://raw.githubusercontent.com/some/repo/abc/data/a%20b.txt": b"one",
    "https://raw.githubusercontent.com/some/repo/abc/other/x.zip": archive({"in/c.txt": b"two", "in/d.txt": b"three"}),
}


def make_source(wanted: dict[str, bytes], derive: Callable | None = None) -> Source:
    renamed = {"c.txt": "other/x.zip!c.txt", "d.txt": "other/x.zip!d.txt", "e.txt": "../../evil"}
    return Source(
        name="toy",
        language="en",
        licence="MIT",
        redistributable=True,
        upstream=Upstream("some/repo", "abc", "data", renamed, derive),
        files={name: hashlib.sha256(data).hexdigest() for name, data in wanted.items()},
        records=1,
        read=lambda folder, files, intake: iter(()),
    )


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    urls = []

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        urls.append(url)
        if url not in REMOTE:
            raise urllib.error.HTTPError(url, 404, "Not Found", None, None)
        return io.BytesIO(REMOTE[url])

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return urls


def test_fetch_open_and_zipped_files_once(tmp_path: Path, opened: list[str]) -> None:
    source = make_source({"a b.txt": b"one", "c.txt": b"two", "d.txt": b"three"})
    folder = fetching.fetch(source, tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "a b.txt": b"one",
        "c.txt": b"two",
        "d.txt": b"three",
    }
    assert opened == list(REMOTE)  # the archive of two files is fetched once
    (folder / "c.txt").write_bytes(b"spoilt")
    fetching.fetch(source, tmp_path)
    assert (folder / "c.txt").read_bytes() == b"two"
    assert len(opened) == 3  # what was right stayed


def test_derived_files(tmp_path: Path, opened: list[str]) -> None:
    folder = fetching.fetch(make_source({"a b.txt": b"ONE"}, derive=bytes.upper), tmp_path)
    assert (folder / "a b.txt").read_bytes() == b"ONE"


def test_wrong_bytes_are_not_kept(tmp_path: Path, opened: list[str]) -> None:
    with pytest.raises(DataError, match="sha256"):
        fetching.fetch(make_source({"a b.txt": b"other"}), tmp_path)
    assert not list(tmp_path.rglob("*.*"))


def test_network_errors_and_sizes(tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match="404"):
        fetching.fetch(make_source({"nowhere.txt": b""}), tmp_path)
    monkeypatch.setattr(fetching, "MAX_DOWNLOAD_BYTES", 2)
    with pytest.raises(DataError, match="more than 2 bytes"):
        fetching.fetch(make_source({"a b.txt": b"one"}), tmp_path)


def test_unwritable_folder(tmp_path: Path, opened: list[str]) -> None:
    (tmp_path / "toy").write_text("a file in the way", encoding="utf-8")
    with pytest.raises(StorageError, match="cannot be written"):
        fetching.fetch(make_source({"a b.txt": b"one"}), tmp_path)
