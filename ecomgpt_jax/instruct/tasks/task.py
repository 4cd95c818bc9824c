"""A task: a form (the conversion of a record type to instances, and its wordings) bound to a dataset.

A form is written once for a record type; `bind` makes it a task of one dataset. Wordings are the bodies of an
instruction: `[text]`, `[label]` and `[labels]` are replaced by the dataset's own nouns when a form is bound,
`{sentences}` and `{label_set}` by an instance's input and candidates when it is rendered.
"""

import dataclasses
import random
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from ecomgpt_jax.instruct.records import AttributedItem, Record, Span

OPERATORS = ("simplification", "reversal", "recombination", "pseudo_label")
NOTHING = "None"  # the release's answer if there is nothing to find
MOST_ATTRIBUTES = 8  # per item in an input
YES_NO = {"en": ("yes", "no"), "zh": ("是", "否")}
MATCH = {"en": ("match", "not match"), "zh": ("匹配", "不匹配")}
# Needs of forms. A data set meets all but the first unless `Dataset.lacks` lists them.
NEEDS = {
    "coarse labels": "a second kind of label, one level above the first: `Dataset.coarse`",
    "choices": "several labels, types or attribute names, so that a selection of them is a task of its own",
    "text from annotation": "annotation from which the text can be written",
    "distinct texts": "annotation that fits few other texts, so that it identifies one among several",
    "comparable texts": "pairs whose texts show whether the annotation fits both",
    "several types": "spans of more than one type",
    "several spans": "texts with more than one span",
    "aspects": "aspect terms in the text",
    "opinions": "opinion words in the text",
    "categories": "a category per aspect",
    "description": "descriptions in addition to titles",
    "common words": "words that both texts of a pair share, with blanks between words",
    "context": "a context for the question",
    "answer spans": "answers that occur in the context",
    "turn functions": "a label per turn",
}
_NOUN = re.compile(r"(\b[Aa] )?\[(text|label|labels)\]")


class Example(typing.NamedTuple):
    """One instance before its wording is chosen.

    Attributes:
      record_id: the record it was made from.
      sentences: the input.
      answer: the response, in the release's format of the task's family.
      candidates: the labels shown, in order; empty if the answer is open.
      labels: the gold labels (family CLS), each one of `candidates`.
      spans: the gold spans (other families) as in a task folder; start and end are 0 if an answer does not occur in
        `sentences`.
    """

    record_id: str
    sentences: str
    answer: str
    candidates: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    spans: tuple[Span, ...] = ()


def _check_needs(names: Sequence[str]) -> None:
    if unknown := set(names) - NEEDS.keys():
        raise ValueError(f"{', '.join(sorted(unknown))}: not in NEEDS ({', '.join(NEEDS)})")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The properties of data that a form needs.

    Attributes:
      name: second part of the task's name.
      source: name of the source that yields the records.
      language: language of the texts, labels and answers; "": the one that the source's name begins with.
      text: noun for a text, in English and Chinese.
      label: noun for a label, in English, English plural and Chinese.
      kind: the label kind that `LabelledText` tasks predict.
      coarse: the label kind one level above `kind`, if there is one.
      positive: the `TextPair` label that means "these belong together".
      pair: names of the two fields of a `TextPair` in an input.
      fixed_labels: language of labels such as "match" and "not match"; empty = `language`.
      rename: label in the source -> label in the task; labels mapped to "" are left out.
      spelling: function for labels that `rename` does not contain, for example `words`.
      supervision: kinds of annotation that it accepts; never "none".
      view: converts the source's records to those that its tasks read: fewer, other fields, another record type.
      lacks: entries of NEEDS that its records do not have; forms that need them are not derived.
    """

    name: str
    source: str
    _: dataclasses.KW_ONLY
    language: str = ""
    text: tuple[str, str] = ("sentence", "句子")
    label: tuple[str, str, str] = ("entity type", "entity types", "实体类型")
    kind: str = ""
    coarse: str = ""
    positive: str = "match"
    pair: tuple[str, str] = ("Item 1", "Item 2")
    fixed_labels: str = ""
    rename: Mapping[str, str] = dataclasses.field(default_factory=dict)
    spelling: Callable[[str], str] = str
    supervision: tuple[str, ...] = ("gold", "weak")
    view: Callable[[Iterable[Record]], Iterable[Record]] = iter
    lacks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown name in `lacks`, or if the language is unknown."""
        _check_needs(self.lacks)
        if not self.language:
            object.__setattr__(self, "language", self.source.partition("_")[0])
        if self.language not in ("en", "zh"):
            raise ValueError(f"{self.name}: language {self.language!r} is neither en nor zh")

    def feeds(self, form: "Form") -> bool:
        """Returns whether the data set meets the needs of a form."""
        return not set(form.needs) & {*self.lacks, *(() if self.coarse else ("coarse labels",))}

    def display_label(self, label: str) -> str:
        """Returns a label as the task shows it; an empty string leaves it out."""
        renamed = self.rename.get(label)
        return self.spelling(label) if renamed is None else renamed

    def in_language(self, labels: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        """Returns the fixed labels (YES_NO, MATCH) in the dataset's language."""
        return labels[self.fixed_labels or self.language]


Records = Sequence[Record]
LabelSet = tuple[str, ...]
Examples = Iterator[Example]
Labels = Callable[[Records, Dataset], Iterable[str]]
Make = Callable[[Records, LabelSet, Dataset, random.Random], Examples]


def no_labels(records: Records, dataset: Dataset) -> Iterable[str]:
    """Returns no labels: the label set of a form with open answers."""
    return ()


def in_language(labels: Mapping[str, tuple[str, ...]]) -> Labels:
    """Returns the label set of a form with fixed labels (YES_NO, MATCH): those in the dataset's language."""
    return lambda records, dataset: dataset.in_language(labels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """The conversion of records of one type to instances of one kind of task.

    Attributes:
      name: last part of the task's name.
      family: one of `task_folder.FAMILIES`.
      definition: names the task in the head of the prompt.
      record: the record type it reads; other records are skipped.
      en: bodies of the English instruction.
      zh: bodies of the Chinese instruction.
      make: (records, label set, dataset, random) -> examples.
      labels: (all records, dataset) -> label set.
      operator: the Chain-of-Task operator that derives it, or "" for a base form.
      abilities: the atomic abilities that it uses.
      separator: joins candidates, and the parts of an answer.
      needs: entries of NEEDS that the data set must have.
    """

    name: str
    family: str
    definition: str
    record: type[Record]
    en: tuple[str, ...]
    zh: tuple[str, ...]
    make: Make
    labels: Labels = no_labels
    operator: str = ""
    abilities: tuple[str, ...] = ()
    separator: str = ", "
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown name in `needs`."""
        _check_needs(self.needs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A form bound to a dataset.

    Attributes:
      name: `LANG-Dataset-Family-name`.
      definition: names the task in the head of the prompt.
      family: one of `task_folder.FAMILIES`.
      language: language of the texts, labels and answers.
      source: name of the source that yields the records.
      operator: one of OPERATORS, or "" for a base task.
      parent: name of the base task that it was derived from, or "".
      wordings: {"en": templates, "zh": templates}, complete with "### Instruction:" and "### Response:".
      label_separator: joins candidates, and the parts of an answer.
      dataset: the data set of the task.
      form: the form.
      held_out: whether it is not trained on, but exported as a task folder with its only English wording.
    """

    name: str
    definition: str
    family: str
    language: str
    source: str
    operator: str
    parent: str
    wordings: Mapping[str, tuple[str, ...]]
    label_separator: str
    dataset: Dataset
    form: Form
    held_out: bool = False

    @property
    def abilities(self) -> tuple[str, ...]:
        """The atomic abilities that the task uses."""
        return self.form.abilities

    def select(self, records: Iterable[Record]) -> list[Record]:
        """Returns the records that the task can read: of its language, annotation and type, in its dataset's view."""
        data = self.dataset
        fitting = (r for r in records if r.supervision in data.supervision and r.language == data.language)
        return [r for r in data.view(fitting) if isinstance(r, self.form.record)]

    def label_set(self, records: Sequence[Record]) -> tuple[str, ...]:
        """Returns the task's labels, from all of its records, in a fixed order."""
        return tuple(self.form.labels(records, self.dataset))

    def examples(self, records: Sequence[Record], labels: tuple[str, ...], rng: random.Random) -> Iterator[Example]:
        """Yields the examples of `records` in their order; `records` are of one split and `labels` its label set."""
        return self.form.make(records, labels, self.dataset, rng)


def template(body: str) -> str:
    """Returns the released layout around the body of an instruction."""
    return f"### Instruction:\n{body}\n### Response:"


def bind(form: Form, dataset: Dataset, parent: str = "") -> Task:
    """Returns the task of `form` on `dataset`; without a `parent` it is a base task."""
    nouns = {
        "en": {"text": dataset.text[0], "label": dataset.label[0], "labels": dataset.label[1]},
        "zh": {"text": dataset.text[1], "label": dataset.label[2], "labels": dataset.label[2]},
    }
    wordings = {
        language: tuple(
            template(_NOUN.sub(lambda m, n=nouns[language]: _named(m[1], n[m[2]]), body)) for body in bodies
        )
        for language, bodies in (("en", form.en), ("zh", form.zh))
    }
    return Task(
        name=f"{dataset.language.upper()}-{dataset.name}-{form.family}-{form.name}",
        definition=form.definition,
        family=form.family,
        language=dataset.language,
        source=dataset.source,
        operator=form.operator if parent else "",
        parent=parent,
        wordings=wordings,
        label_separator=form.separator,
        dataset=dataset,
        form=form,
    )


def _named(article: str | None, noun: str) -> str:
    """Returns a noun with the indefinite article before it, if the wording has one."""
    if article and noun[0] in "aeiou":
        article = f"{article[0]}n "
    return (article or "") + noun


def words(label: str) -> str:
    """Returns a label written as a code in plain words: "LAPTOP#DESIGN_FEATURES" is "laptop design features"."""
    return " ".join(re.split(r"[#_\s]+", label)).strip().lower()


def distinct(items: Iterable[str]) -> tuple[str, ...]:
    """Returns the items without repeats, in order of first appearance."""
    return tuple(dict.fromkeys(items))


def show(labels: Sequence[str], gold: Sequence[str], rng: random.Random, few: int = 8) -> tuple[str, ...]:
    """Returns candidates for one row: the gold labels and others of the label set, shuffled.

    A label set of at most `few` is shown whole; of a larger one about `few` labels are shown, in a quarter of the rows
    up to 50, so that training has lists as long as those of the released protocol (49 and the gold) and short ones.
    """
    limit = 50 if rng.random() < 0.25 else few
    shown, chosen = list(labels), set(gold)
    if len(labels) > limit:
        shown = list(gold) + rng.sample([label for label in labels if label not in chosen], max(0, limit - len(gold)))
    rng.shuffle(shown)
    return tuple(shown)


def binary_example(record_id: str, sentences: str, labels: tuple[str, str], truth: bool, rng: random.Random) -> Example:
    """Returns an example with two labels in random order; the first is the answer where `truth`, else the second."""
    shown, answer = list(labels), labels[0] if truth else labels[1]
    rng.shuffle(shown)
    return Example(record_id, sentences, answer, tuple(shown), (answer,))


def given(record: AttributedItem) -> list[tuple[str, str]]:
    """Returns the attributes that have a value."""
    return [(name, value) for name, value in record.attributes if value]


def joined(attributes: Sequence[tuple[str, str]]) -> str:
    """Returns the first attributes as "name: value; name: value"."""
    return "; ".join(f"{name}: {value}" for name, value in attributes[:MOST_ATTRIBUTES])


def listing(record: AttributedItem) -> str:
    """Returns an item as its title and attributes on one line, in the format of the release."""
    attributes = given(record)
    return f"{record.title}\t{joined(attributes)}" if attributes else record.title


def numbered(texts: Iterable[str]) -> str:
    """Returns texts as a numbered list, one text per line."""
    return "\n".join(f"{number}. {text}" for number, text in enumerate(texts, 1))


def answer_span(*texts: str) -> tuple[Span, ...]:
    """Returns spans for answers that need not occur in the input: each at 0, as in the release."""
    return tuple(Span(0, 0, "", text) for text in texts)


def selection(record_id: str, right: str, wrong: Iterable[str], question: str, rng: random.Random) -> Example:
    """Returns an example whose answer is the numbered text that fits `question`, the last line of the input."""
    texts = [right, *wrong]
    rng.shuffle(texts)
    return Example(record_id, f"{numbered(texts)}\n{question}", right, spans=answer_span(right))


def others(records: Sequence[Record], index: int, count: int, rng: random.Random) -> list[Record]:
    """Returns up to `count` records of other groups than that of `records[index]`, drawn at random."""
    group = records[index].group
    found: list[Record] = []
    seen = {index}
    for _ in range(4 * count):
        if len(found) == count:
            break
        choice = rng.randrange(len(records))
        if choice not in seen and records[choice].group != group:
            seen.add(choice)
            found.append(records[choice])
    return found
