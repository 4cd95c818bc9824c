import gzip
import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from ecomgpt_jax.errors import DataError
from ecomgpt_jax.instruct.sources import rows


def refused(found: Iterable[tuple[int, Any]]) -> list[str]:
    return [str(row) for _, row in found if isinstance(row, rows.Unreadable)]


def test_literal_is_parsed_and_never_run() -> None:
    assert rows.literal("{'a': [1, (2, -1)]}") == {"a": [1, (2, -1)]}
    for text in ("__import__('os').getcwd()", "[1,", "(" * 5000, "a"):
        with pytest.raises(ValueError, match=r"."):
            rows.literal(text)


def test_text_lines_ends_marks_and_broken_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\x0b\xe2\x80\xa8still two\n\n\xff\xfe\nlast\n")
    found = list(rows.text_lines(tmp_path / "a.txt"))
    assert found[:3] + found[4:] == [(1, "one"), (2, "two\x0b\u2028still two"), (3, ""), (5, "last")]
    assert found[3][0] == 4
    assert refused(found) == ["not utf-8: invalid start byte"]
    assert [line for _, line in rows.text_lines(tmp_path / "a.txt", fallback="latin-1")][3] == "ÿþ"
    assert [number for number, _ in rows.filled_lines(tmp_path / "a.txt")] == [1, 2, 4, 5]
    (tmp_path / "b.txt").write_bytes(b"")
    assert list(rows.text_lines(tmp_path / "b.txt")) == []


def test_json_lines_counts_and_rejects(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}\n\n{"a": \n[1]\n', encoding="utf-8")
    found = list(rows.json_lines(tmp_path / "a.json"))
    assert [number for number, _ in found] == [1, 3, 4]
    assert found[0][1] == {"a": 1}
    assert [reason[:12] for reason in refused(found)] == ["invalid JSON", "not a JSON o"]


def test_json_array_skips_comments_and_names_the_place(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("# by\n# me\n[[1],\n[2]]", encoding="utf-8")
    assert list(rows.json_array(tmp_path / "a.json")) == [(1, [1]), (2, [2])]
    for content in ("[1,", '{"a": 1}'):
        (tmp_path / "b.json").write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=r"b\.json"):
            list(rows.json_array(tmp_path / "b.json"))


def test_csv_rows_number_rows_by_their_first_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('\ufefftext,n\r\n"two\nlines",1\r\nshort\r\nplain,2\r\n', encoding="utf-8")
    first, second, third = rows.csv_rows(tmp_path / "a.csv")
    assert (first, third) == ((2, {"text": "two\nlines", "n": "1"}), (5, {"text": "plain", "n": "2"}))
    assert (second[0], refused([second])) == (4, ["1 fields instead of 2"])


def test_csv_rows_reject_bytes_of_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("a,b\n好,1\n".encode() + "好,2\n".encode("gb18030"))
    first, second = rows.csv_rows(tmp_path / "a.csv")
    assert first == (2, {"a": "好", "b": "1"})
    assert (second[0], refused([second])) == (3, ["a: bytes that are not text in the file's encoding"])


def test_csv_rows_find_the_delimiter_and_unpack(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a\tb\n1,2\t3\n", encoding="utf-8")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"a,b\n1,3\n"))
    make_zip(tmp_path / "c.zip", {"c.csv": "a,b\n1,3\n"})
    assert [row for _, row in rows.csv_rows(tmp_path / "a.csv")] == [{"a": "1,2", "b": "3"}]
    for file in ("b.csv.gz", "c.zip"):
        assert [row for _, row in rows.csv_rows(tmp_path / file)] == [{"a": "1", "b": "3"}]


def test_csv_field_without_end_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('a,b\n1,2\n3,"' + "x" * 200_000, encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.csv:3: field larger than"):
        list(rows.csv_rows(tmp_path / "a.csv"))


def test_conll_columns_blank_tokens_and_broken_blocks(tmp_path: Path) -> None:
    text = b"-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n\n\n  O\na\tN\tB-x\n\nok O\n\xff O\n\nlast O"
    (tmp_path / "a.conll").write_bytes(text)
    first, second, broken, last = rows.conll_rows(tmp_path / "a.conll")
    assert first == (3, (["EU", "rejects"], ["B-ORG", "O"]))
    assert second == (7, ([" ", "a"], ["O", "B-x"]))
    assert (broken[0], refused([broken])) == (10, ["not utf-8: invalid start byte"])
    assert last == (13, (["last"], ["O"]))


def test_xml_elements_by_tag_also_of_packed_files(tmp_path: Path) -> None:
    text = '<?xml version="1.0" encoding="latin-1"?><all><a n="1">é</a><b/><a n="2"><a/></a></all>'.encode("latin-1")
    (tmp_path / "a.xml").write_bytes(text)
    (tmp_path / "b.xml.gz").write_bytes(gzip.compress(text))
    for file in ("a.xml", "b.xml.gz"):
        found = list(rows.xml_elements(tmp_path / file, "a"))
        assert [(number, each.get("n"), each.text) for number, each in found] == [(1, "1", "é"), (2, "2", None)]
    (tmp_path / "c.xml.gz").write_bytes(gzip.compress(b"<all>"))
    with pytest.raises(DataError, match=r"c\.xml\.gz: invalid XML: "):
        list(rows.xml_elements(tmp_path / "c.xml.gz", "a"))


def make_zip(path: Path, members: dict[str, Any]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_zip_member_is_found_in_any_folder(tmp_path: Path) -> None:
    make_zip(tmp_path / "a.zip", {"x/one.txt": "1", "two.txt": "2", "../other_one.txt": "3"})
    assert rows.zip_member(tmp_path / "a.zip", "one.txt") == b"1"
    assert rows.zip_member(tmp_path / "a.zip", "two.txt") == b"2"
    with pytest.raises(DataError, match=r"0 files 'three\.txt'"):
        rows.zip_member(tmp_path / "a.zip", "three.txt")


def test_zip_bombs_and_broken_archives_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_zip(tmp_path / "bomb.zip", {"a": b"0" * 1_000_000, "b": io.BytesIO(bytes(range(256))).read()})
    with pytest.raises(DataError, match="unpacks from"):
        rows.zip_member(tmp_path / "bomb.zip", "a")
    assert len(rows.zip_member(tmp_path / "bomb.zip", "b")) == 256
    monkeypatch.setattr(rows, "MAX_MEMBER_BYTES", 100)
    with pytest.raises(DataError, match="unpacks from"):
        rows.zip_member(tmp_path / "bomb.zip", "b")
    (tmp_path / "no.zip").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match=r"no\.zip"):
        rows.zip_member(tmp_path / "no.zip", "a")
