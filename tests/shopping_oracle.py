"""Shopping MMLU's metrics, read off `skill_wise_eval/metrics.py` at 7b118da as rules and written down step by step.

A rule that raises there raises `Raises` here. ROUGE-L and BLEU are their definitions (Lin 2004; Papineni et al. 2002
with exponential smoothing, as sacrebleu does) on texts of lower-case words and blanks, with plurals as
the only suffix to stem.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence


class Raises(Exception):
    """The published scorer raises."""


def first_letter(answer: str, truth: str) -> float:
    """Blanks at both ends go, other white space stays; then one character decides."""
    characters = list(answer)
    while characters and characters[0] == " ":
        characters.pop(0)
    return 1.0 if characters and characters[0] == truth else 0.0


def whole_numbers(parts: Sequence[str]) -> list[int]:
    """What can be read as a whole number, with white space around it; anything else is passed over."""
    found = []
    for part in parts:
        digits = part.strip()
        sign = -1 if digits[:1] == "-" else 1
        digits = digits[1:] if digits[:1] in ("-", "+") else digits
        if digits and all(character in "0123456789" for character in digits):
            value = 0
            for character in digits:
                value = 10 * value + "0123456789".index(character)
            found.append(sign * value)
    return found


def hit_at_3(answer: str, truth: Sequence[int]) -> float:
    """The first three numbers between commas of all lines; each right number counts once, out of all right ones."""
    said = whole_numbers(answer.split(","))[:3]
    return sum(1 for number in set(truth) if number in said) / len(truth)


def ndcg(answer: str, weights: Sequence[float]) -> float:
    """Gain over the numbers as said, repeated ones too; item 0 is the last, -1 the last but one; one beyond adds 0."""
    line = answer.strip("\n").split("\n")[0] if "\n" in answer else answer
    gains = []
    for number in whole_numbers(line.split(","))[: len(weights)]:
        if number > len(weights):
            gains.append(0.0)
        elif number >= 1:
            gains.append(2.0 ** weights[number - 1] - 1)
        elif number > -len(weights):
            gains.append(2.0 ** weights[len(weights) - 1 + number] - 1)
        else:
            raise Raises(f"item {number} of {len(weights)}")
    best = sorted((2.0**weight - 1 for weight in weights), reverse=True)
    total, ideal = (sum(g * math.log(2) / math.log(place) for place, g in enumerate(part, 2)) for part in (gains, best))
    return total / ideal if ideal else math.nan


def list_f1(answers: Sequence[str], truths: Sequence[Sequence[str]]) -> float:
    """One F1 over all rows; what is said twice is wrong once, an item of blanks is wrong, no item is nothing said."""
    right = said = wanted = 0
    for answer, truth in zip(answers, truths, strict=True):
        line = answer
        while line.startswith("\n"):
            line = line[1:]
        line = line.partition("\n")[0].strip(" ")
        items = Counter(item.strip(" ").lower() for item in line.split(",") if len(item))
        right += len([item for item in {one.lower() for one in truth} if items[item]])
        said += sum(items.values())
        wanted += len(truth)
    if said == 0 or wanted == 0:
        raise Raises("division by zero")
    return 2 * right / (said + wanted)


def rouge_l(answer: str, truth: str) -> float:
    """F of the longest common subsequence of the words, a plural's s dropped where more than three letters stay."""
    said, wanted = ([re.sub("(?<=[a-z]{3}[^s])s$", "", word) for word in text.split()] for text in (answer, truth))
    lengths = {(i, -1): 0 for i in range(-1, len(said))} | {(-1, j): 0 for j in range(len(wanted))}
    for i, word in enumerate(said):
        for j, other in enumerate(wanted):
            longest = max(lengths[i - 1, j], lengths[i, j - 1])
            lengths[i, j] = lengths[i - 1, j - 1] + 1 if word == other else longest
    common = lengths[len(said) - 1, len(wanted) - 1]
    return 2 * common / (len(said) + len(wanted)) if common else 0.0


def bleu(answer: str, truth: str) -> float:
    """Geometric mean of the precisions of 1 to 4 words in a row on the first line, times the brevity penalty.

    The n-th precision of 0 is 1 / 2^k, k = 1 for the first of them, over the number of runs of n words; with fewer than
    4 words there are orders without runs, and the score is 0; so it is where no word is right.
    """
    said, wanted = answer.strip("\n").split("\n")[0].lower().split(), truth.lower().split()
    logs, zeros = [], 0
    for order in range(1, 5):
        runs = [Counter(tuple(text[i : i + order]) for i in range(len(text) - order + 1)) for text in (said, wanted)]
        if not runs[0]:
            return 0.0
        hits = (runs[0] & runs[1]).total()
        zeros += hits == 0
        logs.append(math.log((hits or 0.5**zeros) / runs[0].total()))
    if zeros == 4:
        return 0.0
    return math.exp(sum(logs) / 4) * min(1.0, math.exp(1 - len(wanted) / len(said)))
