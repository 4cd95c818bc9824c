"""Plain language modelling as tasks: each record's own texts as the answer to an empty prompt (`data.plain_text`).

With `data.copying` there are copying rows too: the prompt holds some texts, and the answer repeats one of them.
Extracting an answer from a prompt depends on induction heads (Olsson et al. 2022), which a small model hardly learns
from plain text. They develop first with one short text, then with several. Splits, limits, filters, duplicate and
contamination checks apply as to instructions.
"""

import functools
import random
from collections.abc import Mapping, Sequence

from ecomgpt_jax.instruct.contamination import texts_of
from ecomgpt_jax.instruct.records import Record
from ecomgpt_jax.instruct.tasks.task import (
    Dataset,
    Example,
    Examples,
    Form,
    LabelSet,
    Make,
    Records,
    Task,
    bind,
    distinct,
)

_SHORTEST, _LONGEST = 8, 40  # bounds of the characters that a text is cut to; twice the upper one for several texts


def _texts(records: Records, labels: LabelSet, dataset: Dataset, rng: random.Random) -> Examples:
    for record in records:
        yield Example(record.id, "", "\n".join(_parts(record)))


def _copies(shown: int, records: Records, labels: LabelSet, dataset: Dataset, rng: random.Random) -> Examples:
    longest = _LONGEST * min(shown, 2)
    for record in records:
        if not (parts := _parts(record)):
            continue
        # One text in half of the rows, since that is learned first.
        others = rng.choices(records, k=rng.choice((1, 1, min(2, shown), shown)) - 1)
        texts = [rng.choice(parts), *(part for other in others for part in _parts(other)[:1])]
        answer, *rest = (text.strip()[: rng.randint(_SHORTEST, longest)].rstrip() for text in texts)
        prompt = list(distinct([answer, *rest]))
        rng.shuffle(prompt)
        yield Example(record.id, "\n".join(prompt) + "\n", answer)


def _parts(record: Record) -> list[str]:
    return [text for text in distinct(texts_of(record)) if text.strip()]


def _form(name: str, family: str, make: Make) -> Form:
    # No definition: the prompt is the example's input, without a head.
    return Form(name=name, family=family, definition="", record=Record, en=("",), zh=("",), make=make)


def tasks(sources: Mapping[str, Sequence[str]], copying: int = 0) -> list[Task]:
    """Returns one task per source and language, annotated or not.

    Args:
      sources: name of a source -> languages of its records.
      copying: 0: plain texts; above 0: copying rows with at most this many texts in a prompt.
    """
    if copying:
        form = _form("copying", "Extract", functools.partial(_copies, copying))
    else:
        form = _form("plain_text", "Generate", _texts)
    supervision = ("gold", "weak", "pseudo", "none")
    return [
        bind(form, Dataset(name=name, source=name, language=language, supervision=supervision))
        for name, languages in sources.items()
        for language in languages
    ]
