"""Real sources of texts with labels of the whole."""

import random

from ecomgpt_jax.instruct.records import LabelledText
from ecomgpt_jax.instruct.tasks import real_texts

TASKS = {task.name: task for task in real_texts.tasks()}


def text(language: str, **labels: str) -> LabelledText:
    kinds = {kind: (label,) for kind, label in labels.items()}
    return LabelledText(id="1", group="1", language=language, text="它很好", labels=kinds)


def test_ratings_are_shown_in_order() -> None:
    task = TASKS["EN-Amazon_Rating-CLS-rating"]
    records = [text("en", rating=str(star)) for star in range(1, 6)]
    labels = task.label_set(records)
    for example in task.examples(records, labels, random.Random(0)):
        assert example.candidates == ("1 star", "2 stars", "3 stars", "4 stars", "5 stars")


def test_chinese_sentiment_is_chinese() -> None:
    task = TASKS["ZH-Waimai-CLS-classification"]
    assert task.label_set([text("zh", sentiment="positive"), text("zh", sentiment="negative")]) == ("正面", "负面")


def test_hotels_of_the_shopping_reviews_are_left_to_their_source() -> None:
    for name in ("ZH-Shopping_Sentiment-CLS-classification", "ZH-Shopping_Category-CLS-classification"):
        kept = TASKS[name].select([text("zh", category="酒店", sentiment="positive"), text("zh", category="手机")])
        assert [record.labels["category"] for record in kept] == [("手机",)]


def test_the_title_of_a_review_is_written_from_it() -> None:
    task = TASKS["EN-Clothing_Title-Generate-review_title"]
    (example,) = task.examples(task.select([text("en", title="Lovely"), text("en", rating="5")]), (), random.Random(0))
    assert (example.sentences, example.answer) == ("它很好", "Lovely")
