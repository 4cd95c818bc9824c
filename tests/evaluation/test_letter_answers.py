import pytest
import tiny_tasks

from ecomgpt_jax.evaluation.corrected_scores import corrected_scores
from ecomgpt_jax.evaluation.letter_answers import letter_counts, read_letters
from ecomgpt_jax.evaluation.protocol import TaskPrompts, build_prompts
from ecomgpt_jax.evaluation.scores import score_task
from ecomgpt_jax.instruct.answer_parts import UNREADABLE
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow, load_tasks, write_task

WRONG = UNREADABLE[1]


def part(labels: tuple[str, ...], golds: tuple[tuple[str, ...], ...] = (), separator: str = ", ") -> TaskPrompts:
    """One row per gold answer, candidates in the order of `labels` in each."""
    golds = golds or (labels[:1],)
    task = TaskFolder("EN-X-CLS-y", "y", "{sentences} {label_set}", {"default": labels}, separator=separator)
    rows = tuple(TaskRow(f"row {at}", {"default": gold}) for at, gold in enumerate(golds))
    texts = tuple(separator.join(gold) for gold in golds)
    return TaskPrompts(task, rows, ("",) * len(rows), texts, (labels,) * len(rows), ("",) * len(rows))


NUMBERED = tuple(f"shade {at}" for at in range(1, 51))


@pytest.mark.parametrize(
    ("labels", "answer", "said"),
    [
        (("Price", "Size", "Colour"), "C, A", "Colour, Price"),
        (("Price", "Size"), "B.", "Size"),
        (("Price", "Size"), " (b) ", "Size"),
        (("Price", "Size"), "Answer: B", "Size"),
        (("Price", "Size"), "B. Size", "Size"),
        (("Price", "Size"), "A. Price, B. Size", "Price, Size"),
        (("Price", "Size"), "A: it is dear", "Price"),
        (("Price", "Size"), "A, A", "Price, Price"),
        (("Price", "Size"), "Size", WRONG),
        (("Price", "Size"), "C", WRONG),
        (("Price", "Size"), "A good one", WRONG),
        (("Price", "Size"), "AB", WRONG),
        (("Price", "Size"), "B, Price", f"Size, {WRONG}"),
        (("Price", "Size"), "", ""),
        (("Price", "Size"), "\n", ""),
        (("B", "A"), "B", "A"),
        (("B", "A"), "A, B", "B, A"),
        (("C", "A"), "C", WRONG),
        (("B. A", "A. B"), "B. A. B", "A. B"),
        (("x, y", "y"), "A. x, y, B", "x, y, y"),
        (NUMBERED, "1", "shade 1"),
        (NUMBERED, "10, 1, 5", "shade 10, shade 1, shade 5"),
        (NUMBERED, "50. shade 50", "shade 50"),
        (NUMBERED, "51", WRONG),
        (NUMBERED, "0", WRONG),
        (NUMBERED, "A", WRONG),
        (("1", "2", *NUMBERED[:25]), "2, 3", "2, shade 1"),
    ],
)
def test_letters_become_labels_and_nothing_else_does(labels: tuple[str, ...], answer: str, said: str) -> None:
    assert read_letters(part(labels), [answer]) == [said]


def test_other_separators() -> None:
    assert read_letters(part(("a", "b"), separator=";"), ["A; B"]) == ["a;b"]
    assert read_letters(part(("a", "b"), separator="、"), ["B、A"]) == ["b、a"]


def test_gold_letters_of_every_task_score_in_full_and_letters_of_other_orders_do_not(tmp_path: object) -> None:
    tiny_tasks.write_tiny_tasks(tmp_path)
    for task in load_tasks(tmp_path):
        found = build_prompts(task, protocol="greedy:letters")
        lettered = task.family == "CLS"
        assert (found.letters is not None) == lettered
        texts = read_letters(found, found.responses())
        entry = score_task(found, texts)
        assert entry["corrected"]["score"] == 1
        if not lettered:
            assert texts == list(found.golds)
            continue
        assert entry["corrected"]["format-error-rate"] == 0
        assert list(texts) == list(found.golds)
        labels = score_task(found, read_letters(found, found.golds))
        assert labels["corrected"]["score"] == 0, "the names of labels are no letters"
        assert labels["corrected"]["format-error-rate"] == 1


def test_the_scores_are_those_of_the_same_labels_in_the_frozen_protocol(tmp_path: object) -> None:
    task, rows = tiny_tasks.TOPICS
    task = write_task(tmp_path, task, rows)
    found, frozen = build_prompts(task, protocol="greedy:letters"), build_prompts(task)
    said = ["A", "B, C", "C", "x"]
    texts = read_letters(found, said)
    names = [dict(zip(*pair, strict=True)) for pair in zip(found.names(), found.candidates(), strict=True)]
    by_hand = [
        ", ".join(of.get(letter, "?") for letter in text.split(", ")) for of, text in zip(names, said, strict=True)
    ]
    ours = corrected_scores(task, found.rows, texts, found.shown)
    assert ours == corrected_scores(task, frozen.rows, by_hand)


def test_counts_by_letter() -> None:
    found = part(("Price", "Size", "Colour"), (("Price",), ("Size", "Colour"), ("Price",)))
    texts = read_letters(found, ["A", "B, A", "nothing"])
    assert letter_counts(found, texts) == {
        "A": {"gold": 2, "said": 2, "right": 1},
        "B": {"gold": 1, "said": 1, "right": 1},
        "C": {"gold": 1, "said": 0, "right": 0},
    }
