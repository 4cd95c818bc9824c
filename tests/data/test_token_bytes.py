from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers

from ecomgpt_jax.data.token_bytes import lead, token_bytes
from ecomgpt_jax.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from ecomgpt_jax.errors import DataError
from ecomgpt_jax.files import write_json

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    texts = ["Red cotton shirt, size M.", "红色纯棉衬衫，包邮。"] * 20
    return train_tokenizer(texts, 330, tmp_path_factory.mktemp("tokenizer") / "trained")


def sentencepiece(directory: Path, prefix: bool, lower: bool = False) -> Tokenizer:
    """A BPE vocabulary as Llama's and Gemma's: blanks are U+2581, what is unknown is spelled in byte tokens."""
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "\u2581",
        *"abcdefr,:xé红",
        "re",
        "red",
    ]
    merges = [("r", "e"), ("re", "d")]
    model = models.BPE({piece: at for at, piece in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    steps = [normalizers.Prepend("\u2581")] * prefix + [normalizers.Lowercase()] * lower
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "\u2581")])
    strip = [decoders.Strip(" ", 1, 0)] * prefix
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    backend.add_special_tokens(["<s>", "</s>"])
    directory.mkdir()
    backend.save(str(directory / "tokenizer.json"))
    write_json(directory / "tokenizer_config.json", {"eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"})
    return load_tokenizer(directory)


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=60))
def test_bytes_of_a_byte_level_vocabulary_spell_every_text(trained: Tokenizer, text: str) -> None:
    found = token_bytes(trained)
    assert b"".join(found[index] for index in trained.encode(text)) == text.encode()
    assert lead(trained) == ""
    assert not set(range(4)) & set(found), "control tokens spell nothing"


@pytest.mark.parametrize("prefix", [False, True])
def test_byte_tokens_and_dummy_blanks_of_sentencepiece(tmp_path: Path, prefix: bool) -> None:
    tokenizer = sentencepiece(tmp_path / "spm", prefix)
    found = token_bytes(tokenizer)
    assert lead(tokenizer) == " " * prefix
    for text in ("red, 红色 x😀", "  red", "\n: É"):
        assert b"".join(found[index] for index in tokenizer.encode(text)) == (lead(tokenizer) + text).encode()
    assert found[3 + 0x0A] == b"\n"


def test_a_tokenizer_that_changes_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="do not spell the text"):
        token_bytes(sentencepiece(tmp_path / "spm", False, lower=True))


def test_the_published_tokenizer() -> None:
    tokenizer = load_tokenizer(ROOT / "configs/nano")
    text = "Brand: Acme, 红色\n类型: None"
    assert b"".join(token_bytes(tokenizer)[index] for index in tokenizer.encode(text)) == text.encode()
