"""Scores that say what an answer is worth, to stand beside the official ones.

What they put right: Chinese counts by character, not by white space; a repeated label costs precision; a final full
stop costs nothing; a correct one-character answer counts; macro-F1 is a mean over classes; a model that ignores the
format is seen.

Every task has `score`, a ratio of two sums over rows, with a 95 % interval from resampling the rows:
  CLS, Extract, Condition_Extract, NER: micro-F1 = 2 * sum(hits) / sum(parts predicted + parts of the gold answer);
  Generate: ROUGE-L over tokens, mean over rows, F = 2 * LCS / (tokens predicted + tokens of the gold answer).
Parts are a bag of labels for CLS, a set of terms for the Extract families, a set of (type, term) for NER; a token is a
Chinese character or a word. A ratio whose denominator is 0 is 1: there was nothing to find, and nothing was said.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ecomgpt_jax.evaluation.official_scores import common_words_length
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow, candidates, gold_answer

RESAMPLES = 1000
CHRF_ORDER, CHRF_BETA = 6, 2.0
_CHINESE = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(f"[{_CHINESE}]|[^\\W{_CHINESE}]+")
Bag = Counter[tuple[str, str]]


def corrected_scores(task: TaskFolder, rows: Sequence[TaskRow], predictions: Sequence[str]) -> dict[str, float]:
    """Returns the corrected scores of one prediction a row, each in [0, 1].

    Returns:
      `score`, `score-low` and `score-high` (its interval); `exact-match` (all parts right; the same text for
      Generate); `format-error-rate`; and by family: `macro-f1`, the mean F1 over the classes (CLS) or types (NER) that
      occur in gold answers; `token-f1`, the mean F1 over bags of tokens (Extract, Condition_Extract); `rouge-l` and
      `chrf` (Generate). For CLS, `exact-match` is accuracy over label sets.
    """
    ratios = score_rows(task, rows, predictions)
    low, high = interval(ratios)
    scores = {"score": _ratio(*ratios.sum(0)), "score-low": low, "score-high": high}
    golds = [gold_answer(task, row) for row in rows]
    texts = list(zip(predictions, golds, strict=True))
    scores["exact-match"] = _mean(exact_matches(task, rows, predictions))
    if task.family == "Generate":
        scores["rouge-l"] = scores["score"]
        scores["chrf"] = _mean([chrf(text, gold) for text, gold in texts])
    else:
        pairs = [(parts(task, text), parts(task, gold)) for text, gold in texts]
        if task.family in ("CLS", "NER"):
            scores["macro-f1"] = _macro_f1(pairs, 0 if task.family == "NER" else 1)
        else:
            scores["token-f1"] = _mean([token_f1(text, gold) for text, gold in texts])
    wrong = [format_error(task, index, row, predictions[index]) for index, row in enumerate(rows)]
    return {**scores, "format-error-rate": _mean(wrong)}


def score_rows(task: TaskFolder, rows: Sequence[TaskRow], predictions: Sequence[str]) -> np.ndarray:
    """Returns numerator and denominator of `score` by row, [rows, 2] float64; `score` is the ratio of the sums."""
    ratios = np.zeros((len(rows), 2))
    for index, (row, text) in enumerate(zip(rows, predictions, strict=True)):
        gold = gold_answer(task, row)
        if task.family == "Generate":
            ratios[index] = rouge_l(text, gold), 1.0
        else:
            predicted, wanted = parts(task, text), parts(task, gold)
            ratios[index] = 2 * (predicted & wanted).total(), predicted.total() + wanted.total()
    return ratios


def exact_matches(task: TaskFolder, rows: Sequence[TaskRow], predictions: Sequence[str]) -> list[bool]:
    """Says by row whether all parts are right; for Generate, whether the text is the same."""
    pairs = [(text, gold_answer(task, row)) for row, text in zip(rows, predictions, strict=True)]
    if task.family == "Generate":
        return [_tidy(text) == _tidy(gold) for text, gold in pairs]
    return [parts(task, text) == parts(task, gold) for text, gold in pairs]


def interval(ratios: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Returns the 95 % percentile bootstrap interval of `sum(ratios[:, 0]) / sum(ratios[:, 1])`, rows resampled."""
    rows = len(ratios)
    weights = np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES)
    above, below = (weights @ ratios).T
    values = np.divide(above, below, out=np.ones(RESAMPLES), where=below > 0)
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def parts(task: TaskFolder, answer: str) -> Bag:
    """Parses an answer to its parts as (type, term) with their counts; the type is empty but for NER.

    Blank parts and NER's "None" are no parts. Each part is stripped and loses one final full stop. Only a CLS label
    counts as often as it is said.
    """
    found: list[tuple[str, str]] = []
    if task.family == "NER":
        for line in answer.splitlines():
            kind, _, terms = line.partition(":")
            found += [(kind.strip(), _tidy(term)) for term in terms.split(task.separator)]
        found = [part for part in found if part[1] != "None"]
    else:
        found = [("", _tidy(part)) for part in answer.split(task.separator)]
    bag = Counter(part for part in found if part[1])
    return bag if task.family == "CLS" else Counter(set(bag))


def format_error(task: TaskFolder, index: int, row: TaskRow, answer: str) -> bool:
    """Says whether an answer breaks its task's format.

    Blank is always an error. CLS: a label that is no candidate of row `index`, or one said twice. NER: a line that is
    not "Type: terms" with a type of the task, or a type said twice. Extract, Condition_Extract: a term that is not in
    the input ("None" says that there is none).
    """
    if not answer.strip():
        return True
    if task.family == "NER":
        lines = [line.partition(":") for line in answer.splitlines() if line.strip()]
        kinds = [kind.strip() for kind, colon, terms in lines if colon and terms.strip()]
        return len(kinds) < len(lines) or not set(kinds) <= set(task.labels) or len(set(kinds)) < len(kinds)
    if task.family == "Generate":
        return False
    said = parts(task, answer)
    if task.family == "CLS":
        shown = {_tidy(label) for label in candidates(task, index, row)}
        return not said or any(count > 1 or (shown and label not in shown) for (_, label), count in said.items())
    return not said or any(term not in row.sentences and term != "None" for _, term in said)


def tokens(text: str) -> list[str]:
    """Returns Chinese characters and words (runs of letters and digits), lower-cased, punctuation left out."""
    return _TOKEN.findall(text.lower())


def token_f1(answer: str, gold: str) -> float:
    """Returns the F1 of two bags of tokens, as for extractive question answering (SQuAD)."""
    said, wanted = Counter(tokens(answer)), Counter(tokens(gold))
    return _ratio(2 * (said & wanted).total(), said.total() + wanted.total())


def rouge_l(answer: str, gold: str) -> float:
    """Returns ROUGE-L F over tokens: 2 * LCS / (tokens of the answer + tokens of the gold answer)."""
    said, wanted = tokens(answer), tokens(gold)
    return _ratio(2 * common_words_length(wanted, said), len(said) + len(wanted))


def chrf(answer: str, gold: str) -> float:
    """Returns chrF of one pair (Popovic 2015).

    Precision and recall of character n-grams, n = 1..6, white space dropped, are averaged over the orders that both
    texts have; F weighs recall by beta = 2.
    """
    said, wanted = "".join(answer.split()), "".join(gold.split())
    if not said or not wanted:
        return float(said == wanted)
    precision, recall = [], []
    for order in range(1, min(CHRF_ORDER, len(said), len(wanted)) + 1):
        bags = [Counter(text[i : i + order] for i in range(len(text) - order + 1)) for text in (said, wanted)]
        hits = (bags[0] & bags[1]).total()
        precision.append(hits / bags[0].total())
        recall.append(hits / bags[1].total())
    p, r, weight = _mean(precision), _mean(recall), CHRF_BETA**2
    return (1 + weight) * p * r / (weight * p + r) if p and r else 0.0


def _macro_f1(pairs: Sequence[tuple[Bag, Bag]], field: int) -> float:
    """Returns the mean F1 over classes, a class being field `field` of a part."""
    hits, sizes, classes = Counter(), Counter(), set()
    for predicted, gold in pairs:
        classes.update(part[field] for part in gold)
        for counts, bag in ((hits, predicted & gold), (sizes, predicted), (sizes, gold)):
            for part, count in bag.items():
                counts[part[field]] += count
    return _mean([2 * hits[name] / sizes[name] for name in sorted(classes)]) if classes else 1.0


def _tidy(text: str) -> str:
    text = text.strip()
    return text[:-1].rstrip() if text.endswith((".", "。")) else text


def _ratio(above: float, below: float) -> float:
    return float(above / below) if below else 1.0


def _mean(values: Sequence[float]) -> float:
    return float(sum(values) / len(values))
