import os
from pathlib import Path

import pytest

from ecomgpt_jax.errors import DataError, MissingInputError
from ecomgpt_jax.files import (
    parse_json,
    read_json,
    read_json_lines,
    read_text,
    write_json,
    write_json_lines,
    write_text,
)


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    values = [{"a": "\u2028红\n"}, {"b": [1, None, 1.5]}]
    write_json_lines(tmp_path / "new" / "x.jsonl", values)
    assert list(read_json_lines(tmp_path / "new" / "x.jsonl")) == [(1, values[0]), (2, values[1])]
    write_json(tmp_path / "x.json", values)
    assert read_json(tmp_path / "x.json") == values


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half a pair \ud800")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, float("nan"))
    assert os.listdir(tmp_path) == ["x.txt"]
    assert path.read_text() == "old"


def test_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^f:7:6: "):
        parse_json('{"a" 1}', "f", 7)
    with pytest.raises(DataError, match=r"^f:8:2: "):
        parse_json('{"a": 1,\n x}', "f", 7)
    with pytest.raises(MissingInputError, match="nothing"):
        read_text(tmp_path / "nothing")
    with pytest.raises(MissingInputError):
        read_text(tmp_path)
    (tmp_path / "latin").write_bytes(b"\xef\xbb\xbfabc\xff")
    with pytest.raises(DataError, match="byte 6 "):
        read_text(tmp_path / "latin")
