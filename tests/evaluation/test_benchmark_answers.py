import pytest

from ecomgpt_jax.evaluation.benchmark_answers import canonical, first_line, read_choice, read_items, read_ranking

LETTERS, NUMBERS, YES_NO = ("A", "B", "C", "D"), ("0", "1", "2", "3"), ("yes", "no")


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("B", "B"), (" B\n", "B"), ("b", "B"), ("(C)", "C"), ("D.", "D"), ("A: The product is", "A"),
        ("B\nbecause", "B"),
        ("Answer: B", "B"), ("The answer is: C.", "C"), ("答案：D", "D"), ("***答案***：A", "A"),
        ("a good one", ""), ("B because I think", ""), ("E", ""), ("E: none", ""), ("I", ""), ("", ""), ("AB", ""),
        ("答", ""),
    ],
)  # fmt: skip
def test_letters(text: str, choice: str) -> None:
    assert read_choice(text, LETTERS) == choice


@pytest.mark.parametrize(
    ("text", "choice"),
    [("2", "2"), ("\n1", "1"), ("3.", "3"), ("(0)", "0"), ("12", ""), ("4", ""), ("1.5", ""), ("-1", "")],
)
def test_numbers(text: str, choice: str) -> None:
    assert read_choice(text, NUMBERS) == choice


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("yes", "yes"),
        ("No.", "no"),
        ("Yes, they are", "yes"),
        ("no idea", ""),
        ("yesterday", ""),
        ("maybe", ""),
        ("", ""),
    ],
)
def test_yes_and_no(text: str, choice: str) -> None:
    assert read_choice(text, YES_NO) == choice


def test_lists_and_rankings() -> None:
    assert read_items("Answer: a, B,, a ,c.\nmore") == ["a", "B", "c"]
    assert read_items("") == []
    assert read_ranking("3, 1,1, 9, 0, -2, 1.5, 2", 3) == [3, 1, 2]
    assert read_ranking("", 3) == []
    assert first_line("\n\n 答案：红色。\n因为") == "红色"


def test_canonical_answers_by_kind() -> None:
    assert canonical("ecinstruct:letter", LETTERS, "C: because") == "C"
    assert canonical("shopping_mmlu:micro f1", (), "Red , red, Blue") == "red,blue"
    assert canonical("chinese_ecom_qa:labels", (), "衬衫，A类,衬衫") == "衬衫,A类"
    assert canonical("chinese_ecom_qa:text", (), " as it is\n") == " as it is\n"
