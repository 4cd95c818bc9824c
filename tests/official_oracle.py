"""A second implementation of the official scores, from the written description of the released scorer.

It is slow and shares no code with `ecomgpt_jax.evaluation.official_scores`: it is the reference of an equivalence test.
NER needs `seqeval`, as the released scorer does.
"""

from collections.abc import Sequence

from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow


def official_scores(task: TaskFolder, rows: Sequence[TaskRow], predictions: Sequence[str]) -> dict[str, float]:
    golds = [gold_text(task, row) for row in rows]
    answers = [blank_rule(task.family, prediction) for prediction in predictions]
    if task.family == "Condition_Extract":
        golds = ["error" if len(gold) == 0 else gold for gold in golds]
    rouge = sum(rouge_l(answer, gold) for answer, gold in zip(answers, golds, strict=True)) / len(rows)
    if task.family == "NER":
        micro, macro = entity_scores(task, rows, answers, golds)
    else:
        said = [parsed(task, answer) for answer in answers]
        micro, macro = set_scores(said, [parsed(task, gold) for gold in golds])
    return {"micro-f1": micro, "macro-f1": macro, "rouge-l-f1": rouge}


def gold_text(task: TaskFolder, row: TaskRow) -> str:
    """CLS: the labels joined. Extract, Generate: the terms joined. Condition_Extract: joined with ", ". NER: lines."""
    if task.family == "CLS":
        return task.separator.join(row.labels[task.label_key])
    terms = [span.term for span in row.spans]
    if task.family in ("Extract", "Generate"):
        return task.separator.join(terms)
    if task.family == "Condition_Extract":
        return ", ".join(terms)
    lines = []
    for kind in task.label_set[task.label_key]:
        of_kind = [span.term for span in row.spans if span.type == kind]
        lines.append(kind + ": " + (task.separator.join(of_kind) if of_kind else "None"))
    return "\n".join(lines)


def blank_rule(family: str, prediction: str) -> str:
    if family in ("CLS", "Generate", "NER") and len(prediction) == 0:
        return "error"
    if family == "Extract" and prediction.replace(".", "").strip() == "":
        return "error"
    if family == "Condition_Extract" and len(prediction.strip()) <= 1:
        return "error"
    if family == "CLS":
        prediction = prediction.strip().replace(".", "")
    # Where the `rouge` package would raise, because nothing but dots or white space is left.
    if prediction.replace(".", "").strip() == "":
        return "error"
    return prediction


def parsed(task: TaskFolder, text: str) -> set[str]:
    if task.family == "Generate":
        return set(text.strip())  # characters
    if task.family == "Extract":
        return set(text.strip().split(task.separator))
    return set(text.split(task.separator))  # CLS predictions have been stripped above, gold answers are not


def set_scores(predicted: Sequence[set[str]], gold: Sequence[set[str]]) -> tuple[float, float]:
    both = [len(p & t) for p, t in zip(predicted, gold, strict=True)]
    micro = f1(divide(sum(both), sum(map(len, predicted))), divide(sum(both), sum(map(len, gold))))
    precision = sum(divide(hits, len(p)) for hits, p in zip(both, predicted, strict=True)) / len(both)
    recall = sum(divide(hits, len(t)) for hits, t in zip(both, gold, strict=True)) / len(both)
    return micro, f1(precision, recall)


def divide(above: float, below: float) -> float:
    return above / below if below else 0.0


def f1(precision: float, recall: float) -> float:
    return divide(2 * precision * recall, precision + recall)


def entity_scores(
    task: TaskFolder, rows: Sequence[TaskRow], answers: Sequence[str], golds: Sequence[str]
) -> tuple[float, float]:
    from seqeval.metrics import classification_report

    said = [tags(row.sentences, terms_by_type(task, answer)) for row, answer in zip(rows, answers, strict=True)]
    wanted = [tags(row.sentences, terms_by_type(task, gold)) for row, gold in zip(rows, golds, strict=True)]
    if not any(tag != "O" for side in (said, wanted) for row in side for tag in row):
        return 0.0, 0.0  # seqeval has nothing to report on
    report = classification_report(wanted, said, output_dict=True, zero_division=0)
    return report["micro avg"]["f1-score"], report["macro avg"]["f1-score"]


def terms_by_type(task: TaskFolder, text: str) -> dict[str, list[str]]:
    """Lines with ": " that is not at the line's end; the terms of a type are a set, here in order of appearance."""
    found: dict[str, list[str]] = {}
    for line in text.split("\n"):
        place = line.find(": ")
        if place < 0 or place + len(": ") == len(line):
            continue
        for term in line[place + len(": ") :].split(task.separator):
            terms = found.setdefault(line[:place], [])
            if term not in terms:
                terms.append(term)
    return found or {"None": ["None"]}


def tags(sentence: str, found: dict[str, list[str]]) -> list[str]:
    row = ["O" for _ in sentence]
    for kind, terms in found.items():
        for term in terms:
            if term == "None":
                continue
            for start in range(len(sentence)):
                if sentence[start : start + len(term)] == term:
                    row[start] = "B-" + kind
                    for inside in range(start + 1, start + len(term)):
                        row[inside] = "I-" + kind
    return row


def rouge_l(hypothesis: str, reference: str) -> float:
    """ROUGE-L as the `rouge` package (1.0.1) takes it: sentences end at ".", words at white space, each word once."""
    said, wanted = sentences(hypothesis), sentences(reference)
    if not said or not wanted:
        return 0.0
    common: set[str] = set()
    for gold in wanted:
        for answer in said:
            common |= set(longest_common(gold, answer))
    precision = len(common) / len({word for words in said for word in words})
    recall = len(common) / len({word for words in wanted for word in words})
    return 2 * precision * recall / (precision + recall + 1e-8)


def sentences(text: str) -> list[list[str]]:
    """The package drops empty sentences, keeps one of equal ones, and splits at single blanks after tidying them."""
    kept: list[list[str]] = []
    for piece in text.split("."):
        words = " ".join(piece.split()).split(" ")
        if len(piece) > 0 and words not in kept:
            kept.append(words)
    return kept


def longest_common(x: Sequence[str], y: Sequence[str]) -> list[str]:
    """The textbook table, read back from its end; where both ways are as long, towards the shorter x."""
    table = [[0] * (len(y) + 1) for _ in range(len(x) + 1)]
    for i in range(1, len(x) + 1):
        for j in range(1, len(y) + 1):
            if x[i - 1] == y[j - 1]:
                table[i][j] = table[i - 1][j - 1] + 1
            else:
                table[i][j] = max(table[i - 1][j], table[i][j - 1])
    i, j, words = len(x), len(y), []
    while i > 0 and j > 0:
        if x[i - 1] == y[j - 1]:
            words.append(x[i - 1])
            i, j = i - 1, j - 1
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return words
