import dataclasses
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny_tasks
from tiny_tasks import Part

from ecomgpt_jax.errors import DataError, MissingInputError
from ecomgpt_jax.instruct.instructions import render
from ecomgpt_jax.instruct.task_folder import (
    MAX_CANDIDATES,
    TaskFolder,
    TaskRow,
    candidates,
    gold_answer,
    load_task,
    load_tasks,
    load_tested,
    read_rows,
    to_instruction,
    warn_of_templates,
    write_task,
)

META = {"test_prompt": {"instruction": "{sentences}\nPick {label_set}.\n### Response:"}, "label_set": {"a": ["x", "y"]}}
ROW = {"sentences": "s", "labels": {"a": ["x"]}}


def make(
    root: Path,
    name: str = "EN-Shop-CLS-topic",
    meta: object = META,
    rows: Sequence = (ROW,),
    text: str | bytes | None = None,
) -> Path:
    folder = root / "Shop" / "tasks" / name
    folder.mkdir(parents=True)
    if meta is not None:
        (folder / "meta-info.json").write_text(json.dumps(meta), encoding="utf-8")
    content = text if text is not None else "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "test.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def test_written_tasks_read_back_the_same(tmp_path: Path) -> None:
    written = tiny_tasks.write_tiny_tasks(tmp_path)
    loaded = load_tasks(tmp_path)
    assert loaded == [task for task, _ in written]
    for task, rows in written:
        assert tuple(read_rows(task)) == rows
        assert tuple(read_rows(task, limit=1)) == rows[:1]
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"meta-info.json", "test.json"}


def test_only_the_named_tasks_are_read_each_once(tmp_path: Path) -> None:
    names = [task.name for task, _ in sorted(tiny_tasks.write_tiny_tasks(tmp_path), key=lambda part: part[0].name)]
    english = [name for name in names if name.startswith("EN-")]
    assert 2 < len(english) < len(names)
    read = [task.name for task in load_tasks(tmp_path, [names[-1], "EN-*", english[1]])]
    assert read == [names[-1], *english]


def test_tasks_to_train_on_alone_are_named_and_not_evaluated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As `pseudo_label` writes them."""
    make(tmp_path, "EN-Shop-CLS-topic")
    alone = make(tmp_path, "EN-Shop-CLS-train")
    (alone / "test.json").rename(alone / "train.json")
    for _ in range(2):
        assert [task.name for task in load_tested(tmp_path, ["EN-*"])] == ["EN-Shop-CLS-topic"]
    assert [line.rsplit(": ", 2)[1:] for line in caplog.messages] == [
        ["not evaluated, since there is no test.json", "EN-Shop-CLS-train"]
    ]
    for only in (["EN-Shop-CLS-train"], ["EN-Shop-CLS-t*", "EN-Shop-CLS-train"], ["EN-Shop-CLS-tr*"]):
        with pytest.raises(MissingInputError, match=r"no test\.json in EN-Shop-CLS-train"):
            load_tested(tmp_path, only)


def test_name_gives_language_and_family_and_meta_task_is_ignored(tmp_path: Path) -> None:
    make(tmp_path, "ZH-Shop-CLS-topic", {**META, "task": "EN-Other-NER-thing"})
    (task,) = load_tasks(tmp_path)
    assert (task.name, task.language, task.dataset, task.family) == ("ZH-Shop-CLS-topic", "zh", "Shop", "CLS")


def test_absent_keys_have_defaults(tmp_path: Path) -> None:
    meta = {"test_prompt": {"instruction": "{sentences}\n### Response:"}}
    task = load_task(
        make(tmp_path, "EN-Shop-Extract-own_answer", meta, [{"sentences": ["a", "b"], "spans": [{"term": "a"}]}])
    )
    assert (task.definition, task.separator, task.labels) == ("own answer", ", ", ())
    (row,) = read_rows(task)
    assert row.sentences == "ab"
    assert gold_answer(task, row) == "a"


@pytest.mark.parametrize(
    ("part", "answers"),
    [
        (tiny_tasks.TOPICS, ["Price", "Size, Colour", "Colour", "Price"]),
        (
            tiny_tasks.PARTS,
            ["Brand: Acme\nPart: keyless chuck", "Brand: None\nPart: None", "Brand: Bolt, Acme\nPart: battery"],
        ),
        (tiny_tasks.VALUES, ["红色, 纯棉", "蓝", "羊毛"]),
        (tiny_tasks.CHOICE, ["紫砂 茶壶", "砂锅"]),
        (tiny_tasks.TITLES, ["红色纯棉上衣2021", "蓝色 上衣"]),
    ],
)
def test_gold_answers(part: Part, answers: list[str]) -> None:
    task, rows = part
    assert [gold_answer(task, row) for row in rows] == answers


def test_ner_drops_spans_of_other_types() -> None:
    row = tiny_tasks.spanned("Acme red drill", ("Brand", "Acme"), ("Colour", "red"))
    assert gold_answer(tiny_tasks.PARTS[0], row) == "Brand: Acme\nPart: None"


def test_candidates_of_many_labels() -> None:
    task, rows = tiny_tasks.SHADES
    chosen = [candidates(task, index, row) for index, row in enumerate(rows)]
    for labels, row in zip(chosen, rows, strict=True):
        assert len(labels) == MAX_CANDIDATES
        assert row.labels["default"][0] in labels
        assert list(labels) == sorted(labels)  # the meta file's order
    assert len(set(chosen)) == len(chosen)
    assert candidates(task, 3, rows[3]) == chosen[3]
    assert candidates(tiny_tasks.TOPICS[0], 0, tiny_tasks.TOPICS[1][0]) == ("Price", "Size", "Colour")


def test_a_row_cannot_act_as_a_template() -> None:
    task, rows = tiny_tasks.TOPICS
    prompt, response = render(to_instruction(task, 1, rows[1]))
    assert prompt.endswith(
        "### Instruction:\nRuns small {label_set} and fades.\nSelect from: Price, Size, Colour. \n### Response:"
    )
    assert prompt.startswith("Below is an instruction that describes the review topic task.")
    assert response == "Size, Colour"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"meta": None}, "meta-info.json"),
        ({"name": "EN-Shop-CSL-topic"}, "did you mean 'CLS'"),
        ({"name": "en shop"}, "LANG-Dataset-Family-name"),
        ({"meta": []}, "one JSON object"),
        ({"meta": {}}, "test_prompt.instruction"),
        ({"meta": {"test_prompt": {"instruction": "no input"}}}, "{sentences}"),
        ({"meta": {"test_prompt": {"instruction": "{sentences}{__class__}"}}}, "__class__"),
        ({"meta": {**META, "label_key": "b"}}, "'b'"),
        ({"meta": {**META, "label_key": ["a"]}}, "meta-info.json: label_key must be a string, not list"),
        ({"meta": {**META, "label_set": ["x"]}}, "label_set"),
        ({"meta": {**META, "label_set": {"a": [1]}}}, "label_set.a"),
        ({"meta": {**META, "label_set": {}}}, "no label_set"),
        ({"meta": {**META, "label_sep": ""}}, "label_sep"),
        ({"meta": {**META, "metric": "accuracy"}}, "leave it out, not 'accuracy'"),
        ({"rows": [{"labels": {"a": ["x"]}}]}, "test.json:1:1: sentences"),
        ({"rows": [ROW, {"sentences": "s"}]}, "test.json:2:1: labels.a"),
        ({"rows": [{"sentences": "s", "labels": {"a": []}}]}, "no gold answer"),
        ({"rows": [{"sentences": "s", "labels": {"a": "x"}}]}, "list of strings"),
        ({"text": ""}, "no rows"),
        ({"text": '{"sentences": "a"'}, "test.json:1:18:"),
        ({"text": "\n{'sentences': 'a'}"}, "test.json:2:2:"),
        ({"text": "[1]"}, "test.json:1:1: a list"),
        ({"text": '{"sentences": NaN}'}, "NaN"),
        ({"text": '{"sentences": ' + "9" * 5000 + "}"}, "test.json:1:1:"),
        ({"text": "[" * 100_000}, "nested too deeply"),
        ({"text": '{"sentences": "\\ud800", "labels": {"a": ["x"]}}'}, "surrogate"),
        ({"text": '{"sentences": "红'.encode("gbk")}, "byte 15 (looks like GBK)"),
        ({"text": b'{"sentences": "caf\xe9"}'}, "byte 18"),
    ],
)
def test_bad_tasks_are_refused_in_one_line(tmp_path: Path, change: dict, words: str) -> None:
    make(tmp_path, **change)
    with pytest.raises((DataError, MissingInputError)) as caught:
        list(map(read_rows, load_tasks(tmp_path)))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["Extract", "Condition_Extract", "Generate"])
@pytest.mark.parametrize("span", ["x", {"start": 1}, {"term": 3}, {"term": "x", "start": "0"}])
def test_bad_spans_are_refused(tmp_path: Path, family: str, span: object) -> None:
    meta = {"test_prompt": {"instruction": "{sentences}"}}
    task = load_task(make(tmp_path, f"EN-Shop-{family}-x", meta, [{"sentences": "s", "spans": [span]}]))
    with pytest.raises(DataError, match=r"test\.json:1:29: spans"):
        read_rows(task)


def test_blank_lines_bom_and_line_separators_are_harmless(tmp_path: Path) -> None:
    text = "\ufeff\n" + json.dumps({**ROW, "sentences": "a\u2028b"}, ensure_ascii=False) + "\r\n\n"
    (row,) = read_rows(load_task(make(tmp_path, text=text)))
    assert row.sentences == "a\u2028b"


def test_a_prompt_that_runs_into_its_answer_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    task = tiny_tasks.TOPICS[0]
    bare = dataclasses.replace(task, template="{sentences} is {label_set}", path=Path("mine"))
    warn_of_templates([task, dataclasses.replace(task, template=f"{task.template} "), bare, bare])
    warn_of_templates([dataclasses.replace(bare, metric="ecinstruct:f1")])
    (warning,) = caplog.messages
    assert re.match(r"mine/meta-info\.json: .* does not end with '### Response:'", warning)


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="nowhere"):
        load_tasks(tmp_path / "nowhere")
    with pytest.raises(MissingInputError, match="no tasks"):
        load_tasks(tmp_path)
    make(tmp_path)
    with pytest.raises(MissingInputError, match="did you mean 'EN-Shop-CLS-topic'"):
        load_tasks(tmp_path, ["EN-Shop-CLS-topics"])
    with pytest.raises(MissingInputError, match=r"no task 'ZH-\*'"):
        load_tasks(tmp_path, ["ZH-*"])
    (task,) = load_tasks(tmp_path)
    with pytest.raises(MissingInputError, match=r"no train\.json"):
        read_rows(task, "train")


def test_links_out_and_duplicates_are_refused(tmp_path: Path) -> None:
    outside = make(tmp_path / "outside")
    inside = make(tmp_path / "inside", "EN-Shop-CLS-other")
    os.symlink(outside, inside.parent / outside.name)
    with pytest.raises(DataError, match="leads out"):
        load_tasks(tmp_path / "inside")
    os.unlink(inside.parent / outside.name)
    os.replace(inside / "test.json", tmp_path / "secret.json")
    os.symlink(tmp_path / "secret.json", inside / "test.json")
    with pytest.raises(DataError, match="link out"):
        read_rows(load_tasks(tmp_path / "inside")[0])
    twice = tmp_path / "outside" / "Again" / "tasks" / outside.name
    twice.mkdir(parents=True)
    with pytest.raises(DataError, match="also in"):
        load_tasks(tmp_path / "outside")


@pytest.mark.parametrize("name", ["EN-..-CLS-x", "EN-a/../b-CLS-x", "../EN-a-CLS-x", "EN-a-CLS-x/..", "EN-a-CLS-", ""])
def test_unsafe_names_are_not_written(tmp_path: Path, name: str) -> None:
    task = TaskFolder(name, "d", "{sentences}")
    with pytest.raises(DataError):
        write_task(tmp_path, task, [TaskRow("s", {"default": ("x",)})])
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_no_task(tmp_path: Path) -> None:
    task = TaskFolder("EN-Shop-CLS-x", "d", "{sentences}")
    with pytest.raises(UnicodeEncodeError):
        write_task(tmp_path, task, [TaskRow("\ud800", {"default": ("x",)})])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
