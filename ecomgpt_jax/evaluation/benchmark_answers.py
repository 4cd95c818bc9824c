"""Reads a model's answers to benchmark questions, for the corrected scores.

A choice is a letter, number or yes/no, alone or before punctuation at the start of the answer ("B", "(B)", "B:
because", "Answer: B"). A word that begins like a choice ("a good one") is not one.
"""

import re

_PREFIX = re.compile(r"\s*(?:(?:the )?answer(?: is)?\s*[:：]|\**答案\**\s*[:：])\s*", re.IGNORECASE)
_LETTER = re.compile(r"\(?([A-Za-z])(?=\s*$|[.:)：、]|\s*\n)")
_NUMBER = re.compile(r"\(?(\d+)(?=\s*$|[:)：、]|\.(?!\d)|\s*\n)")
_YES_NO = re.compile(r"(yes|no)(?=\s*$|[.,:;!)]|\s*\n)", re.IGNORECASE)
_INTEGERS = re.compile(r"(?<![\w.-])\d+(?![\w.])")


def read_choice(text: str, labels: tuple[str, ...]) -> str:
    """Returns the label that an answer chooses; "" if it chooses none of them."""
    text = _PREFIX.sub("", text, count=1).lstrip()
    pattern = _YES_NO if "yes" in labels else _NUMBER if labels and labels[0].isdigit() else _LETTER
    match = pattern.match(text)
    said = match[1] if match else ""
    said = said.lower() if "yes" in labels else said.upper()
    return said if said in labels else ""


def first_line(text: str) -> str:
    """Returns the first line that is not blank, without a leading "Answer:", and blanks and a full stop at its ends."""
    lines = (line.strip() for line in _PREFIX.sub("", text, count=1).split("\n"))
    return next((line for line in lines if line), "").rstrip(".。").rstrip()


def read_items(text: str) -> list[str]:
    """Returns the distinct comma-separated items of the first line, in order."""
    items = (item.strip() for item in re.split("[,，]", first_line(text)))
    return list(dict.fromkeys(item for item in items if item))


def read_ranking(text: str, count: int) -> list[int]:
    """Returns the distinct whole numbers from 1 to `count` in the first line, in order."""
    said = (int(number) for number in _INTEGERS.findall(first_line(text)))
    return list(dict.fromkeys(number for number in said if 1 <= number <= count))


def canonical(metric: str, labels: tuple[str, ...], text: str) -> str:
    """Returns an answer in the form that the task's metric compares: the chosen label, the items, or the first line.

    Args:
      metric: the task's, `benchmark:kind`.
      labels: of the task; empty if answers are open.
      text: the model's answer.
    """
    kind = metric.partition(":")[2]
    if kind in ("letter", "yes_no", "accuracy"):
        return read_choice(text, labels)
    if kind in ("micro f1", "labels"):
        return ",".join(read_items(text.lower() if kind == "micro f1" else text))
    if kind == "label":
        return first_line(text)
    return text
