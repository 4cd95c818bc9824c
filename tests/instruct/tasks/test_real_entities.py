"""Real sources with spans."""

from ecomgpt_jax.instruct.sources import entities as sources
from ecomgpt_jax.instruct.tasks import real_entities

TASKS = {task.name: task for task in real_entities.tasks()}


def test_every_type_of_a_chinese_source_has_a_chinese_name() -> None:
    for types, shown in (
        (sources.ECOMMERCE_TYPES, real_entities.PRODUCT_TYPES),
        (sources.YOUKU_TYPES, real_entities.VIDEO_TYPES),
        (sources.BANK_TYPES, real_entities.BANK_TYPES),
        (sources.BANK_SENTIMENTS, real_entities.SENTIMENTS),
        (sources.ADDRESS_TYPES, real_entities.ADDRESS_TYPES),
        (sources.JD_TYPES | {"": "other"}, real_entities.TITLE_TYPES),
    ):
        assert set(types.values()) == set(shown)
        names = [name for name in shown.values() if name]
        assert len(set(names)) == len(names)
        assert not any(name.isascii() for name in names)


def test_titles_with_gold_and_with_pseudo_labels_are_apart() -> None:
    gold, pseudo = (TASKS[f"ZH-JD_Titles{suffix}-NER-recognition"] for suffix in ("", "_Pseudo"))
    assert (gold.dataset.supervision, gold.operator) == (("gold",), "")
    assert (pseudo.dataset.supervision, pseudo.operator, pseudo.parent) == (("pseudo",), "pseudo_label", gold.name)


def test_a_single_type_is_not_asked_for_twice() -> None:
    for name in ("COTE_Dianping", "COTE_Mafengwo"):
        forms = {task.form.name for task in TASKS.values() if task.dataset.name == name}
        assert forms == {"opinion_target", "composition", "claim_check", "text_selection"}
