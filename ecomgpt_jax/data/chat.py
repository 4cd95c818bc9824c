"""A checkpoint's chat template as the layout of a prompt: the parts around a user's text, and the end of an answer.

transformers renders the template, sandboxed, around two words; the text before, between and after them makes up the
pieces of every prompt. So user text is always encoded as data, and a prompt has the same ids in training, in evaluation
and in `generate`. The parts of the template carry no loss; the token that ends an answer does.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import tokenizers
import transformers

from ecomgpt_jax.errors import DataError

_USER, _ANSWER = "QqUserqQ", "QqAnswerqQ"
# A template that prints the date would give other ids every day; this is the default of Llama 3's template.
_DATE = "26 Jul 2024"
_FROZEN = f"{{% macro strftime_now(form) %}}{_DATE}{{% endmacro %}}{{{{ '' }}}}"  # replaces transformers' clock


class Turn(NamedTuple):
    """One turn of a user and the beginning of the answer.

    Attributes:
      head: ids up to the last control token before the user's text.
      before: plain text between that token and the user's text, encoded with it.
      after: plain text between the user's text and the next control token, encoded with it.
      tail: ids from there to the beginning of the answer.
      strip: whether the template strips a text.
      end_id: id of the token that ends an answer.
    """

    head: tuple[int, ...]
    before: str
    after: str
    tail: tuple[int, ...]
    strip: bool
    end_id: int

    def encode(self, texts: list[str], encode_batch: Callable[[list[str]], list[list[int]]]) -> list[list[int]]:
        """Returns the ids of the prompt that each text becomes."""
        plain = [self.before + (text.strip() if self.strip else text) + self.after for text in texts]
        return [[*self.head, *ids, *self.tail] for ids in encode_batch(plain)]


def freeze_date(loaded: transformers.PreTrainedTokenizerFast) -> dict[str, str]:
    """Replaces the clock of a tokenizer's chat template by a fixed date; returns variables for rendering it."""
    template = loaded.chat_template if isinstance(loaded.chat_template, str) else loaded.get_chat_template()
    loaded.chat_template = _FROZEN + template
    return {"date_string": _DATE}


def read_turn(
    loaded: transformers.PreTrainedTokenizerFast,
    encode_batch: Callable[[list[str]], list[list[int]]],
    control: Mapping[int, str],
    path: Path,
) -> Turn:
    """Returns the layout of prompts in a tokenizer's chat template.

    Args:
      loaded: the tokenizer with its template.
      encode_batch: encodes texts without recognising control tokens.
      control: {id: token} of the control tokens.
      path: of tokenizer.json.

    Raises:
      DataError: there is no template, or it does not separate a text and an answer as `Turn` requires.
    """
    if not loaded.chat_template:
        raise DataError(f"{path.parent}: has no chat template, which data.template=chat needs")

    dates = freeze_date(loaded)

    def render(text: str, *answer: str) -> str:
        messages = [{"role": "user", "content": text}, *({"role": "assistant", "content": each} for each in answer)]
        try:
            return loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=not answer, **dates)
        except Exception as error:  # templates may raise any exception
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"{path.parent}: its chat template fails on one turn ({reason})") from error

    whole, padded = render(_USER, _ANSWER), render(f" {_USER}\n")
    parts = re.split(f"{_USER}|{_ANSWER}", whole)
    if len(parts) != 3:
        raise DataError(f"{path.parent}: its chat template does not render a text and an answer once each")
    before, between, after = parts
    if not f"{before}{_USER}{between}".startswith(render(_USER)):
        raise DataError(f"{path.parent}: its chat template begins an answer otherwise than it renders one")
    kept = f" {_USER}\n" in padded
    if not kept and padded != render(_USER):
        raise DataError(f"{path.parent}: its chat template changes a user's text otherwise than by stripping it")
    ids = {token: index for index, token in control.items()}
    split = re.compile("|".join(map(re.escape, sorted(ids, key=len, reverse=True))))

    def encode(text: str) -> tuple[int, ...]:
        plain, found = split.split(text), split.findall(text)
        pieces = encode_batch(plain)
        marks = [*([ids[token]] for token in found), []]
        return tuple(index for piece, mark in zip(pieces, marks, strict=True) for index in [*piece, *mark])

    last = max((match.end() for match in split.finditer(before)), default=0)
    first = next((match.start() for match in split.finditer(between)), len(between))
    ending = split.match(after.lstrip())
    if ending is None:
        raise DataError(f"{path.parent}: its chat template writes no control token after an answer, so none would end")
    turn = Turn(
        head=encode(before[:last]),
        before=before[last:],
        after=between[:first],
        tail=encode(between[first:]),
        strip=not kept,
        end_id=ids[ending[0]],
    )
    theirs = tokenizers.Tokenizer.from_file(str(path)).encode(before + _USER + between, add_special_tokens=False).ids
    if turn.encode([_USER], encode_batch) != [theirs]:
        raise DataError(f"{path.parent}: its chat template gives other ids in pieces than as a whole; not supported")
    return turn
