import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ecomgpt_jax.errors import DataError
from ecomgpt_jax.instruct.sources import reading
from ecomgpt_jax.instruct.sources.reading import ReadLog


def test_text_group_folds_case_width_and_punctuation() -> None:
    assert reading.text_group("iPhone 8, 64GB!", "x") == reading.text_group("ＩＰＨＯＮＥ８　６４ｇｂ", "y")
    assert reading.text_group("iPhone 8", "x") != reading.text_group("iPhone 9", "x")
    assert reading.text_group("!?…", "file:1") == "file:1"


def test_text_group_does_not_depend_on_the_hash_seed() -> None:
    code = "from ecomgpt_jax.instruct.sources.reading import text_group as g; print(g('手机壳 X', ''))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "LC_ALL": "C", "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert found == {reading.text_group("手机壳 X", "") + "\n"}


def test_make_span_trims_blanks_and_refuses_offsets_outside() -> None:
    span = reading.make_span("a red mug", 1, 6, "colour")
    assert (span.start, span.end, span.term) == (2, 5, "red")
    for start, end in ((0, 10), (-1, 2), (3, 3), (1, 2)):
        with pytest.raises(ValueError, match="span"):
            reading.make_span("a red mug", start, end, "colour")


def test_find_spans_prefers_long_terms_and_never_overlaps() -> None:
    text = "steel steel bottle"
    spans = reading.find_spans(text, [("material", "steel"), ("item", "steel bottle"), ("none", ""), ("none", "cup")])
    assert [(s.start, s.end, s.type) for s in spans] == [(0, 5, "material"), (6, 18, "item")]


def test_join_tokens() -> None:
    assert (
        reading.join_tokens(["味", "道", "好", "，", "KFC", "king", "的", "5", "元"], "zh") == "味道好，KFC king的5元"
    )
    assert reading.join_tokens(["so", "good"], "en") == "so good"


def test_literal_is_parsed_and_never_run() -> None:
    assert reading.literal("{'a': [1, (2, -1)]}") == {"a": [1, (2, -1)]}
    for text in ("__import__('os').getcwd()", "[1,", "(" * 5000, "a"):
        with pytest.raises(ValueError, match=r"."):
            reading.literal(text)


def test_text_lines_ends_marks_and_broken_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\x0b\xe2\x80\xa8still two\n\n\xff\xfe\nlast\n")
    log = ReadLog()
    assert list(reading.text_lines(tmp_path, "a.txt", log)) == [
        (1, "one"),
        (2, "two\x0b\u2028still two"),
        (3, ""),
        (5, "last"),
    ]
    assert [(bad.file, bad.line) for bad in log.bad] == [("a.txt", 4)]
    assert [line for _, line in reading.text_lines(tmp_path, "a.txt", ReadLog(), fallback="latin-1")][3] == "ÿþ"
    (tmp_path / "b.txt").write_bytes(b"")
    assert list(reading.text_lines(tmp_path, "b.txt", log)) == []


def test_json_lines_counts_and_rejects(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}\n\n{"a": \n[1]\n', encoding="utf-8")
    log = ReadLog()
    assert list(reading.json_lines(tmp_path, "a.json", log)) == [(1, {"a": 1})]
    assert log.rows == 3
    assert [bad.line for bad in log.bad] == [3, 4]


def test_json_array_skips_comments_and_names_the_place(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("# by\n# me\n[[1],\n[2]]", encoding="utf-8")
    log = ReadLog()
    assert list(reading.json_array(tmp_path, "a.json", log)) == [(1, [1]), (2, [2])]
    assert log.rows == 2
    for content in ("[1,", '{"a": 1}'):
        (tmp_path / "b.json").write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=r"b\.json"):
            list(reading.json_array(tmp_path, "b.json", ReadLog()))


def test_csv_rows_number_rows_by_their_first_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('\ufefftext,n\r\n"two\nlines",1\r\nshort\r\nplain,2\r\n', encoding="utf-8")
    log = ReadLog()
    assert list(reading.csv_rows(tmp_path, "a.csv", log)) == [
        (2, {"text": "two\nlines", "n": "1"}),
        (5, {"text": "plain", "n": "2"}),
    ]
    assert log.rows == 3
    assert (log.bad[0].line, log.bad[0].reason) == (4, "1 fields instead of 2")


def test_csv_rows_reject_bytes_of_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("a,b\n好,1\n".encode() + "好,2\n".encode("gb18030"))
    log = ReadLog()
    assert [row["b"] for _, row in reading.csv_rows(tmp_path, "a.csv", log)] == ["1"]
    assert (log.bad[0].line, log.bad[0].column) == (3, "a")


def make_zip(path: Path, members: dict[str, Any]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_zip_member_is_found_in_any_folder(tmp_path: Path) -> None:
    make_zip(tmp_path / "a.zip", {"x/one.txt": "1", "two.txt": "2", "../other_one.txt": "3"})
    assert reading.zip_member(tmp_path / "a.zip", "one.txt") == b"1"
    assert reading.zip_member(tmp_path / "a.zip", "two.txt") == b"2"
    with pytest.raises(DataError, match=r"0 files 'three\.txt'"):
        reading.zip_member(tmp_path / "a.zip", "three.txt")


def test_zip_bombs_and_broken_archives_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_zip(tmp_path / "bomb.zip", {"a": b"0" * 1_000_000, "b": io.BytesIO(bytes(range(256))).read()})
    with pytest.raises(DataError, match="unpacks from"):
        reading.zip_member(tmp_path / "bomb.zip", "a")
    assert len(reading.zip_member(tmp_path / "bomb.zip", "b")) == 256
    monkeypatch.setattr(reading, "MAX_MEMBER_BYTES", 100)
    with pytest.raises(DataError, match="unpacks from"):
        reading.zip_member(tmp_path / "bomb.zip", "b")
    (tmp_path / "no.zip").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match=r"no\.zip"):
        reading.zip_member(tmp_path / "no.zip", "a")
