import dataclasses
from pathlib import Path
from typing import Any

import pytest
import tiny_bloom
from tiny_bloom import MODEL, SETTINGS

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.decoding import resumable
from ecomgpt_jax.errors import DataError

PROMPTS = [[5, 6], [7], [5, 6], [8, 9, 10]]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The prompts that are really decoded; the answer to a prompt is its reverse. Stops before [66]."""
    seen: list[list[int]] = []

    def generate_tokens(
        params: Any, model: Any, prompts: list[list[int]], *, on_finished: Any, **settings: Any
    ) -> None:
        assert settings == {**SETTINGS, "batch": 8, "num_beams": 1, "mesh": None, "forms": None}
        for index, prompt in enumerate(prompts):
            if prompt == [66]:
                raise KeyboardInterrupt
            seen.append(prompt)
            on_finished(index, prompt[::-1])

    monkeypatch.setattr(resumable, "generate_tokens", generate_tokens)
    return seen


def decode(
    prompts: list[list[int]], log: Path | None, weights: str = "w", model: ModelConfig = MODEL, **settings: int
) -> list[list[int]]:
    settings = {**SETTINGS, "batch": 8, **settings}
    return resumable.decode_prompts({}, model, prompts, log=log, weights=weights, title="test", mesh=None, **settings)


def test_an_interrupted_run_goes_on(decoded: list[list[int]], tmp_path: Path) -> None:
    log = tmp_path / "made" / "log.jsonl"
    with pytest.raises(KeyboardInterrupt):
        decode([*PROMPTS, [66], [11]], log)
    assert decoded == [[5, 6], [7], [8, 9, 10]], "equal prompts are decoded once"
    with open(log, "a", encoding="utf-8") as file:
        file.write('{"key": "cut sho')
    decoded.clear()
    assert decode([[12], *PROMPTS], log) == [[12], [6, 5], [7], [6, 5], [10, 9, 8]]
    assert decoded == [[12]]
    decoded.clear()
    decode([[12], *PROMPTS], log)
    assert decoded == []
    assert len(log.read_text(encoding="utf-8").splitlines()) == 4


def test_every_process_goes_on_from_what_process_0_kept(
    decoded: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here process 1, which sees no log of its own."""
    decode(PROMPTS, tmp_path / "kept.jsonl")
    kept = (tmp_path / "kept.jsonl").read_text(encoding="utf-8")
    monkeypatch.setattr(resumable.jax, "process_index", lambda: 1)
    monkeypatch.setattr(resumable.jax, "process_count", lambda: 2)

    def from_first(make: Any) -> Any:
        assert make() == {}
        (tmp_path / "seen-by-0.jsonl").write_text(kept, encoding="utf-8")
        keys = {resumable.parse_json(line, tmp_path)["key"]: [] for line in kept.splitlines()}
        return resumable._read(tmp_path / "seen-by-0.jsonl", keys)

    monkeypatch.setattr(resumable, "from_first", from_first)
    decoded.clear()
    assert decode([[12], *PROMPTS], tmp_path / "absent.jsonl") == [[12], [6, 5], [7], [6, 5], [10, 9, 8]]
    assert decoded == [[12]]
    assert not (tmp_path / "absent.jsonl").exists()


@pytest.mark.parametrize("other", ["weights", "prompt", "limit"])
def test_answers_of_another_run_are_not_taken(decoded: list[list[int]], tmp_path: Path, other: str) -> None:
    log = tmp_path / "log.jsonl"
    decode(PROMPTS, log)
    decoded.clear()
    if other == "limit":
        keys = [resumable._key(PROMPTS[0], ["w", limit, 1, 2]) for limit in (7, 8)]
        assert keys[0] != keys[1]
    else:
        decode([[9]] if other == "prompt" else PROMPTS[:1], log, weights="v" if other == "weights" else "w")
        assert len(decoded) == 1


@pytest.mark.parametrize("nameless", [{"log": None}, {"weights": ""}])
def test_no_log_where_nothing_names_the_weights(
    decoded: list[list[int]], tmp_path: Path, nameless: dict[str, Any]
) -> None:
    for _ in range(2):
        assert decode(PROMPTS, **{"log": tmp_path / "log.jsonl", **nameless}) == [[6, 5], [7], [6, 5], [10, 9, 8]]
    assert len(decoded) == 6
    assert not (tmp_path / "log.jsonl").exists()


def test_an_empty_prompt_is_refused_before_anything_is_written(decoded: list[list[int]], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"prompt 1 .* is empty"):
        decode([[5], []], tmp_path / "log.jsonl")
    assert decoded == []
    assert not (tmp_path / "log.jsonl").exists()


def test_the_real_engine_gives_the_same_answers(tmp_path: Path) -> None:
    params, prompts = tiny_bloom.random_params(), tiny_bloom.random_prompts(3, longest=8)
    found = resumable.decode_prompts(
        params, MODEL, prompts, log=tmp_path / "log", weights="w", title="test", mesh=None, batch=8, **SETTINGS
    )
    assert found == tiny_bloom.decode_without_cache(params, prompts)


def test_other_ends_and_other_tokens_are_another_run() -> None:
    runs = {resumable._digest(*run) for run in (([2], range(9)), ([2, 3], range(9)), ([2], range(8)), ([2], [0, 2, 8]))}
    assert len(runs) == 4


def test_the_same_weights_in_another_network_are_another_run(decoded: list[list[int]], tmp_path: Path) -> None:
    """Another base of the rotation gives other answers, and is in no weight."""
    decode(PROMPTS, tmp_path / "log.jsonl")
    decoded.clear()
    decode(PROMPTS, tmp_path / "log.jsonl", model=dataclasses.replace(MODEL, rope_theta=5e5))
    assert decoded == [[5, 6], [7], [8, 9, 10]]
