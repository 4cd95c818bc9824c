import json
from pathlib import Path

import pytest

from ecomgpt_jax.errors import DataError
from ecomgpt_jax.files import BadRecord
from ecomgpt_jax.instruct.quarantine import Quarantine

BAD = BadRecord("a.jsonl", 7, 3, "is wrong", "x" * 5000)


def test_a_thousandth_is_borne_and_written(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "q.jsonl")
    quarantine.add("a.jsonl", 1000, [BAD])
    quarantine.write()
    (line,) = map(json.loads, (tmp_path / "q.jsonl").read_text().splitlines())
    assert (line["place"], line["reason"], len(line["text"])) == ("a.jsonl:7:3", "is wrong", 2000)
    Quarantine(tmp_path / "q.jsonl").write()
    assert not (tmp_path / "q.jsonl").exists()  # an old file would tell of another build


def test_more_is_an_error_that_names_place_and_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^a\.jsonl:7:3: is wrong \(1 of 999 records of a are bad, .*q\.jsonl\)$"):
        Quarantine(tmp_path / "q.jsonl").add("a", 999, [BAD])
    assert (tmp_path / "q.jsonl").is_file()
    with pytest.raises(DataError, match="2 of 1,000"):
        Quarantine().add("a", 1000, [BAD, BAD])
