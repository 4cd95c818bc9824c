import re
import subprocess
from pathlib import Path

import pytest

from ecomgpt_jax.errors import DataError, MissingInputError
from ecomgpt_jax.instruct.sources import checksums


def test_every_file_has_one_sha256_and_a_safe_relative_path() -> None:
    files = [(name, file) for name, listed in checksums.ALL.items() for file in listed]
    groups = [name.split("/")[0] for name in checksums.ALL]
    assert {group: groups.count(group) for group in groups} == {"sources": 60, "evaluation": 13, "benchmarks": 2}
    assert sum(len(listed) for listed in checksums.FILES.values()) == 230
    assert all(not file.startswith("/") and ".." not in file.split("/") for _, file in files)
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for listed in checksums.ALL.values() for digest in listed.values())
    targets = [f"{name}/{file}".casefold() for name, file in files]
    assert len(targets) == len(set(targets))  # also where the file system knows no case


def test_what_is_pinned_is_read_and_sha256sum_agrees(tmp_path: Path) -> None:
    folder, table = tmp_path / "sources" / "en_shop", tmp_path / "files.sha256"
    folder.mkdir(parents=True)
    (folder / "items.csv").write_text("a,b\n")
    (folder / "更多 items.csv").write_text("c,d,e\n", encoding="utf-8")
    table.write_text("# heading\n# 3 sources/other\n" + "a" * 64 + "  sources/other/x\n")
    assert checksums.pin("sources/en_shop", tmp_path, table) == 2
    (folder / "items.csv").write_text("changed\n")
    assert checksums.pin("sources/en_shop", tmp_path, table) == 2
    files, sizes = checksums.read_table(table)
    assert sizes == {"sources/other": 3, "sources/en_shop": 14}
    assert list(files["sources/en_shop"]) == ["items.csv", "更多 items.csv"]
    assert files["sources/other"] == {"x": "a" * 64}
    done = subprocess.run(["sha256sum", "-c", table], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.count(": OK") == 2
    assert done.stdout.count("FAILED") == 1
    with pytest.raises(MissingInputError, match="no files to pin"):
        checksums.pin("sources/nothing", tmp_path, table)


@pytest.mark.parametrize(
    "line", ["a" * 64 + "  sources/b/x", "a" * 63 + "  sources/a/x", "sources/a/x", "a" * 64 + "  elsewhere/x"]
)
def test_a_line_out_of_place_is_an_error(tmp_path: Path, line: str) -> None:
    (tmp_path / "t").write_text(f"# 3 sources/a\n{line}\n")
    with pytest.raises(DataError, match=":2:"):
        checksums.read_table(tmp_path / "t")
