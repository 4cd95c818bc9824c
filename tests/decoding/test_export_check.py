from pathlib import Path
from types import SimpleNamespace

import pytest

from ecomgpt_jax.decoding import export_check
from ecomgpt_jax.decoding.export_check import _compare, _Failed, check_dtype, check_export


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


@pytest.mark.parametrize(("shift", "said", "failed"), [(0.0, 2, False), (0.2, 2, True), (0.0, 1, True)])
def test_a_rounded_file_is_compared_in_answers_and_loss(
    shift: float, said: int, failed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of three answers of llama.cpp are ours, or one; the loss with the weights read back is larger by `shift`."""
    asked: list[list[list[int]]] = []

    def engine(path: Path, prompts: list[list[int]], *limits: int) -> list[list[int]]:
        asked.append([*prompts, [*limits]])
        return [[7, 2], [8] if said == 2 else [5], [9]]

    (tmp_path / "config.json").write_text('{"max_position_embeddings": 24}')
    monkeypatch.setattr(export_check, "_has", lambda package: True)
    monkeypatch.setattr(export_check, "write_gguf", lambda *arguments: [])
    monkeypatch.setattr(export_check, "GgufFile", Path)
    monkeypatch.setattr(export_check, "write_hf", lambda *arguments: [])
    monkeypatch.setattr(export_check, "llama_cpp_answers", engine)
    monkeypatch.setattr(export_check, "_float32", lambda place: (place, None))
    monkeypatch.setattr(export_check, "_answers", lambda params, model, tokenizer, prompts: [[7], [8], [4]])
    losses = {tmp_path: 1.25}
    monkeypatch.setattr(export_check, "_loss", lambda place, *rest: losses.get(place, 1.25 + shift))
    tokenizer = SimpleNamespace(stop_ids=(2,), cut=lambda ids, limit: ids[-limit:])
    found = check_dtype(tmp_path, tokenizer, {}, "q8_0", [[1] * 5, [2] * 30, [3]], [[1]] * 3)
    assert found.name == "gguf q8_0"
    assert found.failed == failed
    assert found.words == (
        f"{said} of 3 greedy answers of llama.cpp equal ours in float32; "
        f"loss of right answers 1.2500, with the file's weights {shift:+.4f} nats per token"
    )
    assert asked == [[[1] * 5, [2] * 8, [3], [export_check.NEW_TOKENS, 24]]]
