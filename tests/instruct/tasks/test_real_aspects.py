"""Real sources with aspects."""

from ecomgpt_jax.instruct.records import AspectText, AspectTuple
from ecomgpt_jax.instruct.tasks import real_aspects

TASKS = {task.name: task for task in real_aspects.tasks()}


def forms(dataset: str) -> set[str]:
    return {task.form.name for task in TASKS.values() if task.dataset.name == dataset}


def test_forms_follow_the_annotation() -> None:
    assert {"opinion_terms", "pairing", "topics", "topic_polarity"} <= forms("Taobao_Reviews")
    assert forms("MAMS") == {"opinion_tuples", "aspect_terms", "aspect_polarity", "review_writing", "review_selection"}
    assert {"topics", "topic_polarity"} <= forms("ASAP")
    assert not {"aspect_terms", "aspect_polarity", "pairing"} & forms("ASAP")


def test_category_codes_become_words() -> None:
    dataset = TASKS["EN-Laptop_ACOS-CLS-topics"].dataset
    assert dataset.display_label("LAPTOP#DESIGN_FEATURES") == "laptop design features"
    assert TASKS["EN-MEMD-CLS-topics"].dataset.display_label("None") == ""


def test_what_another_source_repeats_is_not_read() -> None:
    def text(domain: str) -> AspectText:
        opinion = AspectTuple("it", "A#B", "good", "positive")
        return AspectText(id="1", group="1", language="en", text="it is good", tuples=(opinion,), domain=domain)

    assert TASKS["EN-MEMD-CLS-topics"].select([text("laptop"), text("restaurant")]) == []
    assert TASKS["EN-ASTE_Laptop-Extract-aspect_terms"].select([text("restaurant")]) == []
    (dinner,) = TASKS["EN-MEMD_Restaurant-Extract-aspect_terms"].select([text("laptop"), text("restaurant")])
    assert [item.category for item in dinner.tuples] == [""]
