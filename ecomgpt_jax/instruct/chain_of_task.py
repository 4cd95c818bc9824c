"""The Chain-of-Task operators (paper, section 3.2): they derive atomic tasks from a base task.

An operator looks up the forms for the base task's record type and binds those whose needs the data set meets
(`Form.needs`, `Dataset.lacks`), so `family(form, dataset)` is all that a new source needs.
"""

import dataclasses
from collections.abc import Mapping

from ecomgpt_jax.instruct.records import (
    AspectText,
    AttributedItem,
    Dialogue,
    LabelledText,
    Question,
    Record,
    SpannedText,
    TextPair,
)
from ecomgpt_jax.instruct.tasks import (
    aspects,
    categories,
    classification,
    dialogue,
    entities,
    items,
    matching,
    questions,
)
from ecomgpt_jax.instruct.tasks.task import Dataset, Form, Task, bind

# A task is split into its steps: find without typing, type what is found, one type at a time, ...
SIMPLIFICATION: Mapping[type[Record], tuple[Form, ...]] = {
    SpannedText: (entities.SPAN_DETECTION, entities.ONE_TYPE, entities.TYPING, entities.TYPE_LISTING),
    AspectText: (
        aspects.ASPECT_TERMS,
        aspects.OPINION_TERMS,
        aspects.OPINION_OF_ASPECT,
        aspects.POLARITY_OF_ASPECT,
        aspects.CATEGORY_OF_TERM,
        aspects.TOPICS,
    ),
    AttributedItem: (
        items.VALUE_DETECTION,
        items.ONE_VALUE,
        items.NAME_LISTING,
        items.VALUE_TYPING,
        categories.TITLE_CATEGORY,
    ),
    TextPair: (matching.SHARED_WORDS,),
    LabelledText: (classification.COARSE_CLASSIFICATION, classification.TWO_OPTIONS),
    Question: (questions.ANSWERABLE, questions.EVIDENCE),
    Dialogue: (dialogue.TURN_FUNCTION,),
}
# Input and output are exchanged: facts -> text, label -> text, answer -> question, reply -> message.
REVERSAL: Mapping[type[Record], tuple[Form, ...]] = {
    SpannedText: (entities.COMPOSITION,),
    AspectText: (aspects.REVIEW_WRITING,),
    AttributedItem: (items.TITLE_WRITING, categories.TITLE_IN_CATEGORY, items.DESCRIPTION),
    TextPair: (matching.REWRITING,),
    LabelledText: (classification.TEXT_WRITING,),
    Question: (questions.ASKING,),
    Dialogue: (dialogue.MESSAGE_WRITING,),
}
# Texts of several records are combined: true and false pairs, the right one among distractors.
RECOMBINATION: Mapping[type[Record], tuple[Form, ...]] = {
    SpannedText: (entities.CHECK, entities.WHICH_TEXT),
    AspectText: (aspects.PAIRING, aspects.WHICH_REVIEW),
    AttributedItem: (items.FIT, items.TITLE_SELECTION, categories.IN_CATEGORY),
    TextPair: (matching.SELECTION, matching.PAIR_CHECK),
    LabelledText: (classification.LABEL_CHECK, classification.SAME_LABEL, classification.WHICH_LABELLED),
    Question: (questions.WHICH_EVIDENCE,),
    Dialogue: (dialogue.REPLY_SELECTION, dialogue.REPLY_CHECK),
}


def derived(base: Task) -> list[Task]:
    """Returns the atomic tasks of all three operators, simplification first."""
    return [
        bind(form, base.dataset, parent=base.name)
        for operator in (SIMPLIFICATION, REVERSAL, RECOMBINATION)
        for form in operator[base.form.record]
        if base.dataset.feeds(form)
    ]


def family(form: Form, dataset: Dataset, *further: Form) -> list[Task]:
    """Returns the task of `form` on the data set, its atomic tasks, and those of `further` forms."""
    base = bind(form, dataset)
    return [base, *derived(base), *(bind(each, dataset, parent=base.name) for each in further)]


def pseudo_label(base: Task) -> list[Task]:
    """Returns `base` and its simplifications on the pseudo-labelled records of its source."""
    dataset = dataclasses.replace(base.dataset, name=f"{base.dataset.name}_Pseudo", supervision=("pseudo",))
    forms = [base.form, *filter(dataset.feeds, SIMPLIFICATION[base.form.record])]
    return [dataclasses.replace(bind(form, dataset, parent=base.name), operator="pseudo_label") for form in forms]
