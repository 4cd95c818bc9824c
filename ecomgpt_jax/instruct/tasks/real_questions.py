"""Real sources of questions and conversations: answers, evidence, intents, replies."""

import dataclasses

from ecomgpt_jax.instruct.chain_of_task import family
from ecomgpt_jax.instruct.tasks import classification, dialogue, entities, items, matching, questions, views
from ecomgpt_jax.instruct.tasks.task import Dataset, Task, as_base, bind, words

QUESTION = ("question", "问题")
INTENT = ("intent", "intents", "意图")
MESSAGE = ("customer message", "顾客消息")
ATTRIBUTE_OF_TEXT = matching.conversion("attribute_reading", "attribute reading")
SPANS_ONLY = ("answerable", "evidence", "evidence_selection")  # need an answer that stands in the context
TWO_GRADES = {"irrelevant": "irrelevant", "relevant": "relevant"}
THREE_GRADES = {"irrelevant": "irrelevant", "partly relevant": "partly relevant", "relevant": "relevant"}
TURN_FUNCTIONS = {
    "customer states the problem": "顾客提出问题",
    "customer gives information": "顾客提供信息",
    "customer confirms the solution": "顾客确认解决",
    "customer says nothing to the point": "顾客的话与问题无关",
    "helpdesk gives information": "客服提供信息",
    "helpdesk gives the solution": "客服给出解决办法",
    "helpdesk says nothing to the point": "客服的话与问题无关",
}
SATISFACTION = {
    "en": ("very dissatisfied", "dissatisfied", "neutral", "satisfied", "very satisfied"),
    "zh": ("很不满意", "不满意", "一般", "满意", "很满意"),
}
SOLVED = {
    "en": ("not solved at all", "hardly solved", "partly solved", "mostly solved", "fully solved"),
    "zh": ("完全没有解决", "基本没有解决", "部分解决", "大部分解决", "完全解决"),
}


def tasks() -> list[Task]:
    """Returns the tasks of these sources."""
    return [*_community(), *_evidence(), *_attributes(), *_spans(), *_messages(), *_helpdesk("en"), *_helpdesk("zh")]


def _community() -> list[Task]:
    common = {"source": "en_amazonqa_appliances", "language": "en"}
    asked = Dataset(name="AmazonQA", text=QUESTION, **common)
    pairs = Dataset(name="AmazonQA_Pairs", text=QUESTION, pair=("Question", "Answer"), view=views.answered, **common)
    verdict = Dataset(
        name="AmazonQA_Verdict",
        text=("question and answer", "问答"),
        label=("verdict", "verdicts", "答案结论"),
        kind="answer type",
        view=views.questions_labelled("question", "answer"),
        **common,
    )
    kinds = Dataset(
        name="AmazonQA_Type",
        text=QUESTION,
        label=("question type", "question types", "问题类型"),
        kind="question type",
        view=views.questions_labelled("question"),
        **common,
    )
    base = bind(questions.ANSWERING, asked)
    return [
        *family(base, without=SPANS_ONLY),
        bind(matching.SELECTION, pairs, parent=base.name),
        bind(matching.PAIR_CHECK, pairs, parent=base.name),
        *family(
            bind(classification.CLASSIFICATION, verdict),
            without=("coarse_classification", "text_writing", "same_label", "labelled_text_selection"),
        ),
        *family(
            bind(classification.CLASSIFICATION, kinds), without=("coarse_classification", "two_options", "same_label")
        ),
    ]


def _evidence() -> list[Task]:
    found = []
    for name, source, grades in (
        ("EPQA", "en_epqa", THREE_GRADES),
        ("HetPQA", "en_hetpqa", TWO_GRADES),
    ):
        common = {"source": source, "language": "en"}
        asked = Dataset(name=name, text=QUESTION, **common)
        pairs = Dataset(
            name=f"{name}_Evidence",
            text=QUESTION,
            pair=("Question", "Evidence"),
            positive="relevant",
            rename=grades,
            **common,
        )
        kinds = Dataset(
            name=f"{name}_Source",
            text=("piece of product information", "商品资料"),
            label=("origin", "origins", "来源"),
            kind="evidence",
            view=views.questions_labelled("context"),
            **common,
        )
        found += [
            *family(bind(questions.ANSWERING, asked), without=("evidence", "evidence_selection")),
            *family(bind(matching.RELEVANCE, pairs), matching.BEST, without=("shared_words", "rewriting", "selection")),
            *family(bind(classification.CLASSIFICATION, kinds), without=("coarse_classification", "text_writing")),
        ]
    return found


def _attributes() -> list[Task]:
    common = {"source": "en_semipqa", "language": "en"}
    pairs = Dataset(
        name="SemiPQA", text=QUESTION, pair=("Question", "Attribute"), positive="relevant", rename=TWO_GRADES, **common
    )
    told = Dataset(name="SemiPQA_Sentences", text=("product sentence", "商品描述"), **common)
    read = Dataset(
        name="SemiPQA_Facts",
        text=("sentence about a product", "商品描述"),
        label=("product attribute", "product attributes", "商品属性"),
        view=views.swapped(views.described()),
        **common,
    )
    base = as_base(items.DESCRIPTION, told)
    return [
        # 13 in 14 pairs do not match: fewer are graded, all may be distractors
        bind(matching.RELEVANCE, dataclasses.replace(pairs, view=views.thinned("irrelevant", 0.2))),
        *family(bind(matching.RELEVANCE, pairs), matching.BEST, without=("shared_words",))[1:],
        base,
        bind(ATTRIBUTE_OF_TEXT, read),
    ]


def _spans() -> list[Task]:
    reviews = Dataset(name="SubjQA", source="en_subjqa", language="en", text=QUESTION)
    subjective = Dataset(
        name="SubjQA_Subjectivity",
        source="en_subjqa",
        language="en",
        text=QUESTION,
        label=("nature", "kinds of question", "主客观性"),
        kind="subjective",
        rename={"yes": "subjective", "no": "objective"},
        view=views.questions_labelled("question"),
    )
    return [
        *family(bind(questions.EXTRACTIVE_QA, reviews)),
        bind(classification.CLASSIFICATION, subjective),
    ]


def _messages() -> list[Task]:
    common = {"source": "en_bitext_support", "language": "en", "text": MESSAGE}
    intents = Dataset(name="Bitext", label=INTENT, kind="intent", coarse="category", spelling=words, **common)
    slots = Dataset(name="Bitext_Slots", **common)
    return [
        *family(bind(classification.CLASSIFICATION, intents)),
        *family(bind(entities.RECOGNITION, slots), without=("span_detection",)),
        *family(bind(dialogue.REPLY, intents), without=("turn_function",)),
    ]


def _helpdesk(language: str) -> list[Task]:
    chinese = language == "zh"
    common = {
        "source": "zh_en_helpdesk_dialogues",
        "language": language,
        "text": ("conversation", "对话"),
        "view": views.speakers({"customer": "顾客", "helpdesk": "客服"} if chinese else {}),
    }
    talks = Dataset(name="Helpdesk", rename=TURN_FUNCTIONS if chinese else {}, **common)
    pleased = Dataset(
        name="Helpdesk_Satisfaction",
        label=("customer satisfaction", "degrees of customer satisfaction", "顾客满意度"),
        kind="customer satisfaction",
        rename=dict(zip(("-2", "-1", "0", "1", "2"), SATISFACTION[language], strict=True)),
        **common,
    )
    solved = Dataset(
        name="Helpdesk_Resolution",
        label=("resolution of the problem", "degrees of resolution", "问题解决程度"),
        kind="task accomplishment",
        rename=dict(zip(("-2", "-1", "0", "1", "2"), SOLVED[language], strict=True)),
        **common,
    )
    return [
        *family(bind(dialogue.REPLY, talks)),
        bind(dialogue.DIALOGUE_LABEL, pleased),
        bind(dialogue.DIALOGUE_LABEL, solved),
    ]
