"""The tasks of the embedded catalogue: base and atomic ones in both languages, twelve of them held out.

The held-out twelve have the forms and prompts of the official evaluation (EcomInstruct v1). Training contains related
tasks only: the same form on other data or in the other language, and the atomic tasks derived from them.
"""

import dataclasses

from ecomgpt_jax.instruct.chain_of_task import derived
from ecomgpt_jax.instruct.tasks import (
    aspects,
    categories,
    classification,
    dialogue,
    entities,
    items,
    matching,
    questions,
)
from ecomgpt_jax.instruct.tasks.task import Dataset, Form, Task, bind, template

ENTITY = ("entity type", "entity types", "实体类型")
ATTRIBUTE = ("attribute", "attributes", "属性")
TITLE = ("product title", "商品标题")
# (part of the catalogue, dataset name, base form, fields of its dataset)
_DECLARED: tuple[tuple[str, str, Form, dict], ...] = (
    ("fashion_titles", "Fashion_Titles", entities.RECOGNITION, {"text": TITLE, "label": ATTRIBUTE}),
    ("goods_titles", "Goods_Titles", entities.RECOGNITION, {"text": TITLE, "label": ATTRIBUTE}),
    ("sentences", "Sentences", entities.RECOGNITION, {"text": ("sentence", "句子"), "label": ENTITY}),
    ("queries", "Queries", entities.RECOGNITION, {"text": ("search query", "搜索词"), "label": ENTITY}),
    ("messages", "Messages", entities.RECOGNITION,
     {"text": ("message", "消息"), "label": ENTITY, "lacks": ("distinct texts",)}),
    ("addresses", "Addresses", entities.RECOGNITION,
     {"text": ("address", "地址"), "label": ("address part", "address parts", "地址成分")}),
    ("items", "Items", items.EXTRACTION, {"text": TITLE, "label": ATTRIBUTE}),
    ("offers", "Offers", matching.RELATION, {"text": ("offer", "商品信息")}),
    ("searches", "Searches", matching.RELATION, {"text": ("search query", "搜索词"), "pair": ("Query", "Document")}),
    ("reviews", "Reviews", aspects.TUPLES, {"text": ("review", "评论"), "label": ("topic", "topics", "话题")}),
    ("questions", "Questions", questions.EXTRACTIVE_QA, {"text": ("question", "问题")}),
    ("messages", "Intents", classification.CLASSIFICATION,
     {"text": ("message", "消息"), "label": ("intent", "intents", "意图"), "kind": "intent", "coarse": "topic"}),
    ("queries", "Query_Categories", classification.CLASSIFICATION,
     {"text": ("search query", "搜索词"), "label": ("category", "categories", "类目"), "kind": "category",
      "coarse": "department", "lacks": ("text from annotation",)}),
    ("dialogues", "Dialogues", dialogue.REPLY,
     {"text": ("conversation", "对话"), "label": ("intent", "intents", "意图"), "kind": "intent"}),
)  # fmt: skip
# Further base forms of a part, besides the parent of its atomic tasks.
_MORE = {"Items": (categories.COARSE, categories.FINE), "Dialogues": (dialogue.DIALOGUE_LABEL,)}
# Parts whose yes-or-no labels are English in both languages, as they are in the release.
_ENGLISH_LABELS = {
    "items": {},
    "offers": {"相同": "same", "不相同": "not same"},
    "searches": {"匹配": "match", "不匹配": "not match"},
}
_POSITIVE = {"offers": {"en": "same", "zh": "相同"}, "searches": {"en": "match", "zh": "匹配"}}

# Task of the embedded catalogue -> (name, definition, instruction, changes of its dataset) of its held-out form.
_HELD_OUT: dict[str, tuple[str, str, str, dict]] = {
    "EN-Sentences-NER-recognition":
        ("NER", "named entity recognition",
         "{sentences}\nExtract all named entity with type about {label_set} in the sentence. ", {}),
    "EN-Sentences-Condition_Extract-span_detection":
        ("Condition_Extract", "entity span detection",
         "{sentences}\nDetect all named entity about {label_set} in the sentence. ", {}),
    "EN-Questions-Extract-extractive_qa":
        ("Extract_QA", "extractive question answering",
         "{sentences}\nExtract spans from context to answer the question. ", {}),
    "EN-Reviews-CLS-topics":
        ("review_topic_category", "review topic category",
         "{sentences}\nSelect category for the above sentences from the following topics: {label_set}. ", {}),
    "ZH-Fashion_Titles-NER-recognition":
        ("attribute_value_extraction", "attribute value detection",
         "{sentences}\nExtract all attribute value with attribue name about {label_set} in the sentence. ",
         {"rename": {"品牌": "", "商品": ""}}),
    "ZH-Fashion_Titles-Condition_Extract-span_detection":
        ("attribute_value_detection", "attribute value detection",
         "{sentences}\nDetect all attribute value about {label_set} in the sentence. ",
         {"rename": {"品牌": "", "商品": ""}}),
    "ZH-Searches-Extract-selection":
        ("product_select", "product select",
         "Select documents from the candidates that best match the product query.\n{sentences}\n"
         "Output the document content only.", {}),
    "ZH-Offers-CLS-matching":
        ("item_align", "product item match",
         "{sentences}\nDetermine whether the item 1 and item 2 refer to the same product. "
         "Candidate labels: {label_set}. ",
         {}),
    "ZH-Items-CLS-attributes_fit":
        ("title_attribute_matching", "title attribute matching",
         "{sentences}\nDetermine whether the product title and attributes match. Candidate: {label_set}. ",
         {}),
    "ZH-Items-CLS-fine_category":
        ("item_fine_classify", "product item category",
         "{sentences}\nCategorize product items. Candidates: {label_set}", {}),
    "ZH-Items-CLS-coarse_category":
        ("item_coarse_classify", "product item category",
         "{sentences}\nCategorize product items. Candidates: {label_set}", {}),
    "ZH-Items-Generate-title_writing":
        ("title_generate", "product title generation",
         "{sentences}\nGenerate a product title based on the above attribute information. ", {}),
}  # fmt: skip


def tasks() -> list[Task]:
    """Returns every task of the embedded catalogue; held-out ones replace the tasks they come from, in place."""
    found: list[Task] = []
    for language in ("en", "zh"):
        for part, name, form, declared in _DECLARED:
            dataset = Dataset(
                name=name,
                source=f"synthetic_{part}_{language}",
                language=language,
                positive=_POSITIVE.get(part, {}).get(language, ""),
                fixed_labels="en" if part in _ENGLISH_LABELS else "",
                rename=_ENGLISH_LABELS.get(part, {}) if language == "zh" else {},
                **declared,
            )
            base = bind(form, dataset)
            found += [base, *(bind(more, dataset) for more in _MORE.get(name, ())), *derived(base)]
    renamed = {task.name: _held_out(task) for task in found if task.name in _HELD_OUT}
    kept = (renamed.get(task.name, task) for task in found)
    parents = {old: task.name for old, task in renamed.items()}
    return [dataclasses.replace(task, parent=parents.get(task.parent, task.parent)) for task in kept]


def _held_out(task: Task) -> Task:
    """Returns a task as a held-out one, with one fixed prompt."""
    name, definition, body, changes = _HELD_OUT[task.name]
    prompt = template(body)
    if name == "title_generate":
        prompt = prompt.removeprefix("### Instruction:\n")  # as in the release
    dataset = dataclasses.replace(task.dataset, **changes)
    name = f"{dataset.language.upper()}-{dataset.name}-{task.family}-{name}"
    return dataclasses.replace(
        task, name=name, definition=definition, wordings={"en": (prompt,)}, dataset=dataset, held_out=True
    )
