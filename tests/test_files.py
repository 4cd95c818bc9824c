import os
from pathlib import Path

import pytest

from ecomgpt_jax.errors import DataError, MissingInputError
from ecomgpt_jax.files import (
    check_output,
    data_home,
    find_data,
    foreign,
    new_directory,
    parse_json,
    read_json,
    read_json_lines,
    read_text,
    safe_name,
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


def test_a_directory_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), new_directory(tmp_path / "a" / "b") as scratch:
        (scratch / "folder" / "file").write_text("no such folder")
    assert list((tmp_path / "a").iterdir()) == []
    with new_directory(tmp_path / "a" / "b") as scratch:
        (scratch / "file").write_text("whole")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a/b/file").read_text() == "whole"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_an_existing_directory_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "file").write_text("theirs")
    with pytest.raises(OSError, match="not empty"), new_directory(tmp_path / "b"):
        pass
    with new_directory(tmp_path / "b", shared=True) as scratch:
        (scratch / "file").write_text("ours")
    assert (tmp_path / "b/file").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path: Path) -> None:
    (tmp_path / ".b.making-dead").mkdir()
    with new_directory(tmp_path / "b", shared=True):
        assert not (tmp_path / ".b.making-dead").exists()
        with new_directory(tmp_path / "b", shared=True) as second:
            assert len(list(tmp_path.glob(".b.making-*"))) == 2
            (second / "file").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize(
    "name",
    ["..", "../x", "a/../../x", "/etc/passwd", "a\\..\\x", ".hidden", "a\0b", "~root", "a" * 201, "x\n", "é", "", None],
)
def test_names_that_leave_their_folder_are_refused(name: object) -> None:
    with pytest.raises(DataError, match="not a safe name"):
        safe_name(name, "task")


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "EN-Lenovo-NER-NER", "7b1", "a..b"])
def test_plain_names_are_safe(name: str) -> None:
    assert safe_name(name, "task") == name


def test_data_is_found_by_setting_environment_and_default_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("set", "named", "home/sources"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("ECOMGPT_DATA", str(tmp_path / "home"))
    monkeypatch.setenv("ECOMGPT_SOURCES", str(tmp_path / "named"))
    assert find_data(str(tmp_path / "set"), "ECOMGPT_SOURCES", "sources") == tmp_path / "set"
    assert find_data("", "ECOMGPT_SOURCES", "sources") == tmp_path / "named"
    monkeypatch.delenv("ECOMGPT_SOURCES")
    assert find_data("", "ECOMGPT_SOURCES", "sources") == tmp_path / "home" / "sources"
    assert find_data("", "ECOMGPT_EVAL", "evaluation") is None
    monkeypatch.setenv("ECOMGPT_EVAL", str(tmp_path / "nowhere"))
    with pytest.raises(MissingInputError, match=r"nowhere: no such folder \(ECOMGPT_EVAL\).*fetch evaluation"):
        find_data("", "ECOMGPT_EVAL", "evaluation")
    monkeypatch.delenv("ECOMGPT_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_home() == tmp_path / ".cache/ecomgpt_jax/data"


def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    check_output(tmp_path / "new" / "out.jsonl")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "new", tmp_path / "file" / "out.jsonl"):
        with pytest.raises(OSError, match=r"folder|exists|directory"):
            check_output(path)


def test_lines_that_cannot_be_written_again_are_refused_with_their_place(tmp_path: Path) -> None:
    for bad, column in (
        ('{"id": 1e999}', 8),
        ('{"id": [NaN]}', 9),
        ('{"id": 1, "id": 2}', 11),
        ('{"i": ' + "[" * 200 + "]" * 200 + "}", 106),
    ):
        (tmp_path / "x.jsonl").write_text(f'{{"id": 1}}\n{bad}\n')
        with pytest.raises(DataError, match=rf"x\.jsonl:2:{column}: "):
            list(read_json_lines(tmp_path / "x.jsonl"))
    for text, message in (("[\n{}\n]", "a JSON array"), ('{\n"id": 1\n}', "a JSON object over 3 lines")):
        (tmp_path / "x.jsonl").write_text(text)
        with pytest.raises(DataError, match=f"x.jsonl:1:1: {message}"):
            list(read_json_lines(tmp_path / "x.jsonl"))
    (tmp_path / "x.jsonl").write_bytes(b'{"id": 1}\n{"id": "\xba\xec"}')
    with pytest.raises(DataError, match=r"x\.jsonl:2:9: not UTF-8 at byte 18 \(looks like GBK\)"):
        list(read_json_lines(tmp_path / "x.jsonl"))


@pytest.mark.parametrize("pad", ["", "x"])
def test_a_table_with_nul_characters_is_not_taken_for_utf_16(pad: str) -> None:
    content = f'"prompt{pad}"\t"completion"\r\n'.encode() + b'""\t"ab\0"\r\n' * 9  # all at one parity
    assert foreign(content) == ""


@pytest.mark.parametrize("text", ["prompt,completion\na,b\n", "标题,标签\n红色的马克杯,mug\n一,b\n", "é,è\nprix,oui\n"])
def test_utf_16_without_a_mark_is_named(text: str) -> None:
    assert foreign((text * 3).encode("utf-16le")).startswith("UTF-16LE")
    assert foreign((text * 3).encode("utf-16be")).startswith("UTF-16BE")
