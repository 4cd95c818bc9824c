"""Near duplicates are found across groups and sources, and only they."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecomgpt_jax.instruct.contamination import normalise
from ecomgpt_jax.instruct.duplicates import NearDuplicates, compared, sketch
from ecomgpt_jax.instruct.records import AttributedItem, Dialogue, LabelledText, Question, Record, TextPair

REVIEW = (
    "The kettle boils quickly and looks good, but after two weeks the lid no longer closes and the handle is loose."
)
TITLE = "新款纯棉长袖衬衫男士商务休闲免烫修身职业正装白色打底衫春秋季薄款上衣大码宽松男装"


def text(words: str, group: str = "") -> LabelledText:
    return LabelledText(id=words, group=group or words, language="en", text=words, labels={})


def reasons(*sources: list[Record]) -> list[str]:
    seen = NearDuplicates()
    return [r for number, part in enumerate(sources) for r in seen.add(str(number), sketch(str(number), part))]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (REVIEW.upper().replace(" ", "  "), "exact duplicate"),
        (REVIEW.replace("good", "nice"), "near duplicate"),
        ("Well. " + REVIEW, "near duplicate"),
        (REVIEW.replace("two weeks", "2 weeks"), ""),
        ("The kettle boils slowly and looks bad, and after two years the lid opens and the handle is still firm.", ""),
        (" ".join(reversed(REVIEW.split())), ""),
    ],
)
def test_what_counts_as_a_repeat(other: str, reason: str) -> None:
    assert reasons([text(REVIEW), text(other)]) == ["", reason]
    assert reasons([text(REVIEW)], [text(other)]) == ["", reason and f"{reason} of another source"]


def test_chinese() -> None:
    assert reasons([text(TITLE), text(TITLE.replace("薄款", "厚款"))]) == ["", "near duplicate"]
    assert reasons([text(TITLE), text(TITLE[:20] + "女士连衣裙夏季雪纺碎花")]) == ["", ""]


def test_a_group_keeps_its_likes() -> None:
    assert reasons([text(REVIEW, "a"), text(REVIEW + " Sad.", "a"), text(REVIEW + " Bad", "b")])[:2] == ["", ""]
    assert reasons([text(REVIEW, "a")], [text(REVIEW, "a")])[1], "groups of two sources are two groups"


def test_short_texts_are_everybodys() -> None:
    assert reasons([text("Great sound!", "a"), text("great sound", "b"), text("", "c"), text("", "d")]) == [""] * 4


def test_both_texts_of_a_record_must_be_alike() -> None:
    def question(words: str) -> Question:
        return Question(id=words, group=words, language="en", question=words, context=REVIEW)

    assert reasons([question("How is the lid?"), question("Who sells the kettle?")]) == ["", ""]
    assert reasons([question("How is the lid?"), question("how is the lid")]) == ["", "exact duplicate"]


def test_what_is_compared_of_each_record_type() -> None:
    common = {"id": "1", "group": "1", "language": "en"}
    assert compared(TextPair(**common, left="a", right="b", label="c")) == ("a", "b")
    assert compared(AttributedItem(**common, title="a", attributes=(("n", "v"),))) == ("a", "\nv")
    assert compared(Dialogue(**common, turns=(("x", "a"), ("y", "b")))) == ("a\nb", "")


def grams(words: str) -> set[str]:
    folded = normalise(words) + "\0\0\0"
    return {folded[i : i + 4] for i in range(len(folded) - 3)}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(REVIEW.split() + list(TITLE)), min_size=1, max_size=40), st.integers(0, 40))
def test_min_hashes_estimate_the_share_of_common_grams(words: list[str], cut: int) -> None:
    """Against sets: the estimate of 96 hashes is within four standard deviations."""
    whole, part = " ".join(words), " ".join(words[cut:]) or "x"
    both = sketch("s", [text(whole), text(part)]).signatures[:, 0]
    exact = len(grams(whole) & grams(part)) / len(grams(whole) | grams(part))
    assert abs((both[0] == both[1]).mean() - exact) <= 4 * np.sqrt(0.25 / 96)


def test_batches_do_not_matter() -> None:
    many = [text(f"{REVIEW} {number}" * (number % 7)) for number in range(400)]
    together = sketch("s", many)
    for place in (0, 1, 137, 399):
        alone = sketch("s", [many[place]])
        for name in ("signatures", "slots", "groups", "texts"):
            assert np.array_equal(getattr(together, name)[place], getattr(alone, name)[0])


def test_the_same_in_every_process() -> None:
    script = (
        "from ecomgpt_jax.instruct.duplicates import sketch\n"
        "from ecomgpt_jax.instruct.records import LabelledText as L\n"
        "s = sketch('s', [L(id='1', group='1', language='en', text='a kettle 红色', labels={})])\n"
        "print(s.signatures.tobytes().hex(), s.slots.tolist(), s.groups, s.texts)"
    )
    outputs = {
        subprocess.run([sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, capture_output=True).stdout
        for seed in ("0", "1")
    }
    assert len(outputs) == 1
