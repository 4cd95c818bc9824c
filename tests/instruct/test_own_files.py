"""User files: four kinds, read into records; faults are reported with their place."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError, StorageError
from ecomgpt_jax.files import BadRecord
from ecomgpt_jax.instruct.own_data import load
from ecomgpt_jax.instruct.own_files import _tab_separated, checksum, read

COMMIT = "0123456789abcdef0123456789abcdef01234567"
COMPLETION = {"prompt": "Say: ", "completion": " yes"}
LINE = json.dumps({"prompt": "红色的", "completion": "马克杯"}, ensure_ascii=False) + "\n"


def put(tmp_path: Path, name: str, content: str | bytes) -> str:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(tmp_path / name)


def rows(spec: str) -> list[tuple[int, Any]]:
    """Returns (line, values of the fields, or the reason why it is refused) of each record."""
    return [(n, r.reason if isinstance(r, BadRecord) else tuple(r.values())) for n, _, r in read(spec)]


def test_csv_and_tsv(tmp_path: Path) -> None:
    for name, comma in (("a.csv", ","), ("a.tsv", "\t")):
        text = 'prompt,completion\n"two\nlines",b\nc,\nonly\nd,e\n'.replace(",", comma)
        (tmp_path / name).write_text("\ufeff" + text, encoding="utf-8")
        file = load(str(tmp_path / name))
        assert [(i.place, i.prompt, i.response) for i in file.instances] == [
            (f"{name}:2", "two\nlines", "b"),
            (f"{name}:6", "d", "e"),
        ]
        assert [f"{b.line}:{b.column} {b.reason}" for b in file.bad] == [
            "4:2 completion is empty, so no token would be supervised",
            "5:1 1 fields, the header has 2",
        ]
    (tmp_path / "b.csv").write_text('prompt,completion\n"open')
    with pytest.raises(DataError, match=r"b\.csv:2:1"):
        load(str(tmp_path / "b.csv"))


def test_parquet(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    path = str(tmp_path / "a.parquet")
    records = [COMPLETION, {"prompt": None, "completion": "x"}]
    datasets.Dataset.from_list(records).to_parquet(path)
    file = load(path)
    assert [(i.prompt, i.response) for i in file.instances] == [("Say: ", " yes")]
    assert [str(bad) for bad in file.bad] == [f"{path}:2:1: prompt is empty"]
    datasets.Dataset.from_list(
        [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}]
    ).to_parquet(path)
    assert load(path).form == "messages"
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:100])
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        load(path)


def test_hub_data_sets_are_pinned_and_fail_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def offline(name: str, **options: str) -> None:
        asked.append((name, options))
        raise ConnectionError("Couldn't reach the Hub\nsecond line")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(StorageError, match="Couldn't reach the Hub") as caught:
        load(f"hub:me/data@{COMMIT}:test")
    assert "\n" not in str(caught.value)
    assert asked == [("me/data", {"revision": COMMIT, "split": "test"})]
    monkeypatch.setattr(datasets, "load_dataset", lambda name, **options: [COMPLETION])
    file = load(f"hub:me/data@{COMMIT}")
    assert (file.name, file.instances[0][3:5]) == ("me_data", ("Say: ", " yes"))
    for spec in ("hub:me/data", "hub:me/data@main", "hub:data@" + COMMIT, "hub:../x@y"):
        with pytest.raises(ConfigError, match="40 hex digits"):
            load(spec)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '"open\ta\nmid\tb\nend"\tc\nz\td',
            [(2, ('"open', "a")), (3, ("mid", "b")), (4, ('end"', "c")), (5, ("z", "d"))],
        ),
        ('"Best" phone\tphone\n5" tube\t5"', [(2, ('"Best" phone', "phone")), (3, ('5" tube', '5"'))]),
        ('"a"\t"b ""c"""', [(2, ("a", 'b "c"'))]),
        ('"a\tb"\tc', [(2, ("a\tb", "c"))]),
        ('a\t"b\r\nc"\r\nd\te\r\n', [(2, ("a", "b\nc")), (4, ("d", "e"))]),
        ('"a\nb\tc', [(2, "1 fields, the header has 2"), (3, ("b", "c"))]),
        ('"\tq\n\n \nb\t"', [(2, ('"', "q")), (5, ("b", '"'))]),
    ],
)
def test_quotes_in_tsv(tmp_path: Path, text: str, expected: list) -> None:
    assert rows(put(tmp_path, "a.tsv", "prompt\tcompletion\n" + text)) == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(*[st.text('ab"\n', max_size=4)] * 2), min_size=1, max_size=4))
def test_what_a_spreadsheet_writes_as_tsv_is_read_back(table: list[tuple[str, str]]) -> None:
    out = io.StringIO()
    csv.writer(out, dialect="excel-tab", quoting=csv.QUOTE_ALL).writerows([("x", "y"), *table])
    found = [tuple(cells) for _, cells in _tab_separated("t.tsv", out.getvalue())]
    assert found == [("x", "y"), *table]


def test_records_over_several_lines_are_said(tmp_path: Path) -> None:
    for name, comma in (("a.csv", ","), ("a.tsv", "\t")):
        file = load(put(tmp_path, name, 'prompt,completion\nx,y\n"a\nb",c\n'.replace(",", comma)))
        assert "1 records go over several lines, the first from line 3" in str(file)


@pytest.mark.parametrize("blank", ["\n", "\r\n\r\n", " \n", ",\n", "\ufeff\n"])
def test_blank_lines_before_a_header(tmp_path: Path, blank: str) -> None:
    assert rows(put(tmp_path, "a.csv", f"{blank} prompt ,completion\na,b\n")) == [(2 + blank.count("\n"), ("a", "b"))]
    assert load(put(tmp_path, "a.csv", f"{blank} prompt ,completion\na,b\n")).form == "completion"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "prompt,completion,completion\na,b,c\n", "a.csv:1:1: the column 'completion' occurs twice"),
        ("a.csv", "\ufeffprompt,completion, prompt\na,b,c\n", "the column 'prompt' occurs twice"),
        (
            "a.csv",
            "\nprompt,completion,Prompt\na,b,c\n",
            "a.csv:2:1: the column 'Prompt' differs from 'prompt' by case",
        ),
        ("a.tsv", "x\tprompt\tcompletion\tx\n", "the column 'x' occurs twice"),
        (
            "a.jsonl",
            '{"prompt": "a", "prompt": "b", "completion": "c"}',
            "a.jsonl:1:17: the key 'prompt' occurs twice",
        ),
        (
            "a.jsonl",
            '{"messages": [{"role": "user", "\\u0072ole": "x"}]}',
            "a.jsonl:1:32: the key 'role' occurs twice",
        ),
    ],
)
def test_a_field_there_twice_is_refused_by_name(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        load(put(tmp_path, name, text))
    assert message in str(caught.value)


def test_parquet_columns_that_differ_in_blanks_are_refused(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = str(tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table({"prompt": ["a"], "completion": ["b"], "completion ": ["c"]}), path)
    with pytest.raises(DataError, match="'completion ' differs from 'completion' by case or blanks alone"):
        list(read(path))


@pytest.mark.parametrize(("name", "comma"), [("a.csv", ","), ("a.tsv", "\t")])
def test_the_header_again_is_no_record(tmp_path: Path, name: str, comma: str) -> None:
    one = "\ufeffprompt,completion\nq,a\n".replace(",", comma)
    assert rows(put(tmp_path, name, one + one)) == [
        (2, ("q", "a")), (3, "the header again; were files joined?"), (4, ("q", "a")),
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "comma"), [("a.csv", ","), ("a.tsv", "\t")])
@pytest.mark.parametrize("cells", [("q", "x" * 2**20), ("x" * 2**19, "y" * 2**19), ("q", "好" * 2**19)])
def test_a_record_that_is_too_long_hides_no_other(
    tmp_path: Path, name: str, comma: str, cells: tuple[str, str]
) -> None:
    text = "\n".join(map(comma.join, [("prompt", "completion"), cells, ("q", "a")]))
    (_, reason), last = rows(put(tmp_path, name, text))
    assert reason.startswith(f"the record has {len(comma.join(cells).encode()):,} bytes, more than 1,048,576")
    assert last == (3, ("q", "a"))


def test_columns_without_a_name_are_no_repeats(tmp_path: Path) -> None:
    assert load(put(tmp_path, "a.csv", "prompt,completion,,\na,b,,x\n")).unread == {"(column 4)": 1}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", (LINE * 9).encode("gbk"), "a.jsonl:1:13: not UTF-8 at byte 12 (looks like GBK); "),
        ("a.csv", "prompt,completion\n红,红色的马克杯\n".encode("gbk"), "a.csv:2:1: not UTF-8 at byte 18 (looks"),
        ("a.jsonl", b'{"prompt": "caf\xe9"}', "a.jsonl:1:16: not UTF-8 at byte 15 (looks like Latin-1"),
        *((f"a.{kind}", LINE.encode(code), f"a.{kind}:1:1: {code.upper()}, not UTF-8")
          for kind in ("jsonl", "csv", "tsv") for code in ("utf-16", "utf-16le", "utf-16be", "utf-32")),
        ("a.jsonl", gzip.compress(LINE.encode(), mtime=0), "a.jsonl:1:1: packed with gzip"),
        ("a.csv", b"PK\x03\x04rest", "a.csv:1:1: a zip archive or a spreadsheet"),
        ("a.jsonl", json.dumps(COMPLETION, indent=2) * 2, "a.jsonl:1:1: a JSON object over 4 lines; write one"),
        ("a.jsonl", "\n" + json.dumps([COMPLETION], indent=2), "a.jsonl:2:1: a JSON array; write one object per line"),
        ("a.json", json.dumps([COMPLETION] * 2), "a.json:1:1: a JSON array"),
        ("a.jsonl", "[" + LINE * 40_000, "a.jsonl:1:1: a JSON array"),
        ("a.parquet", b"", "a.parquet: empty, no record in it"),
        ("a.csv", "prompt,completion\n\n", "a.csv: empty, no record in it"),
        ("a.csv", 'prompt,completion\nx,y\n"a" b,c\n', "a.csv:3:1: the record that begins here is not CSV"),
    ],
)  # fmt: skip
def test_unreadable_files_say_what_they_are(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        load(put(tmp_path, name, content))
    assert f"{tmp_path}/{message}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_line_in_another_encoding_hides_no_other(tmp_path: Path) -> None:
    file = load(put(tmp_path, "a.jsonl", LINE.encode() * 2 + LINE.encode("gbk") + b'["x"]\n' + LINE.encode()))
    assert [bad.line for bad in file.bad] == [3, 4]
    assert "looks like GBK" in file.bad[0].reason
    assert [instance.line for instance in file.instances] == [1, 2, 5]


def test_nul_is_refused_in_every_kind_of_file(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    good, bad = {"prompt": "a", "completion": "b", "n": "c"}, {"prompt": "a", "completion": "b", "n": "c\0"}
    specs = [put(tmp_path, "a.jsonl", "".join(json.dumps(record) + "\n" for record in (good, bad, good)))]
    specs.append(put(tmp_path, "raw.jsonl", Path(specs[0]).read_text().replace("\\u0000", "\0")))
    for name, comma in (("a.csv", ","), ("a.tsv", "\t")):
        lines = [good.keys(), good.values(), bad.values(), good.values()]
        specs.append(put(tmp_path, name, "".join(comma.join(line) + "\n" for line in lines)))
    parquet.write_table(pyarrow.Table.from_pylist([good, bad, good]), tmp_path / "a.parquet")
    for spec in (*specs, str(tmp_path / "a.parquet")):
        (refused,) = load(spec).bad
        assert "U+0000 (NUL)" in refused.reason
        assert len(load(spec).instances) == 2


def test_parquet_without_rows_or_with_a_column_twice(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path, text = tmp_path / "a.parquet", pyarrow.array(["a"])
    twice = pyarrow.struct([("x", pyarrow.string()), ("x", pyarrow.string())])
    for table, message in (
        (pyarrow.table({"prompt": text[:0], "completion": text[:0]}), "empty, no record in it"),
        (pyarrow.Table.from_arrays([text] * 3, names=["prompt", "completion", "prompt"]), "'prompt' occurs twice"),
        (
            pyarrow.table({"messages": pyarrow.array([None], pyarrow.list_(twice))}),
            "in 'messages': the column 'x' occurs",
        ),
    ):
        parquet.write_table(table, path)
        with pytest.raises(DataError, match=message):
            load(str(path))
    nan = {"instruction": ["a"], "input": [float("nan")], "output": ["b"], "messages": pyarrow.nulls(1)}
    parquet.write_table(pyarrow.table(nan), path)  # what pandas leaves of columns without values
    assert (load(str(path)).form, len(load(str(path)).instances), load(str(path)).unread) == ("instruction", 1, {})


def test_missing_packed_and_unknown_files(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    for ask in (load, checksum):
        with pytest.raises(MissingInputError, match=r"no\.jsonl: no such file"):
            ask(str(tmp_path / "no.jsonl"))
        for folder in (tmp_path, tmp_path / "folder.jsonl"):
            with pytest.raises(MissingInputError, match="a folder, not a file"):
                ask(str(folder))
    for name, message in (("a.xlsx", r"none of \.jsonl"), ("a.jsonl.gz", "is packed; unpack it")):
        with pytest.raises(ConfigError, match=message):
            load(put(tmp_path, name, "x"))
    first, second = (put(tmp_path, name, LINE) for name in ("a.jsonl", "b.jsonl"))
    assert checksum(first) == checksum(second) != checksum(put(tmp_path, "c.jsonl", LINE * 2))
