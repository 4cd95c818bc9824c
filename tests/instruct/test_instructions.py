import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecomgpt_jax.errors import DataError
from ecomgpt_jax.instruct.instructions import Instruction, check_template, fill, render, render_prompt

TEMPLATE = "### Instruction:\n{sentences}\nPick one of: {label_set}. \n### Response:"
HOSTILE = (
    "{sentences}", "{label_set}", "{0}", "{x.__class__.__mro__}", "{a:>1000000000}", "%s %(x)s", "</s><pad>", "${HOME}",
    "### Response:", "\x00\x07\x1b[31m", "\\g<0> \\1", "{{}} {{{",
)  # fmt: skip


def test_a_worked_prompt() -> None:
    instruction = Instruction(
        "EN-Shop-CLS-x", "1", "shop", "topic", TEMPLATE, "Nice soup.", ("Food", "Price"), ", ", "Food"
    )
    assert render(instruction) == (
        "Below is an instruction that describes the topic task. "
        "Write a response that appropriately completes the request.\n"
        "### Instruction:\nNice soup.\nPick one of: Food, Price. \n### Response:",
        "Food",
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_comes_out_byte_for_byte(text: str) -> None:
    prompt = render_prompt("topic", TEMPLATE, text, text)
    assert prompt.endswith(f"### Instruction:\n{text}\nPick one of: {text}. \n### Response:")


@settings(max_examples=500, deadline=None)
@given(st.tuples(*[st.tuples(st.text(max_size=40), st.text(max_size=40))] * 20))
def test_any_text_comes_out_byte_for_byte(pairs: tuple[tuple[str, str], ...]) -> None:
    """Of 10,000 pairs, twenty an example: drawing an example costs more than the texts in it."""
    before, between, after = "### Instruction:\n", "\nPick one of: ", ". \n### Response:"
    for sentences, labels in pairs:
        prompt = render_prompt("topic", TEMPLATE, sentences, labels)
        assert prompt.endswith(before + sentences + between + labels + after)
        assert prompt.count("\nPick one of: ") == 1 + (sentences + labels).count("\nPick one of: ")


def test_str_format_would_fail_here() -> None:
    """The negative control: the obvious way to fill a template rescans values or raises."""
    with pytest.raises((KeyError, IndexError, ValueError, AttributeError)):
        TEMPLATE.replace("{sentences}", "{x.y}").format(label_set="a")


def test_only_known_fields_are_filled() -> None:
    assert fill("{a} {b} {A} {a.b} {a!r}", {"a": "{b}", "b": "2"}) == "{b} 2 {A} {a.b} {a!r}"


@pytest.mark.parametrize("template", ["no input ### Response:", "{sentences} {answer}", "{sentences}{secret}"])
def test_a_wrong_template_is_refused(template: str) -> None:
    with pytest.raises(DataError, match=r"meta-info\.json: template"):
        check_template(template, "meta-info.json")
    check_template(TEMPLATE, "meta-info.json")
