"""Answers of the protocol `greedy:letters`: letters read back into labels, and counts by letter."""

from collections import Counter
from collections.abc import Sequence

from ecomgpt_jax.evaluation.benchmark_answers import read_choice
from ecomgpt_jax.evaluation.protocol import TaskPrompts
from ecomgpt_jax.instruct.answer_parts import UNREADABLE, gold_parts, name_of, said_parts, split_known
from ecomgpt_jax.instruct.letters import lettered_name
from ecomgpt_jax.instruct.task_folder import answer_separator


def read_letters(prompt_set: TaskPrompts, answers: Sequence[str]) -> list[str]:
    """Returns answers in labels of the task, so that they are scored like those of other protocols.

    A part is a letter of the row, alone or before one of ".:)", or the whole candidate as in the prompt. Any other
    text, including the name of a label, becomes a part that no label equals. Tasks without letters are not changed.
    """
    if prompt_set.letters is None:
        return list(answers)
    separator, found = answer_separator(prompt_set.task), []
    for answer, labels, names in zip(answers, prompt_set.candidates(), prompt_set.names(), strict=True):
        of_name = dict(zip(names, labels, strict=True))
        known = of_name | {name_of(lettered_name(name, label)): label for name, label in of_name.items()}
        said = (
            known.get(part) or of_name.get(read_choice(part, names), UNREADABLE[1])
            for part, _, _ in split_known(answer, separator, tuple(known))
        )
        found.append(separator.join(said))
    return found


def letter_counts(prompt_set: TaskPrompts, texts: Sequence[str]) -> dict[str, dict[str, int]]:
    """Returns {letter: {"gold", "said", "right"}}: how often gold answers and `texts` (labels) have each letter.

    If a model prefers a letter, its "said" exceeds its "gold".
    """
    counts = {key: Counter() for key in ("gold", "said", "right")}
    rows = zip(prompt_set.rows, texts, prompt_set.candidates(), prompt_set.names(), strict=True)
    every: dict[str, None] = {}
    for row, text, labels, names in rows:
        of_label = dict(zip(map(name_of, labels), names, strict=True))
        every |= dict.fromkeys(names)
        gold, said = gold_parts(prompt_set.task, row), said_parts(prompt_set.task, row, text)
        for key, bag in (("gold", gold), ("said", said), ("right", gold & said)):
            counts[key].update(
                of_label[label] for (_, label), times in bag.items() for _ in range(times) if label in of_label
            )
    return {name: {key: counts[key][name] for key in counts} for name in every}
