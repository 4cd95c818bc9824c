"""Greedy decoding that cannot leave a form, against a loop over whole forwards."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_bloom
from tiny_bloom import EOS, MODEL

from ecomgpt_jax.config import MeshConfig
from ecomgpt_jax.decoding import engine
from ecomgpt_jax.decoding.answers import Answer, Vocabulary
from ecomgpt_jax.decoding.choices import log_probabilities
from ecomgpt_jax.decoding.forms import Form
from ecomgpt_jax.errors import ConfigError, DataError
from ecomgpt_jax.model import decoder
from ecomgpt_jax.model.parameters import Params
from ecomgpt_jax.parallel.mesh import make_mesh

LIMIT = 12
PROMPTS = tiny_bloom.random_prompts(20, longest=30)
PIECES = [*"abcdefg ,:\n", "ab", "abc", "de", ", ", ": ", "fg", "bc", "None", "gab"]
VOCABULARY = Vocabulary({8 + at: piece.encode() for at, piece in enumerate(PIECES)})
ENDS = (EOS, 60)
SETTINGS = {"max_new_tokens": LIMIT, "eos_ids": ENDS, "allowed_ids": range(tiny_bloom.VOCAB_LIMIT)}


def forms() -> list[Answer | None]:
    """Labels, spans, a frame, and now and then an answer that is free."""
    made = [
        Form(", ", labels=("abc", "ab", "de fg")),
        Form(", ", source="gab defg, abc"),
        Form(", ", source="abcdefg", heads=("a: ", "\nb: "), nothing="None"),
        None,
    ]
    return [made[at % 4] and Answer(made[at % 4], VOCABULARY, LIMIT) for at in range(len(PROMPTS))]


@pytest.fixture(scope="module")
def params() -> Params:
    return tiny_bloom.random_params()


@pytest.fixture(scope="module")
def expected(params: Params) -> list[list[int]]:
    """The likeliest of what is allowed, by the training forward over the whole row at every step."""
    forward = jax.jit(lambda inputs: decoder.logits(params, decoder.forward(params, inputs, None, MODEL), MODEL))
    found = []
    for prompt, empty in zip(PROMPTS, forms(), strict=True):
        tokens, answer = [], copy.copy(empty)
        while len(tokens) < LIMIT:
            row = np.zeros((1, 64), np.int32)
            row[0, : len(prompt) + len(tokens)] = [*prompt, *tokens]
            logits = np.asarray(forward(row))[0, len(prompt) + len(tokens) - 1]
            ids = list(SETTINGS["allowed_ids"]) if answer is None else answer.allowed()
            ids += list(ENDS) if answer is None or answer.complete else []
            token = max(sorted(set(ids)), key=lambda index: logits[index])
            if token in ENDS:
                break
            tokens.append(token)
            if answer is not None:
                answer.add(token)
        found.append(tokens)
    return found


@pytest.mark.parametrize("batch", [1, 8, 32])
def test_answers_are_the_likeliest_that_are_allowed(params: Params, expected: list[list[int]], batch: int) -> None:
    found = engine.generate_tokens(params, MODEL, PROMPTS, batch=batch, forms=forms(), **SETTINGS)
    assert found == expected
    assert len({tuple(tokens) for tokens in found}) > 8, "the answers must vary"
    free = engine.generate_tokens(params, MODEL, PROMPTS, batch=batch, **SETTINGS)
    same = [tokens == other for tokens, other in zip(found, free, strict=True)]
    assert all(same[3::4])
    assert sum(same) < 8, "the forms must matter"


def test_greedy_answers_are_labels_but_not_always_the_likeliest(params: Params) -> None:
    """A greedy first token decides between labels; ranking sums over whole ones."""
    labels = ("abc", "gab", "de fg", "f", "bc")
    answer = Answer(Form("|", labels=labels), VOCABULARY, LIMIT)
    greedy = engine.generate_tokens(params, MODEL, PROMPTS, batch=8, forms=[answer] * len(PROMPTS), **SETTINGS)
    texts = [b"".join(VOCABULARY.of_id[token] for token in tokens).decode() for tokens in greedy]
    assert set(texts) <= set(labels)
    ways = {}  # ids of each label, those of the greedy answers first
    for text, tokens in zip(texts, greedy, strict=True):
        ways.setdefault(text, tokens)
    tokens_of = {text: index for index, text in VOCABULARY.of_id.items()}
    ids = [ways.get(label, [tokens_of[bytes((byte,))] for byte in label.encode()]) for label in labels]
    said = [[*tokens, EOS] for tokens in greedy]
    sums = log_probabilities(params, MODEL, PROMPTS, [[*([*way, EOS] for way in ids), own] for own in said], batch=8)
    higher = [max(each[:-1]) > each[-1] + 1e-3 for each in sums]
    assert 0 < sum(higher) < len(higher)


def test_every_answer_is_whole(expected: list[list[int]]) -> None:
    for tokens, answer in zip(expected, forms(), strict=True):
        if answer is not None:
            for token in tokens:
                answer.add(token)
            assert answer.complete


def test_only_tokens_that_go_on_with_a_separator_or_a_head_are_tried() -> None:
    """Each of them is read byte by byte in every row and step, and a vocabulary has thousands that hold a stop."""
    tried = ["b,", "b, ", "b\n", "b\nb", "b, g"]
    others = [f"b{stop}{letter}" for stop in (",", "\n", "\n\n") for letter in "adefg"]
    pieces = [*"abdefg :,\n", *tried, *others]
    vocabulary = Vocabulary({8 + at: piece.encode() for at, piece in enumerate(pieces)})
    answer = Answer(Form(", ", source="gab defg", heads=("a: ", "\nb: "), nothing="d"), vocabulary, 30)
    for letter in "a: ga":
        answer.add(8 + pieces.index(letter))
    across = answer._begun_span(b"ga", b"").across
    assert {vocabulary.of_id[index].decode() for index in across} == set(tried)
    assert {pieces[index - 8] for index in answer.allowed()} == {"b", ",", "\n", *tried}


def test_a_token_is_read_once_however_many_ways_there_are_to_read_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text is one term, or two or more: where terms may hold the separator, the readings double with each."""
    pieces = [*"abcfg ,", "b,", "b, "]
    vocabulary = Vocabulary({8 + at: piece.encode() for at, piece in enumerate(pieces)})
    answer = Answer(Form(", ", source="abc, ab, abc, fg, ab, bc"), vocabulary, 30)
    for letter in "abc, ab, abc, fg, a":
        answer.add(8 + pieces.index(letter))
    readings = list(answer._form.begun_spans(answer._state))
    assert len(readings) > 10
    read, after = [], Answer._after
    monkeypatch.setattr(Answer, "_after", lambda self, state, token: read.append(token) or after(self, state, token))
    assert {pieces[index - 8] for index in answer.allowed()} == {"b", ",", "b,", "b, "}
    assert sorted(read) == [8 + pieces.index("b,"), 8 + pieces.index("b, ")]


def test_a_mesh_changes_nothing(params: Params, expected: list[list[int]]) -> None:
    mesh = make_mesh(MeshConfig(data=8))
    assert engine.generate_tokens(params, MODEL, PROMPTS, batch=8, mesh=mesh, forms=forms(), **SETTINGS) == expected


def test_nan_at_a_masked_id_is_reported(params: Params) -> None:
    table = params["embedding"]["table"].at[100].set(jnp.nan)  # an id that no form says and no prompt holds
    broken = {**params, "embedding": {**params["embedding"], "table": table}}
    prompts = [[token % 90 + 4 for token in prompt] for prompt in PROMPTS[:2]]
    with pytest.raises(DataError, match="not finite"):
        engine.generate_tokens(broken, MODEL, prompts, batch=8, forms=forms()[:2], **SETTINGS)


def test_very_low_logits_are_still_chosen_among_what_is_allowed() -> None:
    logits, allowed = jnp.full((1, 6), 1e3).at[0, 2:4].set(-3e38), jnp.zeros((1, 6), bool).at[0, 2:4].set(True)
    assert engine.greedy.choose(logits, allowed).tolist() == [2]


def test_beams_are_refused(params: Params) -> None:
    with pytest.raises(ConfigError, match="greedily"):
        engine.generate_tokens(params, MODEL, PROMPTS, batch=8, num_beams=2, forms=forms(), **SETTINGS)
