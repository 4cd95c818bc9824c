import itertools
import random

import pytest
import tokenizers

from ecomgpt_jax.data.tokenizer import Tokenizer, load_tokenizer
from ecomgpt_jax.files import write_json
from ecomgpt_jax.serving.answer_text import AnswerText
from serving.scripted import TOKENIZER


class Spelled:
    """A tokenizer whose tokens are the given texts."""

    def __init__(self, *pieces: str) -> None:
        self.pieces, self.backend = pieces, self

    def id_to_token(self, index: int) -> str:
        return self.pieces[index]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.pieces[index] for index in ids)


def said(pieces: list[str], stops: list[str]) -> tuple[list[str], bool]:
    text, found = AnswerText(Spelled(*pieces), stops), []  # pyright: ignore
    for index in range(len(pieces)):
        found.append(text.push(index))
        if text.stopped:
            return found, True
    return [*found, text.finish()], text.stopped


@pytest.mark.parametrize(
    ("pieces", "stops", "parts", "stopped"),
    [
        (["alpha be", "ta gam", "ma", " delta"], ["beta gamma"], ["alpha ", "", ""], True),
        (["alpha be", "ta gam", "ma", " d"], ["beta gammax"], ["alpha ", "", "", "beta gamma d", ""], False),
        (["alpha be", "ta gam", "ma"], ["beta gammax"], ["alpha ", "", "", "beta gamma"], False),
        (["one two three"], ["three", "two"], ["one "], True),
        (["aab"], ["ab"], ["a"], True),
        (["a", "a", "b"], ["ab"], ["", "a", ""], True),
        (["ab", "abac"], ["abac"], ["", "ab"], True),
        (["x\ufffd", "\ufffdy"], ["\ufffd"], ["", "x"], True),
        (["x", "\ufffd"], ["\ufffd"], ["x", "", "\ufffd"], False),
        (["ab"], ["abc", "b"], ["a"], True),
    ],
)
def test_stop_strings(pieces: list[str], stops: list[str], parts: list[str], stopped: bool) -> None:
    assert said(pieces, stops) == (parts, stopped)


def test_any_cut_of_a_text_gives_the_same_answer() -> None:
    rng, stops = random.Random(0), ["abcab", "bb", "cac"]
    for _ in range(300):
        text = "".join(rng.choice("abc") for _ in range(rng.randrange(1, 24)))
        places = sorted({0, len(text), *(rng.randrange(len(text)) for _ in range(6))})
        pieces = [text[a:b] for a, b in itertools.pairwise(places)]
        parts, stopped = said(pieces, stops)
        ends = [at for stop in stops if (at := text.find(stop)) >= 0]
        whole = "".join(parts)
        assert stopped == bool(ends)
        assert text.startswith(whole)
        if not ends:
            assert whole == text
        # Of two that overlap, the one that is complete first ends the answer, as it does while tokens arrive.
        first = min((text.find(stop) + len(stop) for stop in stops if stop in text), default=None)
        assert first is None or len(whole) < first <= len(whole) + max(map(len, stops)) + len(text)
        assert not any(stop in whole for stop in stops)


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer as Llama's: "▁" for a blank, stripped at the beginning of a text, and tokens of single bytes."""
    directory = tmp_path_factory.mktemp("sentencepiece")
    vocab = {"<unk>": 0, "</s>": 1, **{f"<0x{byte:02X}>": 2 + byte for byte in range(256)}}
    for piece in ("▁", "▁red", "red", "▁dress", "s", ".", "▁▁", "好", "。", "\n"):
        vocab[piece] = len(vocab)
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    decoders = tokenizers.decoders
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "</s>"])
    backend.save(str(directory / "tokenizer.json"))
    write_json(directory / "tokenizer_config.json", {"eos_token": "</s>", "unk_token": "<unk>"})
    return load_tokenizer(directory)


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
def test_the_parts_joined_are_the_text_of_all_ids(kind: str, sentencepiece: Tokenizer) -> None:
    tokenizer, rng = TOKENIZER if kind == "byte-level" else sentencepiece, random.Random(1)
    halves = TOKENIZER.encode("👍好牦") if kind == "byte-level" else list(range(2, 258))
    words = TOKENIZER.encode("red , . the dress 100 %") if kind == "byte-level" else list(range(258, tokenizer.size))
    for _ in range(400):
        silent = [*[tokenizer.unk_id] * 20, words[1]]  # long runs of tokens that have no text
        pool = rng.choice([halves, words, [*words, *rng.choices(halves, k=3)], silent, tokenizer.ids.tolist()])
        ids = [int(rng.choice(pool)) for _ in range(rng.randrange(1, 60))]
        text = AnswerText(tokenizer)
        parts = [*map(text.push, ids), text.finish()]
        assert "".join(parts) == tokenizer.decode(ids), ids
        assert text.length == len(tokenizer.decode(ids))


def test_half_a_character_waits_for_the_rest() -> None:
    ids = TOKENIZER.encode("牦牛👍好")
    text = AnswerText(TOKENIZER)
    parts = [text.push(index) for index in ids]
    assert "".join(parts) == "牦牛👍好"
    assert not any("\ufffd" in part for part in parts)
    assert "" in parts
    cut = AnswerText(TOKENIZER, ["好"])
    assert "".join([*(cut.push(index) for index in ids[:-3]), cut.finish()]).endswith("\ufffd")
    stopped = AnswerText(TOKENIZER, ["好"])
    assert "".join(stopped.push(index) for index in ids) == "牦牛👍"
    assert stopped.stopped


def test_a_long_answer_decodes_few_tokens_at_a_time() -> None:
    class Counting(Spelled):
        most = 0

        def decode(self, ids: list[int]) -> str:
            self.most = max(self.most, len(ids))
            return super().decode(ids)

    counting = Counting("a")
    text = AnswerText(counting)  # pyright: ignore
    assert "".join(text.push(0) for _ in range(500)) == "a" * 500
    assert counting.most < 20
