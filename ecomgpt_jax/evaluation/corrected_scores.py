"""Corrected scores, reported next to the official ones.

They differ from the official ones: Chinese is counted by character, not by white space; a repeated label lowers
precision; a final full stop is ignored; a correct one-character answer counts; macro-F1 is a mean over classes; format
errors are counted.

Every score has a 95 % interval from resampling distinct inputs. Every task has `score`, a ratio of two sums over rows:
  CLS, Extract, Condition_Extract, NER: micro-F1 = 2 * sum(hits) / sum(parts predicted + parts of the gold answer);
  Generate: ROUGE-L over tokens, mean over rows, F = 2 * LCS / (tokens predicted + tokens of the gold answer).
Parts are a bag of labels for CLS, a set of terms for the Extract families, a set of (type, term) for NER, read as in
`instruct.answer_parts`; a token is a Chinese character or a word, or any character of a text that has neither. A row
without gold parts adds nothing if the answer states that there are none; a score over only such rows is 1. Another
answer without parts (a blank one, an emoji) counts as one wrong part.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ecomgpt_jax.evaluation.benchmark_answers import canonical
from ecomgpt_jax.evaluation.benchmark_scores import as_ratios, ranking_scores
from ecomgpt_jax.evaluation.distinct_inputs import sum_by_input
from ecomgpt_jax.evaluation.official_scores import common_words_length
from ecomgpt_jax.instruct.answer_parts import (
    Bag,
    gold_parts,
    name_of,
    read_parts,
    repeated_or_unknown,
    said_parts,
    split_type,
    tidy,
)
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow, candidates, gold_answer, gold_labels
from ecomgpt_jax.instruct.tasks.task import NOTHING

RESAMPLES = 1000
CHRF_ORDER, CHRF_BETA = 6, 2.0
_CHINESE = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(f"[{_CHINESE}]|[^\\W{_CHINESE}]+")
Shown = Sequence[Sequence[str]] | None


def corrected_scores(
    task: TaskFolder, rows: Sequence[TaskRow], predictions: Sequence[str], shown: Shown = None
) -> dict[str, float]:
    """Returns the corrected scores of one prediction per row, each in [0, 1].

    Returns:
      `score`, `score-low` and `score-high` (its interval); `exact-match` (all parts right; the same text for
      Generate); `format-error-rate`; and by family: `macro-f1`, the mean F1 over the classes (CLS) or types (NER) that
      occur in gold answers; `token-f1`, the mean F1 over bags of tokens (Extract, Condition_Extract); `rouge-l` and
      `chrf` (Generate). For CLS, `exact-match` is accuracy over label sets.
    """
    return summarise(input_statistics(task, rows, predictions, shown))


def input_statistics(
    task: TaskFolder, rows: Sequence[TaskRow], predictions: Sequence[str], shown: Shown = None
) -> dict[str, np.ndarray]:
    """Returns numerators and denominators of each score by distinct input (`TaskRow.sentences`), for resampling.

    A score is the mean over classes of numerator / denominator, each summed over inputs. Only `macro-f1` has several
    classes.

    Args:
      task: determines how answers are parsed.
      rows: the task's rows.
      predictions: an answer for each.
      shown: the candidates in each prompt; None: those of the default protocol.

    Returns:
      {name: [distinct inputs, classes, 2] float64}.
    """
    inputs = [row.sentences for row in rows]
    by_row = _row_statistics(task, rows, predictions, shown)
    return {name: sum_by_input(ratios, inputs) for name, ratios in by_row.items()}


def _row_statistics(
    task: TaskFolder, rows: Sequence[TaskRow], predictions: Sequence[str], shown: Shown
) -> dict[str, np.ndarray]:
    if shown is None:
        shown = [candidates(task, index, row) for index, row in enumerate(rows)]
    if (values := ranking_scores(task, rows, predictions)) is not None:
        return {"score": _means(values), "exact-match": _means(exact_matches(task, rows, predictions))}
    predictions = read_answers(task, predictions)
    texts = [(text, gold_answer(task, row)) for row, text in _pairs(rows, predictions)]
    found = {
        "score": score_rows(task, rows, predictions)[:, None],
        "exact-match": _means(exact_matches(task, rows, predictions)),
    }
    if task.family == "Generate":
        found["rouge-l"] = found["score"]
        found["chrf"] = _means([chrf(text, gold) for text, gold in texts])
    elif task.family in ("CLS", "NER"):
        hits, said, gold = np.moveaxis(_class_counts(task, rows, predictions)[1], -1, 0)
        found["macro-f1"] = np.stack([2 * hits, said + gold], axis=-1)
    else:
        found["token-f1"] = _means([token_f1(text, gold) for text, gold in texts])
    wrong = [
        format_error(task, row, text, labels)
        for (row, text), labels in zip(_pairs(rows, predictions), shown, strict=True)
    ]
    return {**found, "format-error-rate": _means(wrong)}


def summarise(statistics: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns the scores of `input_statistics`, and `score-low` and `score-high`, the interval of `score`."""
    scores = {name: float(_value(ratios.sum(0))) for name, ratios in statistics.items()}
    low, high = interval(statistics["score"])
    return {"score": scores.pop("score"), "score-low": low, "score-high": high, **scores}


def class_scores(
    task: TaskFolder, rows: Sequence[TaskRow], predictions: Sequence[str]
) -> dict[str, dict[str, float | int]]:
    """Returns {class: {"f1", "gold", "said", "right"}} for the labels (CLS) or types (NER) of the gold answers.

    If the gold answers have none, the classes are those of the predictions.
    """
    names, counts = _class_counts(task, rows, read_answers(task, predictions))
    return {
        name: {"f1": float(2 * hits / (said + gold)), "gold": int(gold), "said": int(said), "right": int(hits)}
        for name, (hits, said, gold) in zip(names, counts.sum(0), strict=True)
    }


def score_rows(task: TaskFolder, rows: Sequence[TaskRow], predictions: Sequence[str]) -> np.ndarray:
    """Returns numerator and denominator of `score` per row, [rows, 2] float64; `score` is the ratio of the sums."""
    if (values := ranking_scores(task, rows, predictions)) is not None:
        return as_ratios(values)
    predictions = read_answers(task, predictions)
    if task.family == "Generate":
        return as_ratios(
            [max(rouge_l(text, gold) for gold in _references(task, row)) for row, text in _pairs(rows, predictions)]
        )
    bags = _bags(task, rows, predictions)
    return np.array([(2 * (said & gold).total(), said.total() + gold.total()) for said, gold in bags], float)


def read_answers(task: TaskFolder, predictions: Sequence[str]) -> list[str]:
    """Returns answers in the form that is compared; answers to benchmarks are parsed by `benchmark_answers`."""
    if not task.metric:
        return list(predictions)
    return [canonical(task.metric, task.labels, text) for text in predictions]


def _references(task: TaskFolder, row: TaskRow) -> tuple[str, ...]:
    """Returns the references of an open answer: one, or several of a benchmark."""
    return gold_labels(task, row) if task.metric else (gold_answer(task, row),)


def exact_matches(task: TaskFolder, rows: Sequence[TaskRow], predictions: Sequence[str]) -> list[bool]:
    """Returns per row whether all parts are right; for Generate, whether the text is equal; for rankings, score 1."""
    if (values := ranking_scores(task, rows, predictions)) is not None:
        return [value >= 1 for value in values]
    predictions = read_answers(task, predictions)
    if task.family == "Generate":
        return [_same(text, gold_answer(task, row)) for row, text in _pairs(rows, predictions)]
    return [said == gold for said, gold in _bags(task, rows, predictions)]


def interval(ratios: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Returns the 95 % percentile bootstrap interval of a score of `input_statistics`, inputs resampled.

    `ratios` is [inputs, classes, 2], or [inputs, 2] for one class. A class without inputs in a resample is left out of
    its mean.
    """
    inputs = len(ratios)
    weights = np.random.default_rng(seed).multinomial(inputs, np.full(inputs, 1 / inputs), size=RESAMPLES)
    values = _value((weights @ ratios.reshape(inputs, -1)).reshape(RESAMPLES, -1, 2))
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def format_error(task: TaskFolder, row: TaskRow, answer: str, shown: Sequence[str]) -> bool:
    """Returns whether an answer violates its task's format.

    Blank is always an error. CLS: a label that is not among the candidates `shown`, or repeated more often than in the
    gold answer. NER: a line that is not "Type: terms" with a type of the task, or a repeated type. Extract,
    Condition_Extract: a term that is not in the input ("None" means that there is none).
    """
    if not answer.strip():
        return True
    if task.family == "NER":
        lines = [split_type(line, task.labels) for line in answer.split("\n") if line.strip()]
        blank = any(not terms.strip() for _, terms in lines)
        return blank or repeated_or_unknown((kind for kind, _ in lines), task.labels)
    if task.family == "Generate":
        return False
    if task.family == "CLS":
        said, wanted, names = said_parts(task, row, answer), gold_parts(task, row), set(map(name_of, shown))
        wrong = (count > max(1, wanted[part]) or (names and part[1] not in names) for part, count in said.items())
        return not said or any(wrong)
    said = read_parts(task, row, answer)
    return not said or any(term not in row.sentences and term != NOTHING for _, term in said)


def tokens(text: str) -> list[str]:
    """Returns Chinese characters and words (runs of letters and digits), lower-cased, punctuation left out.

    For a text that has neither ("👍", "!!!") it returns the characters.
    """
    return [token for token, _ in located_tokens(text)]


def located_tokens(text: str) -> list[tuple[str, int]]:
    """Returns each of `tokens` and its position in the text."""
    words = [(match[0].lower(), match.start()) for match in _TOKEN.finditer(text)]
    return words or [(character, at) for at, character in enumerate(text) if not character.isspace()]


def token_f1(answer: str, gold: str) -> float:
    """Returns the F1 of two bags of tokens, as for extractive question answering (SQuAD)."""
    said, wanted = Counter(tokens(answer)), Counter(tokens(gold))
    return _f1((said & wanted).total(), said.total() + wanted.total(), answer, gold)


def rouge_l(answer: str, gold: str) -> float:
    """Returns ROUGE-L F over tokens: 2 * LCS / (tokens of the answer + tokens of the gold answer)."""
    said, wanted = tokens(answer), tokens(gold)
    return _f1(common_words_length(wanted, said), len(said) + len(wanted), answer, gold)


def _f1(hits: int, size: int, answer: str, gold: str) -> float:
    """Returns 2 * hits / size; blank texts (size 0) are compared as texts."""
    return 2 * hits / size if size else float(_same(answer, gold))


def chrf(answer: str, gold: str) -> float:
    """Returns chrF of one pair (Popovic 2015).

    Precision and recall of character n-grams, n = 1..6, white space dropped, are averaged over the orders that both
    texts have; F weighs recall by beta = 2.
    """
    said, wanted = "".join(answer.split()), "".join(gold.split())
    if not said or not wanted:
        return float(_same(answer, gold))
    precision, recall = [], []
    for order in range(1, min(CHRF_ORDER, len(said), len(wanted)) + 1):
        bags = [Counter(text[i : i + order] for i in range(len(text) - order + 1)) for text in (said, wanted)]
        hits = (bags[0] & bags[1]).total()
        precision.append(hits / bags[0].total())
        recall.append(hits / bags[1].total())
    p, r, weight = _mean(precision), _mean(recall), CHRF_BETA**2
    return (1 + weight) * p * r / (weight * p + r) if p and r else 0.0


def _pairs(rows: Sequence[TaskRow], predictions: Sequence[str]) -> Iterator[tuple[TaskRow, str]]:
    return zip(rows, predictions, strict=True)


def _bags(task: TaskFolder, rows: Sequence[TaskRow], predictions: Sequence[str]) -> list[tuple[Bag, Bag]]:
    """Returns per row the parts of the prediction and of the gold answer."""
    return [(said_parts(task, row, text), gold_parts(task, row)) for row, text in _pairs(rows, predictions)]


def _class_counts(
    task: TaskFolder, rows: Sequence[TaskRow], predictions: Sequence[str]
) -> tuple[list[str], np.ndarray]:
    """Returns the classes, and per row and class the numbers of right, predicted and gold parts, [rows, classes, 3].

    A class is a label (CLS) or a type (NER) of the gold answers, or if these have none, of the predictions.
    """
    field, pairs = 0 if task.family == "NER" else 1, _bags(task, rows, predictions)
    names = sorted({part[field] for _, gold in pairs for part in gold})
    names = names or sorted({part[field] for said, _ in pairs for part in said})
    places = {name: place for place, name in enumerate(names)}
    counts = np.zeros((len(pairs), len(names), 3))
    for row, (said, gold) in zip(counts, pairs, strict=True):
        for column, bag in enumerate((said & gold, said, gold)):
            for part, count in bag.items():
                if part[field] in places:
                    row[places[part[field]], column] += count
    return names, counts


def _value(sums: np.ndarray) -> np.ndarray:
    """Returns the mean ratio of sums [..., classes, 2] over the classes that occur; 1 where none does."""
    above, below = sums[..., 0], sums[..., 1]
    occurs = below > 0
    ratios = np.divide(above, below, out=np.zeros(above.shape), where=occurs)
    count = occurs.sum(-1)
    return np.where(count, ratios.sum(-1) / np.maximum(count, 1), 1.0)


def _means(values: Sequence[float]) -> np.ndarray:
    """Returns a mean over rows as ratios, [rows, 1, 2]."""
    return np.stack([np.asarray(values, float), np.ones(len(values))], axis=-1)[:, None]


def _same(answer: str, gold: str) -> bool:
    """Returns whether two texts are equal apart from white space at the ends and a final full stop.

    Blank texts are equal if they are identical or if the gold answer is empty.
    """
    return tidy(answer) == tidy(gold) and (bool(gold.strip()) or answer == gold or not gold)


def _mean(values: Sequence[float]) -> float:
    return float(sum(values) / len(values))
