"""The Chain-of-Task operators (paper, section 3.2): they derive atomic tasks from a base task.

An operator looks up the forms for the record type that the base task reads and binds them to the same dataset, so
`derived(base)` is all that a new source needs. `without` names the forms for which a dataset lacks something (opinion
words, a second category level, ...).
"""

import dataclasses
from collections.abc import Collection, Mapping

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
from ecomgpt_jax.instruct.tasks.task import Form, Task, bind

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
# Input and output change places: facts -> text, label -> text, answer -> question, reply -> message.
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


def derived(base: Task, without: Collection[str] = ()) -> list[Task]:
    """Returns the atomic tasks of all three operators, simplification first; `without` names forms to leave out."""
    return [
        bind(form, base.dataset, parent=base.name)
        for operator in (SIMPLIFICATION, REVERSAL, RECOMBINATION)
        for form in operator[base.form.record]
        if form.name not in without
    ]


def family(base: Task, *further: Form, without: Collection[str] = ()) -> list[Task]:
    """Returns `base`, its atomic tasks, and `further` forms bound to the same dataset."""
    return [base, *derived(base, without), *(bind(form, base.dataset, parent=base.name) for form in further)]


def pseudo_label(base: Task, without: Collection[str] = ()) -> list[Task]:
    """Returns `base` and its atomic tasks on the pseudo-labelled records of its source."""
    dataset = dataclasses.replace(base.dataset, name=f"{base.dataset.name}_Pseudo", supervision=("pseudo",))
    forms = [form for form in (base.form, *SIMPLIFICATION[base.form.record]) if form.name not in without]
    made = [bind(form, dataset, parent=base.name) for form in forms]
    return [dataclasses.replace(task, operator="pseudo_label") for task in made]
