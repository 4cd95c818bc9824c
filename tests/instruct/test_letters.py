import pytest

from ecomgpt_jax.errors import DataError
from ecomgpt_jax.instruct.instructions import Instruction, render
from ecomgpt_jax.instruct.letters import can_show_letters, drawn, letters, shuffled, with_letters


def instruction(*candidates: str, template: str = "{sentences}\nPick: {label_set}.\n### Response:") -> Instruction:
    return Instruction("EN-X-CLS-y", "3", "X", "topic", template, "in {label_set}put", candidates, ", ", "unused")


def test_up_to_26_have_letters_and_more_have_numbers() -> None:
    assert letters(2) == ("A", "B")
    assert letters(26)[-1] == "Z"
    assert letters(27)[::26] == ("1", "27")
    assert letters(0) == ()


def test_candidates_have_letters_and_the_answer_is_those_of_the_gold_labels() -> None:
    prompt, response = render(with_letters(instruction("B", "A", "x, y"), ("x, y", "B")))
    assert "\nin {label_set}put\nPick: A. B, B. A, C. x, y (answer with letters only).\n### Response:" in prompt
    assert response == "C, A"
    many = with_letters(instruction(*map(str, range(50))), ("9", "49"))
    assert many.answer == "10, 50"
    assert "(answer with numbers only)" in many.template
    chinese = with_letters(instruction("红", "蓝", template="{sentences}\n选择：{label_set}"), ("蓝",))
    assert render(chinese)[0].endswith("选择：A. 红, B. 蓝（只用字母回答）")


def test_a_gold_label_that_is_no_candidate_has_no_letter() -> None:
    with pytest.raises(DataError, match="EN-X-CLS-y, record 3: the gold label 'c' is no candidate"):
        with_letters(instruction("a", "b"), ("a", "c"))


def test_only_prompts_that_show_candidates_can_show_letters() -> None:
    assert can_show_letters("CLS", "{sentences} {label_set}")
    assert not can_show_letters("CLS", "{sentences}")
    assert not can_show_letters("NER", "{sentences} {label_set}")


def test_orders_and_draws_depend_on_their_place_alone() -> None:
    labels = tuple("abcde")
    orders = {shuffled(labels, "task", index) for index in range(200)}
    assert all(sorted(order) == list(labels) for order in orders)
    assert len(orders) > 80
    assert shuffled(labels, "task", 7) == shuffled(labels[::-1], "task", 7)
    first = [sum(shuffled(labels, "task", index)[place] == "a" for index in range(1000)) for place in range(5)]
    assert 150 < min(first) <= max(first) < 250, "a gold label has each letter equally often"
    assert not any(drawn(0.0, index) for index in range(100))
    assert all(drawn(1.0, index) for index in range(100))
    assert 250 < sum(drawn(0.3, index) for index in range(1000)) < 350
