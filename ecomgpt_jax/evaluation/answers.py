"""Report sections on a model's answers: confusion tables, scores by class, examples with marked parts."""

import difflib
import re
from collections import Counter
from collections.abc import Sequence

from ecomgpt_jax.evaluation.benchmark_scores import is_ranking
from ecomgpt_jax.evaluation.corrected_scores import class_scores, exact_matches, located_tokens, read_answers
from ecomgpt_jax.evaluation.page import Marked, Section, Table, cell
from ecomgpt_jax.evaluation.protocol import TaskPrompts
from ecomgpt_jax.instruct.answer_parts import gold_parts, located_parts, name_of, read_parts, said_parts

SHOWN_ROWS = 20
MATRIX_LABELS = 12  # with more labels the most frequent confusions are listed instead
SHOWN_CONFUSIONS = 20
SHOWN_CHARACTERS = 4000
NOTHING, OTHER = "(nothing)", "(no label)"
_LEGEND = (
    "Green: right. Red, struck through: wrong. Yellow, dashed: in the gold answer and missed. "
    f"The {SHOWN_ROWS} rows are evenly spaced over the task."
)


def answer_sections(prompt_set: TaskPrompts, predictions: Sequence[str]) -> list[Section]:
    """Returns the sections of a report on the answers to one task."""
    sections, task = [], prompt_set.task
    if task.family == "CLS" and not is_ranking(task):  # the scores of a ranking have no classes
        sections.append(_confusion_section(prompt_set, predictions))
    elif task.family == "NER":
        scores = class_scores(task, prompt_set.rows, predictions)
        rows = [
            [cell(name), *(str(s[key]) for key in ("gold", "said", "right")), f"{s['f1']:.3f}"]
            for name, s in scores.items()
        ]
        sections.append(Section(f"{task.name}: types", table=Table(["Type", "Gold", "Said", "Right", "F1"], rows)))
    return [*sections, Section(f"{task.name}: answers", [_LEGEND], examples=examples(prompt_set, predictions))]


def confusions(prompt_set: TaskPrompts, predictions: Sequence[str]) -> Counter[tuple[str, str]]:
    """Counts (gold label, predicted label) over the rows of a classification task.

    A right label counts as (label, label). Each missed label is paired with each wrong one of its row; `NOTHING`
    replaces a missing side, and `OTHER` an answer that is not a label of the task.
    """
    labels, found = set(map(name_of, prompt_set.task.labels)), Counter()
    for row, answer in zip(prompt_set.rows, read_answers(prompt_set.task, predictions), strict=True):
        bags = gold_parts(prompt_set.task, row), said_parts(prompt_set.task, row, answer)
        wanted, said = ({label for _, label in bag} for bag in bags)
        known = labels | wanted
        found.update((label, label) for label in wanted & said)
        extra = {label if label in known else OTHER for label in said - wanted}
        missed = wanted - said
        if missed or extra:
            found.update((one, other) for one in missed or {NOTHING} for other in extra or {NOTHING})
    return found


def _confusion_section(prompt_set: TaskPrompts, predictions: Sequence[str]) -> Section:
    found, scores = confusions(prompt_set, predictions), class_scores(prompt_set.task, prompt_set.rows, predictions)
    title = f"{prompt_set.task.name}: confusions"
    seen = {label for pair in found for label in pair}
    listed = dict.fromkeys(map(name_of, prompt_set.task.labels))
    labels = [label for label in [*listed, *sorted(seen - {*listed, NOTHING, OTHER})] if label in seen]
    if len(labels) > MATRIX_LABELS:
        wrong = [(pair, count) for pair, count in found.most_common() if pair[0] != pair[1]]
        rows = [[cell(gold), cell(said), str(count)] for (gold, said), count in wrong[:SHOWN_CONFUSIONS]]
        text = f"{sum(found.values()) - sum(count for _, count in wrong):,} labels right, {len(labels)} labels in all."
        return Section(title, [text + " The most frequent confusions:"], Table(["Gold", "Said", "Times"], rows))
    rows = []
    for gold in [*labels, *({NOTHING} & seen)]:
        cells = [str(found[gold, said] or "") for said in [*labels, OTHER, NOTHING]]
        if gold in labels:
            cells[labels.index(gold)] = "*" + str(found[gold, gold])
        rows.append([cell(gold), *cells, f"{scores[gold]['f1']:.3f}" if gold in scores else ""])
    header = ["Rows: gold; columns: predicted", *map(cell, labels), OTHER, NOTHING, "F1"]
    return Section(title, table=Table(header, rows))


def examples(prompt_set: TaskPrompts, predictions: Sequence[str]) -> list[tuple[str, list[tuple[str, Marked]]]]:
    """Returns `SHOWN_ROWS` rows, evenly spaced, as examples of a section."""
    right, count = exact_matches(prompt_set.task, prompt_set.rows, predictions), min(SHOWN_ROWS, len(prompt_set.rows))
    read, shown = read_answers(prompt_set.task, predictions), []
    for index in (number * len(prompt_set.rows) // count for number in range(count)):
        gold, answer = prompt_set.golds[index], predictions[index]
        fields = [
            ("Prompt", _prompt(prompt_set, index, read[index])),
            ("Gold answer", _marked(prompt_set, index, right[index], (gold, answer), "missed")),
            ("Answer", _marked(prompt_set, index, right[index], (answer, gold), "wrong") or "(empty)"),
        ]
        shown.append((f"Row {index}: {'right' if right[index] else 'wrong'}", fields))
    return shown


def mark(prompt_set: TaskPrompts, index: int, text: str, other: str, otherwise: str) -> list[tuple[str, str]]:
    """Returns an answer to row `index` in pieces: parts that are also in `other` are "right", the rest `otherwise`."""
    task, row, spans = prompt_set.task, prompt_set.rows[index], []
    if task.family == "Generate":
        own, theirs = located_tokens(text), located_tokens(other)
        blocks = difflib.SequenceMatcher(None, [t for t, _ in own], [t for t, _ in theirs], autojunk=False)
        common = {place for block in blocks.get_matching_blocks() for place in range(block.a, block.a + block.size)}
        spans = [(at, at + len(token), at_index in common) for at_index, (token, at) in enumerate(own)]
    else:
        left = read_parts(task, row, other)
        for found, start, end in located_parts(task, row, text):
            spans.append((start, end, left[found] > 0))
            if task.family == "CLS":
                left[found] -= 1  # the repetition of a label is wrong
    return _pieces(text, [(start, end, "right" if good else otherwise) for start, end, good in spans])


def _marked(
    prompt_set: TaskPrompts, index: int, right: bool, texts: tuple[str, str], otherwise: str
) -> list[tuple[str, str]]:
    """Returns the first text in pieces, as `mark`; in one piece for benchmarks, whose scores compare parsed answers."""
    text, task = texts[0], prompt_set.task
    if task.metric and task.family != "Generate":
        return _pieces(text, [(0, min(len(text), SHOWN_CHARACTERS), "right" if right else otherwise)])
    return mark(prompt_set, index, *texts, otherwise)


def _prompt(prompt_set: TaskPrompts, index: int, answer: str) -> Marked:
    """Returns the prompt of a row; if answers are parts of the input, these are marked."""
    prompt, sentences, task = prompt_set.prompts[index], prompt_set.rows[index].sentences, prompt_set.task
    if task.family in ("CLS", "Generate") or not sentences:
        return _pieces(prompt, [])
    said, wanted = said_parts(task, prompt_set.rows[index], answer), gold_parts(task, prompt_set.rows[index])
    kinds = {term: "wrong" for _, term in said}
    kinds |= {term: "missed" for _, term in wanted}
    kinds |= {term: "right" for _, term in said & wanted}
    start = prompt.find(sentences)
    pattern = "|".join(re.escape(term) for term in sorted(kinds, key=len, reverse=True))
    matches = re.finditer(pattern, sentences) if pattern else ()
    return _pieces(prompt, [(start + m.start(), start + m.end(), kinds[m[0]]) for m in matches])


def _pieces(text: str, spans: Sequence[tuple[int, int, str]]) -> list[tuple[str, str]]:
    """Cuts a text at ordered, disjoint spans (start, end, kind); the end of a very long text is left out."""
    pieces, done = [], 0
    for start, end, kind in spans:
        if end > SHOWN_CHARACTERS:
            break
        pieces += [(text[done:start], ""), (text[start:end], kind)]
        done = end
    rest = text[done:] if len(text) <= SHOWN_CHARACTERS else text[done:SHOWN_CHARACTERS] + " …"
    return [(piece, kind) for piece, kind in [*pieces, (rest, "")] if piece]
