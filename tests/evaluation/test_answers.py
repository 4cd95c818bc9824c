import tiny_tasks

from ecomgpt_jax.evaluation.answers import SHOWN_CHARACTERS, SHOWN_ROWS, answer_sections, confusions, examples, mark
from ecomgpt_jax.evaluation.protocol import TaskPrompts
from ecomgpt_jax.instruct.benchmarks import TRUTH
from ecomgpt_jax.instruct.instructions import render
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow, gold_answer, to_instruction


def prompts_of(part: tiny_tasks.Part) -> TaskPrompts:
    task, rows = part
    rendered = [render(to_instruction(task, index, row)) for index, row in enumerate(rows)]
    return TaskPrompts(task, rows, *zip(*rendered, strict=True))


def test_confusions_by_hand() -> None:
    part = prompts_of(tiny_tasks.TOPICS)  # gold: Price; Size, Colour; Colour; Price
    found = confusions(part, ["Size.", "Colour", "Colour, Price, Blue", ""])
    assert found == {
        ("Price", "Size"): 1,
        ("Colour", "Colour"): 2,
        ("Size", "(nothing)"): 1,
        ("(nothing)", "Price"): 1,
        ("(nothing)", "(no label)"): 1,
        ("Price", "(nothing)"): 1,
    }
    table = answer_sections(part, ["Size.", "Colour", "Colour, Price, Blue", ""])[0].table
    assert table.header[1:] == ["Price", "Size", "Colour", "(no label)", "(nothing)", "F1"]
    assert table.rows == [
        ["Price", "*0", "1", "", "", "1", "0.000"],
        ["Size", "", "*0", "", "", "1", "0.000"],
        ["Colour", "", "", "*2", "", "", "1.000"],
        ["(nothing)", "1", "", "", "1", "", ""],
    ]


def test_labels_of_confusions_are_compared_as_they_are_scored() -> None:
    labels = ("yes ", "no ", "Clothing, Bags", "*", "Co.", "Co")
    task = TaskFolder("EN-Shop-CLS-a", "d", "{sentences}{label_set}" + tiny_tasks.TAIL, {"default": labels})
    part = prompts_of((task, tuple(tiny_tasks.labelled("x", label) for label in labels)))
    answers = ["no", "no", "Clothing", "*", "Co", "Clothing, Bags"]
    assert confusions(part, answers) == {
        ("yes", "no"): 1, ("no", "no"): 1, ("Clothing, Bags", "(no label)"): 1, ("*", "*"): 1, ("Co.", "Co"): 1,
        ("Co", "Clothing, Bags"): 1,
    }  # fmt: skip
    table = answer_sections(part, answers)[0].table
    assert [row[0] for row in table.rows] == ["yes", "no", "Clothing, Bags", " *", "Co.", "Co"]
    assert [row[-1] for row in table.rows] == ["0.000", "0.667", "0.000", "1.000", "0.000", "0.000"]


def test_parts_that_hold_separators_colons_or_line_separators_are_marked_whole() -> None:
    task = TaskFolder(
        "EN-Shop-NER-a", "d", "{sentences}{label_set}" + tiny_tasks.TAIL, {"default": ("size:EU", "brand")}
    )
    row = tiny_tasks.spanned("4, 5 Oak\u2028moor", ("size:EU", "4, 5"), ("brand", "Oak\u2028moor"))
    part = prompts_of((task, (row,)))
    answer = "size:EU: 4, 5, 6\nbrand: Oak\u2028moor"
    pieces = mark(part, 0, answer, part.golds[0], "wrong")
    assert [piece for piece in pieces if piece[1]] == [("4, 5", "right"), ("6", "wrong"), ("Oak\u2028moor", "right")]
    fields = examples(part, [answer])[0][1]
    assert [piece for piece in fields[0][1] if piece[1]] == [("4, 5", "right"), ("Oak\u2028moor", "right")]


def test_many_labels_are_listed_by_their_confusions() -> None:
    part = prompts_of(tiny_tasks.SHADES)
    wrong = [f"shade {number:02d}" for number in range(1, 6)]
    section = answer_sections(part, [*wrong, *part.golds[5:]])[0]
    assert "3 labels right, 13 labels in all" in section.text[0]
    assert section.table.rows == [[gold, said, "1"] for gold, said in zip(part.golds, wrong, strict=False)]


def test_parts_are_marked_where_they_stand() -> None:
    entities = prompts_of(tiny_tasks.PARTS)
    answer = "Brand: Acme, Bolt\nPart: None\nnonsense"
    pieces = mark(entities, 0, answer, entities.golds[0], "wrong")
    assert pieces == [("Brand: ", ""), ("Acme", "right"), (", ", ""), ("Bolt", "wrong"), ("\nPart: None\nnonsense", "")]
    gold = mark(entities, 0, entities.golds[0], answer, "missed")
    assert [piece for piece in gold if piece[1]] == [("Acme", "right"), ("keyless chuck", "missed")]
    topics = prompts_of(tiny_tasks.TOPICS)
    assert mark(topics, 1, "Size, Size. ", "Size, Colour", "wrong") == [
        ("Size", "right"), (", ", ""), ("Size", "wrong"), (". ", ""),
    ]  # fmt: skip
    titles = prompts_of(tiny_tasks.TITLES)
    assert mark(titles, 0, "红T恤!", "红色t恤", "wrong") == [
        ("红", "right"),
        ("T", "right"),
        ("恤", "right"),
        ("!", ""),
    ]


def test_terms_are_marked_in_the_input() -> None:
    part = prompts_of(tiny_tasks.VALUES)
    (_, fields), *_ = examples(part, ["红色, 上衣", "", ""])
    assert [piece for piece in fields[0][1] if piece[1]] == [("红色", "right"), ("纯棉", "missed"), ("上衣", "wrong")]
    assert "".join(text for text, _ in fields[0][1]) == part.prompts[0]


def test_examples_are_spread_evenly_and_texts_come_whole() -> None:
    task = TaskFolder("EN-Shop-CLS-many", "d", "{sentences}{label_set}", {"default": ("a", "b")})
    part = prompts_of((task, tuple(TaskRow(f"row {i}", {"default": ("a",)}) for i in range(500))))
    shown = examples(part, ["a", "b"] * 250)
    assert [title for title, _ in shown] == [
        f"Row {25 * i}: {'wrong' if i % 2 else 'right'}" for i in range(SHOWN_ROWS)
    ]
    for part in map(prompts_of, tiny_tasks.ALL):
        golds = [gold_answer(part.task, row) for row in part.rows]
        for answer in tiny_tasks.HOSTILE:
            for section in answer_sections(part, [answer] * len(golds)):
                for _, fields in section.examples:
                    pieces = fields[2][1]
                    text = pieces if isinstance(pieces, str) else "".join(piece for piece, _ in pieces)
                    assert text == (answer or "(empty)") or text.endswith(" …")


def benchmark(metric: str, golds: list[str], family: str = "CLS", labels: tuple[str, ...] = ()) -> TaskPrompts:
    label_set = {"default": labels} if labels else {}
    task = TaskFolder(f"EN-Bench-{family}-t", "d", "{sentences}", label_set, separator=",", metric=metric)
    if family == "CLS":
        rows = tuple(TaskRow("q", {"default": tuple(gold.split(",")), TRUTH: tuple(gold.split(","))}) for gold in golds)
    else:
        rows = tuple(tiny_tasks.spanned(f"q {gold}.", ("", gold)) for gold in golds)
    return prompts_of((task, rows))


def test_answers_to_benchmarks_are_shown_as_they_are_scored() -> None:
    part = benchmark("ecinstruct:letter", ["B", "B", "B", "B"], labels=("A", "B", "C"))
    answers = ["B: because", "Answer: B", "C. no", "a good one"]
    assert confusions(part, answers) == {("B", "B"): 2, ("B", "C"): 1, ("B", "(nothing)"): 1}
    shown = examples(part, answers)
    assert [title for title, _ in shown] == ["Row 0: right", "Row 1: right", "Row 2: wrong", "Row 3: wrong"]
    assert [fields[1][1] for _, fields in shown] == [[("B", "right")]] * 2 + [[("B", "missed")]] * 2
    kinds = ["right", "right", "wrong", "wrong"]
    assert [fields[2][1] for _, fields in shown] == [[pair] for pair in zip(answers, kinds, strict=True)]
    part = benchmark("chinese_ecom_qa:label", ["AC-1"], "Extract")
    ((_, fields),) = examples(part, ["Answer: AC-1.\nso"])
    assert [piece for piece in fields[0][1] if piece[1]] == [("AC-1", "right")]
    assert fields[2][1] == [("Answer: AC-1.\nso", "right")]
    long = "x" * 2 * SHOWN_CHARACTERS
    assert examples(part, [long])[0][1][2][1] == [("x" * SHOWN_CHARACTERS, "wrong"), (" …", "")]
    assert examples(part, [""])[0][1][2][1] == "(empty)"


def test_rankings_are_shown_as_they_are_scored() -> None:
    part = benchmark("shopping_mmlu:hit rate@3", ["1,2,3"] * 2)
    (section,) = answer_sections(part, ["3, 2, 1\nbecause", "3, 4"])  # no table of classes
    assert [title for title, _ in section.examples] == ["Row 0: right", "Row 1: wrong"]
    assert section.examples[0][1][2][1] == [("3, 2, 1\nbecause", "right")]


def test_texts_of_benchmarks_are_marked_by_their_words() -> None:
    part = benchmark("chinese_ecom_qa:text", ["red cup"], "Generate")
    assert mark(part, 0, "red mug", "red cup", "wrong") == examples(part, ["red mug"])[0][1][2][1]
