"""Real sources of questions and conversations: answers, evidence, intents, replies."""

import dataclasses

from ecomgpt_jax.instruct.chain_of_task import family
from ecomgpt_jax.instruct.tasks import items, matching, views
from ecomgpt_jax.instruct.tasks.classification import CLASSIFICATION
from ecomgpt_jax.instruct.tasks.dialogue import DIALOGUE_LABEL, REPLY
from ecomgpt_jax.instruct.tasks.entities import RECOGNITION
from ecomgpt_jax.instruct.tasks.matching import BEST, RELEVANCE
from ecomgpt_jax.instruct.tasks.questions import ANSWERING, EXTRACTIVE_QA
from ecomgpt_jax.instruct.tasks.task import Dataset, Task, bind, words

QUESTION = ("question", "问题")
INTENT = ("intent", "intents", "意图")
MESSAGE = ("customer message", "顾客消息")
ATTRIBUTE_OF_TEXT = matching.conversion("attribute_reading", "attribute reading")
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
    source = {"source": "en_amazonqa_appliances"}
    common = source | {"text": QUESTION}
    asked = family(ANSWERING, Dataset("AmazonQA", lacks=("context", "answer spans"), **common))
    pairs = Dataset("AmazonQA_Pairs", pair=("Question", "Answer"), view=views.answered, **common)
    verdict = Dataset(
        "AmazonQA_Verdict",
        text=("question and answer", "问答"),
        label=("verdict", "verdicts", "答案结论"),
        kind="answer type",
        view=views.questions_labelled("question", "answer"),
        lacks=("text from annotation", "comparable texts", "distinct texts"),
        **source,
    )
    kinds = Dataset(
        "AmazonQA_Type",
        label=("question type", "question types", "问题类型"),
        kind="question type",
        view=views.questions_labelled("question"),
        lacks=("choices", "comparable texts"),
        **common,
    )
    return [
        *asked,
        bind(matching.SELECTION, pairs, parent=asked[0].name),
        bind(matching.PAIR_CHECK, pairs, parent=asked[0].name),
        *family(CLASSIFICATION, verdict),
        *family(CLASSIFICATION, kinds),
    ]


def _evidence() -> list[Task]:
    found = []
    for name, source, grades in (("EPQA", "en_epqa", THREE_GRADES), ("HetPQA", "en_hetpqa", TWO_GRADES)):
        pairs = Dataset(
            f"{name}_Evidence",
            source,
            text=QUESTION,
            pair=("Question", "Evidence"),
            positive="relevant",
            rename=grades,
            lacks=("common words", "text from annotation", "distinct texts"),
        )
        kinds = Dataset(
            f"{name}_Source",
            source,
            text=("piece of product information", "商品资料"),
            label=("origin", "origins", "来源"),
            kind="evidence",
            view=views.questions_labelled("context"),
            lacks=("text from annotation",),
        )
        found += [
            *family(ANSWERING, Dataset(name, source, text=QUESTION, lacks=("answer spans",))),
            *family(RELEVANCE, pairs, BEST),
            *family(CLASSIFICATION, kinds),
        ]
    return found


def _attributes() -> list[Task]:
    pairs = Dataset(
        "SemiPQA",
        "en_semipqa",
        text=QUESTION,
        pair=("Question", "Attribute"),
        positive="relevant",
        rename=TWO_GRADES,
        lacks=("common words",),
    )
    read = Dataset(
        "SemiPQA_Facts",
        "en_semipqa",
        text=("sentence about a product", "商品描述"),
        label=("product attribute", "product attributes", "商品属性"),
        view=views.swapped(views.described()),
    )
    return [
        # thirteen of fourteen pairs do not match: fewer are graded, all may be distractors
        bind(RELEVANCE, dataclasses.replace(pairs, view=views.thinned("irrelevant", 0.2))),
        *family(RELEVANCE, pairs, BEST)[1:],
        bind(items.DESCRIPTION, Dataset("SemiPQA_Sentences", "en_semipqa", text=("product sentence", "商品描述"))),
        bind(ATTRIBUTE_OF_TEXT, read),
    ]


def _spans() -> list[Task]:
    subjective = Dataset(
        "SubjQA_Subjectivity",
        "en_subjqa",
        text=QUESTION,
        label=("nature", "kinds of question", "主客观性"),
        kind="subjective",
        rename={"yes": "subjective", "no": "objective"},
        view=views.questions_labelled("question"),
    )
    return [*family(EXTRACTIVE_QA, Dataset("SubjQA", "en_subjqa", text=QUESTION)), bind(CLASSIFICATION, subjective)]


def _messages() -> list[Task]:
    common = {"source": "en_bitext_support", "text": MESSAGE}
    intent = {"label": INTENT, "kind": "intent", "coarse": "category", "spelling": words}
    intents = Dataset("Bitext", lacks=("turn functions",), **intent, **common)
    return [
        *family(CLASSIFICATION, intents),
        *family(RECOGNITION, Dataset("Bitext_Slots", lacks=("several spans",), **common)),
        *family(REPLY, intents),
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
    return [*family(REPLY, talks), bind(DIALOGUE_LABEL, pleased), bind(DIALOGUE_LABEL, solved)]
