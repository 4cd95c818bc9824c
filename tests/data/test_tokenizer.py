import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.data import tokenizer as tokenizer_lib
from ecomgpt_jax.errors import DataError, MissingInputError

TEXTS = [
    "Red cotton shirt, size M. Free shipping within Germany!",
    "红色纯棉衬衫，包邮。",
    "Is {low} low?\n### Response:yes",
] * 20
BLOOMS_PATTERN = r" ?[^(\s|[.,!?…。，、।۔،])]+"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> tokenizer_lib.Tokenizer:
    return tokenizer_lib.train_tokenizer(TEXTS, 330, tmp_path_factory.mktemp("tokenizer") / "trained")


def test_special_ids_are_blooms(tokenizer: tokenizer_lib.Tokenizer) -> None:
    assert [tokenizer.backend.token_to_id(name) for name in tokenizer_lib.SPECIAL_TOKENS] == [0, 1, 2, 3]
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.size) == (2, 3, 330)


@settings(max_examples=10_000, deadline=None)
@given(st.text(max_size=80))
def test_any_text_comes_back_and_holds_no_special_id(tokenizer: tokenizer_lib.Tokenizer, text: str) -> None:
    hostile = f"{text}</s>{text}<pad><unk>{text}"
    ids = tokenizer.encode(hostile)
    assert min(ids) > 3
    assert tokenizer.decode(ids) == hostile
    assert tokenizer.encode_batch([hostile, text]) == [ids, tokenizer.encode(text)]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("ab cd, 红。ef", ["ab", "Ġcd", ",", "Ġ", "红", "。", "ef"]),
        ("坚果iPhone11", ["坚", "果", "iPhone11"]),
        ("Brand: None\nsize 5/6", ["Brand", ":", "ĠNone", "Ċ", "size", "Ġ5", "/", "6"]),
        ("功效#:#保湿", ["功", "效", "#:#", "保", "湿"]),
    ],
)
def test_text_is_split_into_words_punctuation_and_single_characters(
    tokenizer: tokenizer_lib.Tokenizer, text: str, pieces: list[str]
) -> None:
    whole = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    shown = [whole.pre_tokenize_str(piece)[0][0] if piece[0] not in "ĠĊ" else piece for piece in pieces]
    assert [piece for piece, _ in tokenizer.backend.pre_tokenizer.pre_tokenize_str(text)] == shown


@pytest.mark.parametrize(("pattern", "same"), [(tokenizer_lib.SPLIT_PATTERN, True), (BLOOMS_PATTERN, False)])
def test_a_span_has_the_same_tokens_wherever_it_stands(
    pattern: str, same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["品牌: 三只松鼠\n口味: 奶香", "三只松鼠每日坚果奶香味", "Select from 品牌, 口味.", "口味"] * 40
    monkeypatch.setattr(tokenizer_lib, "SPLIT_PATTERN", pattern)
    trained = tokenizer_lib.train_tokenizer(texts, 330, tmp_path / "trained")

    def alike(span: str, text: str) -> bool:
        alone, ids = trained.encode(span), trained.encode(text)
        return any(ids[i : i + len(alone)] == alone for i in range(len(ids)))

    found = [alike(span, text) for span in ("三只松鼠", "奶香", "口味") for text in texts if span in text]
    assert all(found) == same


def test_decoding_leaves_specials_out(tokenizer: tokenizer_lib.Tokenizer) -> None:
    assert tokenizer.decode([*tokenizer.encode("ok"), tokenizer.eos_id, tokenizer.pad_id]) == "ok"


def test_training_is_repeatable_and_done_once(tmp_path: Path) -> None:
    first = tokenizer_lib.train_tokenizer(TEXTS, 320, tmp_path / "a")
    again = tokenizer_lib.train_tokenizer(TEXTS, 320, tmp_path / "b")
    kept = tokenizer_lib.train_tokenizer(["other text"], 320, tmp_path / "a")
    other = tokenizer_lib.train_tokenizer(["other text " * 50], 300, tmp_path / "c")
    assert first.fingerprint == again.fingerprint == kept.fingerprint != other.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_a_copy_loads_alike(tokenizer: tokenizer_lib.Tokenizer, tmp_path: Path) -> None:
    tokenizer_lib.copy_tokenizer(tokenizer, tmp_path / "copy")
    assert tokenizer_lib.load_tokenizer(tmp_path / "copy").fingerprint == tokenizer.fingerprint
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/tokenizer.json").write_bytes((tokenizer.directory / "tokenizer.json").read_bytes())
    bare = tokenizer_lib.load_tokenizer(tmp_path / "bare")
    assert bare.eos_id == 2


def test_bad_directories_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"tokenizer\.json"):
        tokenizer_lib.load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": 3}))
    with pytest.raises(DataError, match="not a readable tokenizer"):
        tokenizer_lib.load_tokenizer(tmp_path)


def test_ids_past_the_embedding_are_refused(tokenizer: tokenizer_lib.Tokenizer) -> None:
    tokenizer_lib.check_vocabulary(tokenizer, 330)
    with pytest.raises(DataError, match="330 ids, the model only 320"):
        tokenizer_lib.check_vocabulary(tokenizer, 320)


def test_the_tokenizer_of_a_run_is_the_named_one_or_trained_once(
    tokenizer: tokenizer_lib.Tokenizer, tmp_path: Path
) -> None:
    data = DataConfig(cache_dir=str(tmp_path), tokenizer_vocab=300)
    rows = [{"prompt": text, "response": "ok"} for text in TEXTS]
    named = tokenizer_lib.find_tokenizer(tokenizer.directory, [], "f", data)
    assert named.fingerprint == tokenizer.fingerprint
    trained = tokenizer_lib.find_tokenizer("", rows, "f", data)
    assert (trained.size, trained.directory.parent) == (300, tmp_path)
    assert tokenizer_lib.find_tokenizer("", [], "f", data).fingerprint == trained.fingerprint
    assert tokenizer_lib.find_tokenizer("", rows, "g", data).directory != trained.directory


def test_texts_without_instructions_get_a_tokenizer_that_knows_instructions(tmp_path: Path) -> None:
    rows = [{"prompt": "", "response": text} for text in TEXTS]
    settings = {"cache_dir": str(tmp_path), "tokenizer_vocab": 2000}
    plain, control = (
        tokenizer_lib.find_tokenizer("", rows, "f", DataConfig(plain_text=flag, **settings)) for flag in (True, False)
    )
    instruction = "### Instruction:\nDecide whether the two titles name the same product.\n### Response:"
    assert 2 * len(plain.encode(instruction)) < len(control.encode(instruction))
    assert plain.directory != control.directory
