"""Small made-up tasks of every family, in both languages, for tests of folders, scores and commands."""

from pathlib import Path

from ecomgpt_jax.instruct.records import Span
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow, write_task

Part = tuple[TaskFolder, tuple[TaskRow, ...]]
TAIL = " \n### Response:"
COLOURS = tuple(f"shade {number:02d}" for number in range(60))


def spans(sentence: str, *terms: tuple[str, str]) -> tuple[Span, ...]:
    return tuple(Span(sentence.index(term), sentence.index(term) + len(term), kind, term) for kind, term in terms)


def spanned(sentence: str, *terms: tuple[str, str]) -> TaskRow:
    return TaskRow(sentence, spans=spans(sentence, *terms))


def labelled(sentence: str, *labels: str) -> TaskRow:
    return TaskRow(sentence, {"default": labels})


TOPICS = (
    TaskFolder(
        "EN-Shop-CLS-topic",
        "review topic",
        "### Instruction:\n{sentences}\nSelect from: {label_set}." + TAIL,
        {"default": ("Price", "Size", "Colour")},
    ),
    (
        labelled("Too dear for me.", "Price"),
        labelled("Runs small {label_set} and fades.", "Size", "Colour"),
        labelled("The red\tis lovely.", "Colour"),
        labelled("Cheap!", "Price"),
    ),
)
SHADES = (
    TaskFolder("EN-Shop-CLS-shade", "shade", "{sentences}\nPick: {label_set}" + TAIL, {"default": COLOURS}),
    tuple(labelled(f"paint number {number}", COLOURS[number * 7]) for number in range(8)),
)
PARTS = (
    TaskFolder(
        "EN-Shop-NER-parts",
        "named entity recognition",
        "{sentences}\nExtract {label_set}." + TAIL,
        {"en": ("Brand", "Part")},
        "en",
    ),
    (
        spanned("The Acme drill has a keyless chuck", ("Brand", "Acme"), ("Part", "keyless chuck")),
        spanned("Nothing is named here"),
        spanned("Bolt and Acme share a battery", ("Brand", "Bolt"), ("Brand", "Acme"), ("Part", "battery")),
    ),
)
VALUES = (
    TaskFolder(
        "ZH-Dian-Condition_Extract-values",
        "attribute value detection",
        "{sentences}\nDetect {label_set}." + TAIL,
        {"cn": ("颜色", "材质")},
        "cn",
    ),
    (
        spanned("红色纯棉上衣", ("颜色", "红色"), ("材质", "纯棉")),
        spanned("蓝布长裤", ("颜色", "蓝")),
        spanned("羊毛围巾", ("材质", "羊毛")),
    ),
)
CHOICE = (
    TaskFolder("ZH-Dian-Extract-choice", "product select", "Select.\n{sentences}" + TAIL),
    (
        spanned("Query: 茶壶\nCandidate Document: 紫砂 茶壶, 铁锅.", ("", "紫砂 茶壶")),
        spanned("Query: 锅\nCandidate Document: 砂锅, 毛巾.", ("", "砂锅")),
    ),
)
TITLES = (
    TaskFolder("ZH-Dian-Generate-title", "title generation", "{sentences}\nGenerate a title." + TAIL),
    (
        TaskRow("颜色#:#红色#;#材质#:#纯棉", spans=(Span(0, 0, "", "红色纯棉上衣2021"),)),
        TaskRow("颜色#:#蓝色", spans=(Span(0, 0, "", "蓝色 上衣"),)),
    ),
)
ALL = (TOPICS, SHADES, PARTS, VALUES, CHOICE, TITLES)
HOSTILE = ("", ".", "...", "\n", "  ", "x" * 10_000, "a. " * 3_000, "a b " * 2_500, "{label_set}{0}{", "None", "\0")


def write_tiny_tasks(directory: Path) -> list[Part]:
    """Writes all of them and returns [(task, rows)] in order of name."""
    written = [(write_task(directory, task, rows), rows) for task, rows in ALL]
    return sorted(written, key=lambda pair: pair[0].name)
