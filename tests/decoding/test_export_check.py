from pathlib import Path
from types import SimpleNamespace

import pytest

from ecomgpt_jax.decoding import export_check
from ecomgpt_jax.decoding.export_check import _compare, _Failed, check_export


def test_answers_count_up_to_their_ends_and_one_may_differ() -> None:
    ours = [[5, 6], [7], [8]]
    assert _compare([[5, 6, 2, 9], [7, 2], [8]], ours, [2]) == "3 of 3 greedy answers equal ours"
    assert _compare([[5, 6], [7], [9]], ours, [2]).startswith("2 of 3")
    with pytest.raises(_Failed, match="1 of 3 greedy answers"):
        _compare([[5, 6], [1], [9]], ours, [2])


def test_every_check_of_an_empty_directory_fails_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_check, "_has", lambda package: package == "gguf")
    tokenizer = SimpleNamespace(encode_prompts=lambda texts: [[1] for _ in texts], stop_ids=(2,))
    found = {check.name: (check.failed, check.words) for check in check_export(tmp_path, tokenizer, None)}
    assert found["files"] == (True, "no config.json, generation_config.json, tokenizer.json, tokenizer_config.json")
    assert all(found[name][0] for name in ("config", "special tokens", "tokenizer", "tensors", "gguf"))
    assert found["llama.cpp"] == (False, "passed over, xllamacpp is not installed")
