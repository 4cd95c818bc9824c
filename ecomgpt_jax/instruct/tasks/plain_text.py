"""Plain language modelling as tasks: each record's own texts as the answer to an empty prompt (`data.plain_text`).

Splits, caps, filters, duplicates and contamination then hold for pretraining as they do for instructions.
"""

import random
from collections.abc import Iterator, Mapping, Sequence

from ecomgpt_jax.instruct.contamination import texts_of
from ecomgpt_jax.instruct.records import Record
from ecomgpt_jax.instruct.tasks.task import Dataset, Example, Form, Task, bind, distinct


def _texts(
    records: Sequence[Record], labels: tuple[str, ...], dataset: Dataset, rng: random.Random
) -> Iterator[Example]:
    for record in records:
        yield Example(record.id, "", "\n".join(text for text in distinct(texts_of(record)) if text.strip()))


# No definition: such a row has no prompt.
FORM = Form(name="plain_text", family="Generate", definition="", record=Record, en=("",), zh=("",), make=_texts)


def tasks(sources: Mapping[str, Sequence[str]]) -> list[Task]:
    """Returns one task for each source and language, annotated or not.

    Args:
      sources: name of a source -> languages of its records.
    """
    supervision = ("gold", "weak", "pseudo", "none")
    return [
        bind(FORM, Dataset(name=name, source=name, language=language, supervision=supervision))
        for name, languages in sources.items()
        for language in languages
    ]
