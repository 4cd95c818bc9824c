"""Writes small files in a raw format and reads them as a source does."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ecomgpt_jax.instruct.sources import all_sources
from ecomgpt_jax.instruct.sources.reading import ReadLog, Source, read_records


@pytest.fixture
def reading(tmp_path: Path) -> Callable:
    """Returns `(source or its name, {file: text or bytes}) -> (records, log)`; every span is checked on the way."""

    def run(source: Source | str, files: dict[str, str | bytes]) -> tuple[list, ReadLog]:
        for file, content in files.items():
            path = tmp_path / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        source, log = all_sources.source(source) if isinstance(source, str) else source, ReadLog()
        records = list(read_records(source, tmp_path, tuple(files), log))
        for record in records:
            text = getattr(record, "text", None) or getattr(record, "context", "")
            for span in getattr(record, "spans", ()):
                assert text[span.start : span.end] == span.term
        assert len({record.id for record in records}) == len(records)
        return records, log

    return run
