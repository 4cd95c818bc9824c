"""Tasks over category trees: `AttributedItem` records whose category is a path from the root."""

import functools
import random

from ecomgpt_jax.instruct.records import AttributedItem
from ecomgpt_jax.instruct.tasks.task import (
    YES_NO,
    Dataset,
    Example,
    Examples,
    Form,
    LabelSet,
    Records,
    answer_span,
    binary_example,
    distinct,
    in_language,
    others,
    show,
)

STEP = " > "


def roots_of(records: Records, dataset: Dataset) -> LabelSet:
    """Returns the roots of all paths of two or more steps, sorted."""
    return tuple(sorted({record.category[0] for record in records if len(record.category) > 1}))


def parents_of(records: Records, dataset: Dataset) -> LabelSet:
    """Returns the steps before the last of each path, sorted."""
    return tuple(sorted({record.category[-2] for record in records if len(record.category) > 1}))


def _path(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        if len(record.category) > 1:
            path = STEP.join(record.category)
            yield Example(record.id, record.title, path, spans=answer_span(path))


def _root(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        if len(record.category) > 1:
            gold = record.category[:1]
            yield Example(record.id, record.title, gold[0], show(labels, gold, rng), gold)


def _parent(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    by_root: dict[str, list[str]] = {}
    for record in records:
        if len(record.category) > 1:
            by_root.setdefault(record.category[0], []).append(record.category[-2])
    near = {root: distinct(names) for root, names in by_root.items()}
    for record in records:
        if len(record.category) < 2:
            continue
        gold = record.category[-2]
        # siblings in the tree make the choice hard; ancestors of the item would also be right
        wrong = [name for name in near[record.category[0]] if name not in record.category]
        if not wrong:
            continue
        shown = [gold, *rng.sample(wrong, min(5, len(wrong)))]
        rng.shuffle(shown)
        yield Example(record.id, record.title, gold, tuple(shown), (gold,))


def _child(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        if len(record.category) > 1:
            answer = record.category[-1]
            yield Example(record.id, STEP.join(record.category[:-1]), answer, spans=answer_span(answer))


def _is_a(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    yes, no = data.in_language(YES_NO)
    for index, record in enumerate(records):
        if len(record.category) < 2:
            continue
        wide, truth = rng.choice(record.category[:-1]), rng.random() < 0.5
        if not truth:
            foreign = [step for o in others(records, index, 2, rng) for step in o.category[:-1]]
            foreign = [step for step in foreign if step not in record.category]
            if not foreign:
                continue
            wide = rng.choice(foreign)
        given = f"Narrow: {record.category[-1]}\nBroad: {wide}"
        yield binary_example(record.id, given, (yes, no), truth, rng)


def _order(records: Records, labels: LabelSet, data: Dataset, rng: random.Random) -> Examples:
    for record in records:
        if len(record.category) > 2:
            steps = rng.sample(record.category, len(record.category))
            path = STEP.join(record.category)
            yield Example(record.id, "\n".join(steps), path, spans=answer_span(path))


_form = functools.partial(Form, record=AttributedItem)

PATH = _form(
    name="category_path",
    family="Generate",
    definition="category path completion",
    make=_path,
    abilities=("categorise a product",),
    en=(
        "{sentences}\nWrite the full category path of this [text], from the most general step to the last.",
        "Give the path of categories, joined by ' > ', that leads to the [text] below.\n{sentences}",
        "{sentences}\nWhere in the catalogue does this [text] belong? Write the whole path.",
        "Complete the category path of the following [text].\n{sentences}",
    ),
    zh=(
        "{sentences}\n写出该[text]从最大类到末级的完整类目路径。",
        "请给出下面[text]所在的类目路径，各级用“ > ”连接。\n{sentences}",
        "{sentences}\n这个[text]在商品目录中位于何处？写出完整路径。",
        "补全以下[text]的类目路径。\n{sentences}",
    ),
)

ROOT = _form(
    name="root_category",
    family="CLS",
    definition="product department",
    labels=roots_of,
    make=_root,
    operator="simplification",
    abilities=("categorise a product",),
    en=(
        "{sentences}\nWhich department holds this [text]? Candidates: {label_set}.",
        "Under which main heading is the [text] found: {label_set}?\n{sentences}",
        "{sentences}\nChoose the top category of the [text] from {label_set}.",
        "Departments: {label_set}.\n{sentences}\nIn which of them would you look for this [text]?",
    ),
    zh=(
        "{sentences}\n该[text]属于哪个部门？候选：{label_set}。",
        "这个[text]归在哪个一级类目下：{label_set}？\n{sentences}",
        "{sentences}\n从{label_set}中选择[text]的最大类。",
        "一级类目：{label_set}。\n{sentences}\n应该到哪一类里找这个[text]？",
    ),
)

PARENT = _form(
    name="parent_category",
    family="CLS",
    definition="parent category",
    labels=parents_of,
    make=_parent,
    operator="simplification",
    abilities=("categorise a product",),
    en=(
        "{sentences}\nWhich category lies directly above this [text]? Candidates: {label_set}.",
        "Choose the parent of the [text] from {label_set}.\n{sentences}",
        "{sentences}\nThe [text] is a part of one of {label_set}. Which?",
        "Pick the next broader category for the [text] among: {label_set}.\n{sentences}",
    ),
    zh=(
        "{sentences}\n该[text]的上一级类目是什么？候选：{label_set}。",
        "从{label_set}中选择[text]的父类目。\n{sentences}",
        "{sentences}\n这个[text]属于{label_set}中的哪一个？",
        "请在{label_set}里选出比该[text]大一级的类目。\n{sentences}",
    ),
)

CHILD = _form(
    name="subcategory",
    family="Generate",
    definition="subcategory naming",
    make=_child,
    operator="reversal",
    abilities=("categorise a product",),
    en=(
        "{sentences}\nName one subcategory of the last step of this path.",
        "Which [text] could come next in the path? Write one.\n{sentences}",
        "{sentences}\nGive an example of a [text] that a shop lists directly under this path.",
        "Continue the category path by one step. Output only the new step.\n{sentences}",
    ),
    zh=(
        "{sentences}\n说出该路径末级下的一个子类目。",
        "路径的下一级可以是哪个[text]？请写一个。\n{sentences}",
        "{sentences}\n举出店铺直接放在该路径下的一个[text]。",
        "把类目路径延长一级，只输出新的一级。\n{sentences}",
    ),
)

IS_A = _form(
    name="kind_check",
    family="CLS",
    definition="category hierarchy check",
    labels=in_language(YES_NO),
    make=_is_a,
    operator="recombination",
    abilities=("categorise a product", "verify a label"),
    en=(
        "{sentences}\nDoes the narrow category belong under the broad one? Candidates: {label_set}.",
        "Decide if the first is filed somewhere below the second. Choose from {label_set}.\n{sentences}",
        "{sentences}\nIs the narrow one a part of the broad one? {label_set}",
        "Would you find the narrow category inside the broad category? Answer {label_set}.\n{sentences}",
    ),
    zh=(
        "{sentences}\n窄的类目属于宽的类目吗？候选：{label_set}。",
        "判断前者是否归在后者之下，从{label_set}中选择。\n{sentences}",
        "{sentences}\n前一个类目是后一个的一部分吗？可选：{label_set}。",
        "在宽类目里能找到窄类目吗？回答{label_set}之一。\n{sentences}",
    ),
)

ORDER = _form(
    name="path_ordering",
    family="Generate",
    definition="category path ordering",
    make=_order,
    operator="recombination",
    abilities=("categorise a product",),
    en=(
        "{sentences}\nOrder these categories from general to specific, joined by ' > '.",
        "The steps of a category path were mixed up. Put them right, with ' > ' between them.\n{sentences}",
        "{sentences}\nWrite the path that these categories form, the broadest one first.",
        "Sort the categories below from the widest to the narrowest. Join them with ' > '.\n{sentences}",
    ),
    zh=(
        "{sentences}\n把这些类目从大到小排列，用“ > ”连接。",
        "一条类目路径的各级被打乱了，请恢复顺序，用“ > ”隔开。\n{sentences}",
        "{sentences}\n写出这些类目组成的路径，最大的类在前。",
        "将下面的类目由宽到窄排序，以“ > ”连接。\n{sentences}",
    ),
)
