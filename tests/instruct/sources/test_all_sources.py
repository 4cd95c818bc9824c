import dataclasses
import hashlib
import os
import pickle
import re
import time
from pathlib import Path

import pytest

from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError
from ecomgpt_jax.instruct import records
from ecomgpt_jax.instruct.sources import all_sources, places
from ecomgpt_jax.instruct.sources.checksums import FILES
from ecomgpt_jax.instruct.sources.reading import ReadLog, Source
from ecomgpt_jax.instruct.sources.rows import filled_lines

SOURCES_DIR = os.environ.get("ECOMGPT_SOURCES", "")
# Rows that the readers count, where it is not the upstream count; each such source has a note.
OTHER_COUNTS = {"en_wdc_pave": 2910}
SUPERVISION = {"gold", "weak", "pseudo", "none"}


def test_sixty_sources_described_in_full() -> None:
    assert len(all_sources.SOURCES) == 60
    assert list(all_sources.SOURCES) == sorted(FILES)
    assert sum(source.records for source in all_sources.SOURCES.values()) == 805_112
    for source in all_sources.SOURCES.values():
        assert source.name.startswith(source.language.replace("+", "_"))
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}(/[\w./-]+)?", source.place)
        assert source.files
        assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in source.files.values())
        assert set(source.renamed) <= set(source.files)
        assert not (source.licence.startswith("unclear") and source.redistributable)
        pickle.dumps(source)


def test_unknown_name() -> None:
    assert all_sources.source("en_mams").records == 5297
    with pytest.raises(ConfigError, match="did you mean 'en_mams'"):
        all_sources.source("en_mamms")


def toy(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> Source:
    folder = tmp_path / "en_mams"
    folder.mkdir()
    (folder / "a.txt").write_bytes(content)
    monkeypatch.setitem(FILES, "en_mams", {"a.txt": hashlib.sha256(b"right").hexdigest()})
    record = lambda line, file: [records.draft(records.LabelledText, text=line, labels={})]  # noqa: E731
    return dataclasses.replace(all_sources.source("en_mams"), rows=filled_lines, record=record)


def test_read_checks_the_files_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingInputError, match=r"raw/test\.xml.*fetch sources en_mams.*ECOMGPT_SOURCES"):
        next(all_sources.read(all_sources.source("en_mams"), tmp_path))
    source = toy(tmp_path, b"wrong", monkeypatch)
    with pytest.raises(
        DataError, match=r"a\.txt: sha256.*fetch the source again, or pin it anew: .*--pin sources/en_m"
    ):
        next(all_sources.read(source, tmp_path))
    assert len(list(all_sources.read(source, tmp_path, verify=False))) == 1
    (tmp_path / "en_mams" / "a.txt").write_bytes(b"right")
    assert len(list(all_sources.read(source, str(tmp_path)))) == 1
    with pytest.raises(ConfigError, match=r"fetch --pin sources/en_new"):
        next(all_sources.read(dataclasses.replace(source, name="en_new"), tmp_path))


def test_a_local_source_is_read_and_never_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = toy(tmp_path, b"right", monkeypatch)
    fields = {field.name: getattr(source, field.name) for field in dataclasses.fields(source) if field.name != "place"}
    source = Source(**fields)
    assert len(list(all_sources.read(source, tmp_path))) == 1
    monkeypatch.setitem(all_sources.SOURCES, "en_mams", source)
    assert places.collection_of("en_mams").files == ()
    (tmp_path / "en_mams" / "a.txt").write_bytes(b"edited")
    with pytest.raises(DataError, match=r"expected \w+; pin it anew: .*fetch --pin sources/en_mams"):
        all_sources.check_files(source, tmp_path)
    (tmp_path / "en_mams" / "a.txt").unlink()
    with pytest.raises(MissingInputError, match="put it there"):
        all_sources.check_files(source, tmp_path)


def texts(record: records.Record) -> list[str]:
    """Returns the fields of a record that a prompt shows."""
    match record:
        case records.LabelledText() | records.SpannedText() | records.AspectText():
            return [record.text]
        case records.TextPair():
            return [record.left, record.right]
        case records.AttributedItem():
            return [record.title or record.description]
        case records.Question():
            return [record.question]
        case records.Dialogue():
            return [text for _, text in record.turns]
    raise AssertionError(type(record))


@pytest.mark.slow
@pytest.mark.skipif(not SOURCES_DIR, reason="ECOMGPT_SOURCES is not set")
@pytest.mark.parametrize("name", all_sources.SOURCES)
def test_real_source(name: str) -> None:
    source, log, ids, started = all_sources.source(name), ReadLog(), set(), time.process_time()
    for record in all_sources.read(source, SOURCES_DIR, log):
        assert record.id not in ids
        ids.add(record.id)
        assert record.group
        assert record.language in source.language.split("+")
        assert record.supervision in SUPERVISION
        assert all(text.strip() for text in texts(record)), record
        if isinstance(record, records.LabelledText):
            assert all(values and all(values) for values in record.labels.values()), record
        text = getattr(record, "text", None) or getattr(record, "context", "")
        spans = getattr(record, "spans", ())
        assert all(text[span.start : span.end] == span.term == span.term.strip() != "" for span in spans), record
        assert [span.start for span in spans] == sorted(span.start for span in spans)
        for each in getattr(record, "tuples", ()):
            assert each.aspect in text
            assert each.opinion in text
            assert each.polarity in {"positive", "negative", "neutral", ""}
        if isinstance(record, records.Dialogue):
            assert len(record.turn_labels) in {0, len(record.turns)}
    assert log.rows == OTHER_COUNTS.get(name, source.records)
    assert len(log.bad) <= log.rows / 1000, log.bad
    rows = {record_id.partition("#")[0] for record_id in ids}
    assert source.note or (len(rows) == len(ids) == source.records)
    print(f"{name}: {len(ids)} records, {time.process_time() - started:.2f} s")
