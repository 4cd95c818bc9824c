"""Human evaluation: writes blinded pairs of answers, reads judgements, computes wins and agreement.

All annotators judge the same items, in different orders. A is on the left in half of each annotator's items of a task,
and the sides of an item alternate between annotators. Only the key records which side is A.
"""

import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ecomgpt_jax.errors import DataError
from ecomgpt_jax.evaluation.agreement import bootstrap_interval, cohen_kappa, fleiss_kappa, krippendorff_alpha
from ecomgpt_jax.evaluation.comparison import holm, sign_test
from ecomgpt_jax.evaluation.page import Section, Table
from ecomgpt_jax.evaluation.protocol import TaskPrompts
from ecomgpt_jax.files import read_json

OUTCOMES = ("win", "tie", "loss")  # of A
_METHOD = (
    "A win is A's. An item goes to the outcome with most of its votes, and is a tie where two have equally many. "
    "Items with identical answers are ties without a judgement. Net is the share of wins minus the share of "
    "losses, with a 95 % interval from resampled items; p is the exact sign test over wins and losses, corrected over "
    "tasks after Holm."
)
Votes = dict[str, dict[str, int]]  # by item, by annotator: index into OUTCOMES


def make_study(
    prompt_sets: Sequence[TaskPrompts],
    a: Mapping[str, Sequence[str]],
    b: Mapping[str, Sequence[str]],
    rows: int,
    annotators: int,
    seed: int = 0,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Draws rows and assembles the sheets.

    Args:
      prompt_sets: the tasks.
      a: A's predictions by task's name, one per row.
      b: B's.
      rows: number of rows drawn from each task, or all if it has fewer.
      annotators: number of sheets.
      seed: of the draw, the orders and the sides.

    Returns:
      A sheet per annotator, the input of `judging_page.render_sheet`; and the key {"study", "items": {id: {"task",
      "index"}}, "left": {annotator: {id: "a" | "b"}}, "identical": {task: number}}. Drawn rows with identical answers
      are counted under "identical" and not shown.

    Raises:
      DataError: no drawn row has two different answers.
    """
    rng = random.Random(seed)
    drawn, identical, first_left = [], {}, []
    for prompt_set in prompt_sets:
        name = prompt_set.task.name
        chosen = sorted(rng.sample(range(len(prompt_set.rows)), min(rows, len(prompt_set.rows))))
        shown = [index for index in chosen if a[name][index].strip() != b[name][index].strip()]
        identical[name] = len(chosen) - len(shown)
        drawn += [(name, index, prompt_set.prompts[index], a[name][index], b[name][index]) for index in shown]
        first_left += _balanced(len(shown), rng)
    if not drawn:
        raise DataError("no drawn row has two different answers, so there is nothing to judge")
    study = hashlib.sha256(json.dumps([seed, annotators, drawn]).encode()).hexdigest()[:16]
    names = [str(number) for number in rng.sample(range(1, len(drawn) + 1), len(drawn))]
    key: dict[str, Any] = {
        "study": study,
        "items": {name: {"task": item[0], "index": item[1]} for name, item in zip(names, drawn, strict=True)},
        "left": {},
        "identical": identical,
    }
    sheets = []
    for number in range(annotators):
        annotator, items, left = f"annotator-{number + 1}", [], {}
        for name, (task, _, prompt, own, other), first in zip(names, drawn, first_left, strict=True):
            a_left = first != bool(number % 2)
            left[name] = "a" if a_left else "b"
            pair = (own, other) if a_left else (other, own)
            items.append({"id": name, "task": task, "prompt": prompt, "left": pair[0], "right": pair[1]})
        rng.shuffle(items)
        key["left"][annotator] = left
        sheets.append({"study": study, "annotator": annotator, "items": items})
    return sheets, key


def _balanced(number: int, rng: random.Random) -> list[bool]:
    """Returns equally many True and False (for an odd number one more of either at random), in random order."""
    start = rng.getrandbits(1)
    sides = [(position + start) % 2 == 0 for position in range(number)]
    rng.shuffle(sides)
    return sides


def read_key(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a key file.

    Raises:
      MissingInputError: it does not exist.
      DataError: it is not a key file.
    """
    key = read_json(path)
    kinds = {"study": str, "items": dict, "left": dict, "identical": dict}
    sound = isinstance(key, dict) and all(isinstance(key.get(name), kind) for name, kind in kinds.items())
    sound = sound and all(type(number) is int and number >= 0 for number in key["identical"].values())
    sound = sound and all(isinstance(i, dict) and i.get("task") in [*key["identical"]] for i in key["items"].values())
    sound = sound and all(
        isinstance(left, dict)
        and left.keys() == key["items"].keys()
        and all(side in ("a", "b") for side in left.values())
        for left in key["left"].values()
    )
    if not sound:
        raise DataError(f"{path}: no key of a study, or a damaged one; preference --make writes it as key.json")
    return key


def read_judgements(
    paths: Sequence[str | os.PathLike[str]], key: Mapping[str, Any]
) -> tuple[Votes, dict[str, Counter]]:
    """Reads the files that annotators saved and reverses the blinding.

    Returns:
      Votes by item and annotator; and for each annotator how often "left", "right" and "tie" were chosen.

    Raises:
      MissingInputError: a file does not exist.
      DataError: a file is of another study, an annotator occurs twice, or an item or choice is unknown.
    """
    votes: Votes = {}
    sides: dict[str, Counter] = {}
    for path in map(Path, paths):
        content = read_json(path)
        judged = content.get("judgements") if isinstance(content, dict) else None
        if not isinstance(judged, dict):
            raise DataError(f"{path}: no judgements; it must be the file that an annotator's page saves")
        annotator = content.get("annotator")
        if content.get("study") != key["study"]:
            raise DataError(f"{path}: of study {content.get('study')!r}, and the key is of {key['study']!r}")
        if not isinstance(annotator, str) or annotator not in key["left"]:
            raise DataError(f"{path}: annotator {annotator!r} is not in the key")
        if annotator in sides:
            raise DataError(f"{path}: {annotator} occurs twice")
        sides[annotator] = Counter()
        for item, choice in judged.items():
            if item not in key["items"] or choice not in ("left", "right", "tie"):
                raise DataError(
                    f"{path}: item {item!r} judged {choice!r}; the key has no such item, or it is not a choice"
                )
            sides[annotator][choice] += 1
            a_wins = (choice == "left") == (key["left"][annotator][item] == "a")
            votes.setdefault(item, {})[annotator] = 1 if choice == "tie" else 0 if a_wins else 2
    return votes, sides


def summarise(key: Mapping[str, Any], votes: Votes, sides: Mapping[str, Counter]) -> dict[str, Any]:
    """Returns the result of a study.

    Returns:
      "tasks": {task: outcome} and "all": outcome, with {"items", "identical", "win", "tie", "loss", "net", "low",
      "high", "p"} (and "p_holm" by task); "agreement": {"cohen": [...], "fleiss", "krippendorff"}, each with "items",
      "value", "low" and "high"; "position": {annotator or "all": {"left", "right", "tie", "p"}}; "unjudged", the items
      without a judgement.
    """
    outcomes: dict[str, list[int]] = {task: [1] * number for task, number in key["identical"].items()}
    for item, by_annotator in votes.items():
        outcomes[key["items"][item]["task"]].append(majority(list(by_annotator.values())))
    tasks = {name: _outcome(values, key["identical"][name]) for name, values in outcomes.items() if values}
    for entry, p in zip(tasks.values(), holm([entry["p"] for entry in tasks.values()]), strict=True):
        entry["p_holm"] = p
    every = [value for values in outcomes.values() for value in values]
    total = sum(sides.values(), Counter())
    return {
        "study": key["study"],
        "annotators": sorted(sides),
        "judgements": total.total(),
        "unjudged": len(key["items"]) - len(votes),
        "tasks": tasks,
        "all": _outcome(every, sum(key["identical"].values())) if every else None,
        "agreement": _agreement(votes, sorted(sides)),
        "position": {name: _position(count) for name, count in [*sorted(sides.items()), ("all", total)]},
    }


def majority(values: Sequence[int]) -> int:
    """Returns the outcome with most votes; a tie (1) if two have equally many."""
    (best, votes), *rest = Counter(values).most_common()
    return 1 if rest and rest[0][1] == votes else best


def _outcome(values: Sequence[int], identical: int) -> dict[str, Any]:
    counts = [values.count(index) for index in range(3)]
    signs = 1.0 - np.array(values)
    low, high = bootstrap_interval(lambda picks: float(signs[picks].mean()), len(values)) or (0.0, 0.0)
    return {
        "items": len(values),
        "identical": identical,
        **dict(zip(OUTCOMES, counts, strict=True)),
        "net": float(signs.mean()),
        "low": low,
        "high": high,
        "p": sign_test(counts[0], counts[2]),
    }


def _agreement(votes: Votes, annotators: Sequence[str]) -> dict[str, Any]:
    items = sorted(votes)
    counts = np.array([np.bincount(list(votes[item].values()), minlength=3) for item in items]).reshape(-1, 3)
    full = counts[counts.sum(1) == len(annotators)] if len(annotators) > 1 else counts[:0]
    several = counts[counts.sum(1) > 1]
    cohen = []
    for pair in combinations(annotators, 2):
        both = np.array([[votes[i][name] for name in pair] for i in items if set(pair) <= votes[i].keys()], int)
        both = both.reshape(-1, 2)
        cohen.append({"annotators": list(pair), **_with_interval(lambda rows: cohen_kappa(*rows.T), both)})
    return {
        "cohen": cohen,
        "fleiss": _with_interval(fleiss_kappa, full),
        "krippendorff": _with_interval(krippendorff_alpha, several),
    }


def _with_interval(statistic: Callable[[np.ndarray], float | None], rows: np.ndarray) -> dict[str, Any]:
    low, high = bootstrap_interval(lambda picks: statistic(rows[picks]), len(rows)) or (None, None)
    return {"items": len(rows), "value": statistic(rows), "low": low, "high": high}


def _position(count: Mapping[str, int]) -> dict[str, Any]:
    left, right = count["left"], count["right"]
    return {"left": left, "right": right, "tie": count["tie"], "p": sign_test(left, right)}


def preference_sections(result: Mapping[str, Any]) -> list[Section]:
    """Returns the result of `summarise` as sections of a report."""
    rows = []
    for name, entry in [*result["tasks"].items(), ("All", result["all"])]:
        if entry:
            shares = [f"{entry[outcome]} ({entry[outcome] / entry['items']:.0%})" for outcome in OUTCOMES]
            span = f"{100 * entry['low']:+.1f} to {100 * entry['high']:+.1f}"
            p = [f"{entry['p']:.4f}", f"{entry['p_holm']:.4f}" if "p_holm" in entry else ""]
            rows.append(
                [name, str(entry["items"]), str(entry["identical"]), *shares, f"{100 * entry['net']:+.1f}", span, *p]
            )
    header = ["Task", "Items", "Same answer", "Win", "Tie", "Loss", "Net, points", "95 % interval", "p", "p (Holm)"]
    text = [
        f"{result['judgements']} judgements by {len(result['annotators'])} annotators; "
        f"{result['unjudged']} items have no judgement.",
        _METHOD,
    ]
    kinds = [("Cohen's kappa, " + " and ".join(pair["annotators"]), pair) for pair in result["agreement"]["cohen"]]
    kinds += [("Fleiss' kappa", result["agreement"]["fleiss"])]
    kinds += [("Krippendorff's alpha, nominal", result["agreement"]["krippendorff"])]
    agreement = [
        [name, str(entry["items"]), *("–" if entry[k] is None else f"{entry[k]:.3f}" for k in ("value", "low", "high"))]
        for name, entry in kinds
    ]
    position = [
        [name, *(str(entry[side]) for side in ("left", "right", "tie")), f"{entry['p']:.4f}"]
        for name, entry in result["position"].items()
    ]
    return [
        Section("Wins, ties, losses", text, Table(header, rows, totals=1)),
        Section(
            "Agreement",
            ["Over win, tie and loss; 0 is what chance gives. Intervals are 95 %, from resampled items."],
            Table(["Coefficient", "Items", "Value", "Low", "High"], agreement),
        ),
        Section(
            "Position",
            ["How often the left and the right answer was chosen; a small p (exact sign test): place counted."],
            Table(["Annotator", "Left", "Right", "Tie", "p"], position, totals=1),
        ),
    ]
