"""The released scorer, step by step: ROUGE-L of the `rouge` package, set F1, and NER F1 as `seqeval` counts it.

These scores are comparable with the paper's (arXiv 2308.06966), quirks included; see `corrected_scores` for the others.
A set F1 is reported as micro-F1 (sums over all rows) and as "macro-F1", the F1 of the mean precision and mean recall
over rows. NER is scored on one tag per character of the sentence, micro and macro over entity types.

Quirks that are kept:
  CLS: every "." and the white space at the ends of a prediction are dropped, those of the gold answer are not. A label
    that contains a full stop ("Co.") or ends in a blank is never matched, so gold against gold is not 1.
  CLS, Extract, Condition_Extract: a label or term that contains the separator counts as two.
  NER: an empty term ("Component: LCD, ", "a, , b") equals the empty slice at every position, so each character of the
    sentence becomes an entity. A repeated type adds its terms. The terms of a type are a set upstream; where two
    overlap, the result depends on the order, which here is that of first appearance.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow, gold_answer

BLANK = "error"
Entity = tuple[str, int, int]


def official_scores(task: TaskFolder, rows: Sequence[TaskRow], predictions: Sequence[str]) -> dict[str, float]:
    """Returns {"micro-f1", "macro-f1", "rouge-l-f1"} of one prediction per row, each in [0, 1]."""
    golds = [_gold(task, gold_answer(task, row)) for row in rows]
    answers = [_answer(task, prediction) for prediction in predictions]
    rouge = sum(rouge_l(answer, gold) for answer, gold in zip(answers, golds, strict=True)) / len(golds)
    if task.family == "NER":
        pairs = [
            (_entities(row.sentences, answer, task.separator), _entities(row.sentences, gold, task.separator))
            for row, answer, gold in zip(rows, answers, golds, strict=True)
        ]
        micro, macro = entity_f1(pairs)
    else:
        micro, macro = set_f1([(_parts(task, a), _parts(task, g)) for a, g in zip(answers, golds, strict=True)])
    return {"micro-f1": micro, "macro-f1": macro, "rouge-l-f1": rouge}


def _gold(task: TaskFolder, gold: str) -> str:
    return BLANK if task.family == "Condition_Extract" and not gold else gold


def _answer(task: TaskFolder, prediction: str) -> str:
    """Applies the blank rule of the family, and returns "error" where the `rouge` package would raise (only dots)."""
    if task.family == "CLS":
        prediction = prediction.strip().replace(".", "")
    if not prediction.replace(".", "").strip():
        return BLANK
    if task.family == "Condition_Extract" and len(prediction.strip()) <= 1:
        return BLANK
    return prediction


def _parts(task: TaskFolder, answer: str) -> set[str]:
    if task.family == "Generate":
        return set(answer.strip())
    return set((answer.strip() if task.family == "Extract" else answer).split(task.separator))


def set_f1(pairs: Iterable[tuple[set[str], set[str]]]) -> tuple[float, float]:
    """Returns (micro-F1 from sums, F1 of the mean precision and mean recall) of (predicted, gold) sets, one per row."""
    rows = both = predicted = gold = 0
    precision = recall = 0.0
    for p, t in pairs:
        hits = len(p & t)
        rows, both, predicted, gold = rows + 1, both + hits, predicted + len(p), gold + len(t)
        precision += hits / len(p) if p else 0.0
        recall += hits / len(t) if t else 0.0
    return 2 * both / max(1, predicted + gold), 2 * precision * recall / (precision + recall or 1.0) / max(1, rows)


def parse_entities(answer: str, separator: str) -> dict[str, list[str]]:
    """Parses lines "Type: term, term" to {type: terms}; a repeated type adds its terms, other lines are skipped."""
    found: dict[str, list[str]] = {}
    for line in answer.split("\n"):
        kind, colon, terms = line.partition(": ")
        if colon and terms:
            found.setdefault(kind, []).extend(terms.split(separator))
    return found


def _entities(sentence: str, answer: str, separator: str) -> set[Entity]:
    """Writes each term's occurrences over the characters of the sentence and reads the runs back as entities.

    An empty term occurs at every character.
    """
    kinds: list[str | None] = [None] * len(sentence)
    begins = [False] * len(sentence)
    for kind, terms in parse_entities(answer, separator).items():
        for term in dict.fromkeys(terms):
            start, width = -1 if term == "None" else sentence.find(term), max(1, len(term))
            while 0 <= start < len(sentence):
                kinds[start : start + width] = [kind] * width
                begins[start : start + width] = [True] + [False] * (width - 1)
                start = sentence.find(term, start + 1)
    entities, start = set(), 0
    for i, kind in enumerate([*kinds, None]):
        previous = kinds[i - 1] if i else None
        if i < len(kinds) and kind == previous and not begins[i]:
            continue
        if previous is not None:
            entities.add((previous or "_", start, i))
        start = i
    return entities


def entity_f1(pairs: Iterable[tuple[set[Entity], set[Entity]]]) -> tuple[float, float]:
    """Returns (micro-F1, mean F1 over all types seen) of (predicted, gold) entities (type, start, end), one pair per
    row.

    The same as `seqeval.metrics.classification_report`; 0 where there is no entity at all.
    """
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for predicted, gold in pairs:
        for kind, *_ in predicted & gold:
            counts[kind][0] += 1
        for kind, *_ in [*predicted, *gold]:
            counts[kind][1] += 1
    both, total = (sum(column) for column in zip(*counts.values(), strict=True)) if counts else (0, 0)
    macro = sum(2 * hits / size for hits, size in counts.values()) / max(1, len(counts))
    return 2 * both / max(1, total), macro


def rouge_l(hypothesis: str, reference: str) -> float:
    """Returns ROUGE-L F of `rouge` 1.0.1 (summary level, words counted once).

    Texts are cut into sentences at "." and into words at white space. For each pair of sentences one longest common
    subsequence is traced back; the distinct words of all of them are the overlap:
    P = overlap / |words of the hypothesis|, R = overlap / |words of the reference|, F = 2PR / (P + R + 1e-8).
    """
    answers = [sentence.split() or [""] for sentence in dict.fromkeys(hypothesis.split(".")) if sentence]
    golds = [sentence.split() or [""] for sentence in dict.fromkeys(reference.split(".")) if sentence]
    if not answers or not golds:
        return 0.0
    overlap: set[str] = set()
    for gold in golds:
        words = set(gold)
        for answer in answers:
            if not words.intersection(answer) <= overlap:
                overlap.update(_common_words(gold, answer))
    precision = len(overlap) / len({word for answer in answers for word in answer})
    recall = len(overlap) / len({word for gold in golds for word in gold})
    return 2 * precision * recall / (precision + recall + 1e-8)


def _common_words(x: list[str], y: list[str]) -> set[str]:
    """Returns the words of the longest common subsequence traced back from the table's end, ties towards shorter y."""
    rows = _lcs_rows(x, y)
    i, j, words = len(x), len(y), set()
    while i and j:
        if x[i - 1] == y[j - 1]:
            words.add(x[i - 1])
            i, j = i - 1, j - 1
        elif rows[i] >> (j - 1) & 1:
            j -= 1
        else:
            i -= 1
    return words


def common_words_length(x: Sequence[str], y: Sequence[str]) -> int:
    """Returns the length of the longest common subsequence."""
    return len(y) - _lcs_rows(x, y)[-1].bit_count()


def _lcs_rows(x: Sequence[str], y: Sequence[str]) -> list[int]:
    """Returns the table of LCS lengths, each row as one integer (bit-parallel LCS, Hyyro 2004).

    Bit j of row i is 0 where LCS(x[:i], y[:j+1]) > LCS(x[:i], y[:j]).
    """
    places: dict[str, int] = defaultdict(int)
    for j, word in enumerate(y):
        places[word] |= 1 << j
    full = (1 << len(y)) - 1
    rows = [full]
    for word in x:
        hits = rows[-1] & places.get(word, 0)
        rows.append(((rows[-1] + hits) | (rows[-1] - hits)) & full)
    return rows
