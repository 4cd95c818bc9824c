import pytest

from ecomgpt_jax.decoding.continuous import ENDED, Token
from ecomgpt_jax.serving.protocol import Job
from ecomgpt_jax.serving.responses import Answer, Piece, Writer, token_text
from serving.scripted import TOKENIZER


def job(**changes: object) -> Job:
    fields = {"chat": False, "prompts": [], "variables": {}, "max_tokens": None, "temperature": 0.0, "top_p": 1.0,
              "seed": None, "stops": (), "alternatives": None, "stream": False, "include_usage": False}  # fmt: skip
    return Job(**{**fields, **changes})


def test_reasons_and_counts() -> None:
    ids = TOKENIZER.encode("red mug, blue")
    for end, finish in ((Token(0, ENDED, True), "stop"), (None, "length")):
        answer = Answer(0, TOKENIZER, job())
        tokens = [Token(0, index, end is None and place == len(ids) - 1) for place, index in enumerate(ids)]
        pieces = [answer.push(token) for token in [*tokens, *([end] if end else [])]]
        assert "".join(piece.text for piece in pieces if piece) == "red mug, blue"
        assert (answer.count, answer.finish) == (len(ids), finish), "the end-of-sequence token does not count"
    answer = Answer(0, TOKENIZER, job(stops=("lue",)))
    last = [answer.push(Token(0, index, place == len(ids) - 1)) for place, index in enumerate(ids)][-1]
    assert (last.finish, answer.finish) == ("stop", "stop"), "a stop string in the last token counts, not the limit"


def test_an_empty_answer_of_a_chat_has_a_role_a_reason_and_no_text() -> None:
    writer = Writer(job(chat=True, stream=True), "m", TOKENIZER)
    piece = Answer(0, TOKENIZER, job(chat=True)).push(Token(0, ENDED, True))
    chunks = [*writer.opening(), *writer.chunks(piece), *writer.closing({})]
    told = [(chunk["choices"][0]["delta"], chunk["choices"][0]["finish_reason"]) for chunk in chunks]
    assert told == [({"role": "assistant"}, None), ({}, "stop")]
    whole = writer.whole([[piece]], {"total_tokens": 1})
    assert whole["choices"][0]["message"]["content"] == ""
    assert {chunk["id"] for chunk in chunks} == {whole["id"]}


def test_the_usage_comes_last_where_it_is_asked_for() -> None:
    assert Writer(job(), "m", TOKENIZER).closing({"a": 1}) == []
    chunk = Writer(job(include_usage=True), "m", TOKENIZER).closing({"a": 1})[0]
    assert (chunk["choices"], chunk["usage"]) == ([], {"a": 1})


def test_tokens_whose_text_is_held_come_with_the_next_piece() -> None:
    answer, ids = Answer(0, TOKENIZER, job(alternatives=0)), TOKENIZER.encode("👍 a")
    pieces = [piece for index in ids if (piece := answer.push(Token(0, index, False, -1.0)))]
    assert isinstance(pieces[0], Piece)
    assert [token.id for piece in pieces for _, token in piece.tokens] == ids
    assert len(pieces[0].tokens) > 1


@pytest.mark.parametrize("text", ["red", " red", "好", "\n"])
def test_tokens_as_text_and_bytes(text: str) -> None:
    for index in TOKENIZER.encode(text):
        assert token_text(TOKENIZER, index) == (text, text.encode())


def test_half_a_character_is_given_as_bytes() -> None:
    ids = TOKENIZER.encode("👍")
    assert b"".join(token_text(TOKENIZER, index)[1] for index in ids) == "👍".encode()
    assert token_text(TOKENIZER, ids[0])[0].startswith("bytes:\\xf0")
