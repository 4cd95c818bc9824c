"""Every token that may come next, against all token sequences of tiny vocabularies."""

import copy
import itertools
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from ecomgpt_jax.decoding.answers import Answer, Begun, Vocabulary
from ecomgpt_jax.decoding.forms import Form
from ecomgpt_jax.errors import DataError

LIMIT = 5
SIZE = 32  # ids of the model


def lists(terms: dict[str, int], separator: str, most: int) -> set[str]:
    """Returns all texts of one to `most` terms, each at most as often as `terms` says."""
    found: set[str] = set()
    for count in range(1, most + 1):
        for chosen in itertools.product(terms, repeat=count):
            if all(times <= terms[term] for term, times in Counter(chosen).items()):
                found.add(separator.join(chosen))
    return found


def spans(source: str, separator: str) -> dict[str, int]:
    """Returns each span of a source and how often it stands there."""
    found: Counter[str] = Counter()
    for line in source.split("\n"):
        for start, end in itertools.combinations(range(len(line) + 1), 2):
            if not line[start].isspace() and line[start:end].strip(" " + separator):
                found[line[start:end]] += 1
    return found


FORMS = {  # (form, all its answers, the vocabulary: "_" is a blank)
    "labels": (Form("; ", labels=("a", "ab", "b a")), lists({"a": 1, "ab": 1, "b a": 1}, "; ", 3), "a b ; ; ab a;"),
    "one label begins another": (Form(",", labels=("a", "aa")), lists({"a": 1, "aa": 1}, ",", 2), "a , a, aa"),
    "labels that hold the separator": (Form(",", labels=("a", "a,b")), lists({"a": 1, "a,b": 1}, ",", 2), "a b , a,b"),
    "last tokens alike": (Form("|", labels=("abc", "dbe")), lists({"abc": 1, "dbe": 1}, "|", 2), "a b c d e |"),
    "spans": (Form(", ", source="aba"), lists(spans("aba", ", "), ", ", LIMIT), "a b ab , ,_a ,_"),
    "spans with the separator": (Form(",", source="a,b"), lists(spans("a,b", ","), ",", LIMIT), "a b , a, ,b"),
    "said as often as there": (Form(",", source="a a"), lists(spans("a a", ","), ",", LIMIT), "a _ , _a"),
    "spans of one line": (Form(",", source="a\nb"), lists(spans("a\nb", ","), ",", LIMIT), "a b , \n a\n"),
    "frame": (
        Form(",", source="aN", heads=("A:", "\nB:"), nothing="N"),
        {f"A:{x}\nB:{y}" for x, y in itertools.product({"N"} | lists(spans("aN", ","), ",", 3), repeat=2)},
        "A: \nB: a N ,a aN N\n",
    ),
}  # fmt: skip


def vocabulary(texts: str) -> Vocabulary:
    pieces = [piece.replace("_", " ").encode() for piece in texts.split(" ") if piece]
    return Vocabulary({5 + at: piece for at, piece in enumerate(dict.fromkeys(pieces))})


def sequences(vocab: Vocabulary, texts: set[str]) -> Iterator[tuple[int, ...]]:
    """Yields every sequence of at most LIMIT tokens whose text is one of `texts`."""
    wanted = {text.encode() for text in texts}
    for count in range(1, LIMIT + 1):
        for chosen in itertools.product(vocab.of_id, repeat=count):
            if b"".join(map(vocab.of_id.get, chosen)) in wanted:
                yield chosen


@pytest.mark.parametrize("name", FORMS)
def test_allowed_is_what_some_whole_answer_goes_on_with(name: str) -> None:
    form, texts, pieces = FORMS[name]
    vocab = vocabulary(pieces)
    whole = set(sequences(vocab, texts))
    assert len(whole) > 1, "the vocabulary must be able to say something"
    todo: list[tuple[tuple[int, ...], Answer]] = [((), Answer(form, vocab, LIMIT))]
    seen = set()
    while todo:
        tokens, answer = todo.pop()
        longer = {other[len(tokens)] for other in whole if other[: len(tokens)] == tokens and len(other) > len(tokens)}
        assert set(answer.allowed()) == longer, tokens
        assert answer.complete == (tokens in whole), tokens
        seen.add(tokens)
        for token in longer:
            following = copy.copy(answer)
            following.add(token)
            todo.append(((*tokens, token), following))
    assert whole <= seen


def test_rows_share_only_what_their_sources_do_not_decide() -> None:
    """Random walks over rows in turn: what a vocabulary knows from other rows changes nothing, near the limit too."""
    pieces = "A: \nB: a b c N No o , a, b, ,b c\n o\n"
    shared, random = vocabulary(pieces), np.random.RandomState(0)
    frames = [Form(",", source=source, heads=("A:", "\nB:"), nothing="No") for source in ("ab", "b", "ob", "o", "c a")]
    lists = [Form(",", labels=labels) for labels in (("a", "ab"), ("ab", "b"))]
    for _ in range(150):
        form = [*frames, *lists][random.randint(7)]
        answer, fresh = Answer(form, shared, 7), Answer(form, vocabulary(pieces), 7)
        while ids := fresh.allowed():
            assert answer.allowed() == ids
            token = ids[random.randint(len(ids))]
            answer.add(token)
            fresh.add(token)
        assert answer.allowed() == []
        assert answer.complete


def test_a_character_of_several_tokens_is_finished_before_the_limit() -> None:
    """Bytes of Chinese characters are tokens of their own: random walks always end at a whole answer."""
    source = "红色 马克杯，红"
    vocab = Vocabulary({byte: bytes((byte,)) for byte in range(256)})
    valid = spans(source, ", ")
    random = np.random.RandomState(0)
    ends = Counter()
    for _ in range(200):
        answer, text = Answer(Form(", ", source=source), vocab, 9), b""
        while ids := answer.allowed():
            token = ids[random.randint(len(ids))]
            answer.add(token)
            text += bytes((token,))
            if answer.complete and random.rand() < 0.2:
                break
        assert answer.complete
        assert len(text) <= 9
        terms = Counter(text.decode().split(", "))
        assert all(times <= valid[term] for term, times in terms.items()), text
        ends[len(text)] += 1
    assert len(ends) > 2


def test_the_state_is_the_whole_path() -> None:
    form, _, pieces = FORMS["last tokens alike"]
    vocab = vocabulary(pieces)
    tokens = {text: index for index, text in vocab.of_id.items()}
    answer = Answer(form, vocab, LIMIT)
    for letter in (b"a", b"b"):
        answer.add(tokens[letter])
    assert answer.allowed() == [tokens[b"c"]]
    with pytest.raises(DataError, match="not allowed"):
        answer.add(tokens[b"e"])


@pytest.mark.parametrize(
    ("labels", "source"), [((), ""), (("",), ""), (("a", "a"), ""), (("a", " "), ""), ((), " , \n")]
)
def test_forms_without_an_answer_are_refused(labels: tuple[str, ...], source: str) -> None:
    with pytest.raises(DataError, match="candidates"):
        Form(", ", labels=labels, source=source)


def test_an_answer_longer_than_the_limit_is_refused() -> None:
    form, _, pieces = FORMS["frame"]
    assert Answer(form, vocabulary("A : \n B N a"), 7).allowed()
    with pytest.raises(DataError, match="has 7 tokens; the limit is 6"):
        Answer(form, vocabulary("A : \n B N a"), 6)
    assert Answer(form, vocabulary(pieces), 4).allowed()


def test_a_mask_lets_the_end_in_where_the_answer_is_whole() -> None:
    form, _, pieces = FORMS["one label begins another"]
    vocab = vocabulary(pieces)
    answer, ends = Answer(form, vocab, LIMIT), (1, 3)
    begun = Begun({0: answer, 1: None})
    before = begun.masks([0, 1, None], ends, SIZE)
    assert before[1:].all()
    assert not before[0, list(ends)].any()
    begun.follow([0, 1, None], np.array([5, 5, 5]), np.array([1, 1, 1]))
    after = begun.masks([0, 1, None], ends, SIZE)[0]
    answer.add(5)
    assert after[list(ends)].all()
    assert np.flatnonzero(after).tolist() == sorted([*ends, *answer.allowed()])


def test_a_character_that_is_enough_is_not_tried_at_its_other_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long text with few characters: one try per character, and for those said as often as there one per place."""
    form, tries, closes = Form(",", source="abcab" * 100 + "d"), [], Form.closes

    def counted(self: Form, span: bytes, used: tuple[bytes, ...]) -> bool:
        tries.append(span)
        return closes(self, span, used)

    monkeypatch.setattr(Form, "closes", counted)
    assert set(form.closings(form._literal("separator", 0, (b"d",), b",", 1))) == {b"a", b"b", b"c"}
    assert len(tries) == 1 + 3 + 1  # of nothing, of each character, and of the one that is used up
    assert set(form.closings(form._literal("separator", 0, (b"d",), b",", 1))) == {b"a", b"b", b"c"}
    assert len(tries) == 5, "and the answer is remembered"
