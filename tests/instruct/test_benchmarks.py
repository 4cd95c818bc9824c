import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError
from ecomgpt_jax.evaluation.protocol import build_prompts, digest
from ecomgpt_jax.evaluation.scores import score_task
from ecomgpt_jax.instruct import benchmarks
from ecomgpt_jax.instruct.task_folder import TaskFolder, load_tasks, read_rows

NAMES = {name: values[0] for name, values in benchmarks._ECINSTRUCT.items()}


def ecinstruct(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file, (_, metric, labels) in benchmarks._ECINSTRUCT.items():
        item = {"instruction": f"Say {file}.", "input": '{"price": NaN} options: [{"A"}]', "output": labels[0]}
        second = item | {"output": f"{labels[1]}: the second" if metric == "letter" else labels[1]}
        (folder / f"{file}_test.json").write_text(json.dumps([item | changes, second]))
    return folder


def test_ecinstruct_is_read_as_published(tmp_path: Path) -> None:
    made = list(benchmarks.read_ecinstruct(ecinstruct(tmp_path)))
    assert [task.name.split("-")[-1] for task, _ in made] == list(NAMES.values())
    task, rows = made[2]
    assert (task.metric, task.labels) == ("ecinstruct:letter", ("A", "B", "C", "D"))
    assert [row.labels["default"] for row in rows] == [("A",), ("B",)]
    assert rows[0].sentences == '{"price": NaN} options: [{"A"}]'


@pytest.mark.parametrize("changes", [{"output": "perhaps"}, {"input": None}, {"instruction": "another"}])
def test_other_forms_are_refused_by_file(changes: dict, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Product_Matching_test\.json"):
        list(benchmarks.read_ecinstruct(ecinstruct(tmp_path, **changes)))


def chinese(folder: Path) -> Path:
    folder.mkdir(parents=True)
    lines = [
        ("RLC", "任务：一\n", "***query***：甲\n***答案***：", "相关\n#答案分析（隐藏）…"),
        ("RLC", "任务：一\n", "***query***：乙\n***答案***：", "不相关"),
        ("RLC", "", "两者区别：丙", "功能  "),
        ("CC", "任务：二\n", "类目：丁", "是"),
        ("CC", "任务：二\n", "类目：戊", "CD播放机"),
        ("IC", "任务：三\n", "网页：己", "衬衫,蕾丝衫/雪纺衫"),
        ("AC", "任务：四\n", "10斤猫粮", "10斤"),
        ("PC", "任务：五\n", "{偏好}", "C"),
        ("BC", "任务：六\n", "品牌", "美国"),
    ]
    rows = [dict(zip(("task", "system_prompt", "prompt", "gt"), line, strict=True)) for line in lines]
    (folder / "ChineseEcomQA.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    return folder


def test_chinese_ecom_qa_takes_the_first_line_and_parts_two_concepts(tmp_path: Path) -> None:
    made = {task.name: (task, rows) for task, rows in benchmarks.read_chinese_ecom_qa(chinese(tmp_path / "c"))}
    assert len(made) == 8
    task, rows = made["ZH-ChineseEcomQA-CLS-RLC"]
    assert (task.labels, [row.labels["default"] for row in rows]) == (("不相关", "相关"), [("相关",), ("不相关",)])
    assert task.template == "任务：一\n***query***：{sentences}\n***答案***："
    assert [row.sentences for row in rows] == ["甲", "乙"]
    assert made["ZH-ChineseEcomQA-CLS-RLC_dimension"][1][0].labels["default"] == ("功能",)
    assert made["ZH-ChineseEcomQA-CLS-CC_judgement"][1][0].labels["default"] == ("是",)
    assert made["ZH-ChineseEcomQA-CLS-IC"][1][0].labels["default"] == ("衬衫", "蕾丝衫/雪纺衫")
    assert made["ZH-ChineseEcomQA-Extract-AC"][1][0].spans[0].term == "10斤"


def shopping(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    rows = [
        {"task_name": "choice", "task_type": "multiple-choice", "metric": "accuracy", "output_field": 2},
        {"task_name": "find", "task_type": "retrieval", "metric": "hit rate@3", "output_field": [1, 4]},
        {"task_name": "rank it", "task_type": "ranking", "metric": "ndcg", "output_field": [0.0, 3.0, 1.0]},
        {"task_name": "entities", "task_type": "ner", "metric": "micro f1", "output_field": ["Red", "blue"]},
        {"task_name": "titles", "task_type": "generation", "metric": "rougel", "output_field": "a title"},
        {"task_name": "several", "task_type": "generation", "metric": "sent-transformer", "output_field": ["x", "y"]},
    ]
    lines = "\n".join(json.dumps(row | {"input_field": f"Question {i}?"} | changes) for i, row in enumerate(rows))
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        archive.writestr("data/skills/skill1.json", lines + "\n")
        archive.writestr("data/other.csv", "question,choices,answer")
    return folder


def test_shopping_mmlu_has_every_form(tmp_path: Path) -> None:
    made = {task.name: (task, rows[0]) for task, rows in benchmarks.read_shopping_mmlu(shopping(tmp_path / "s"))}
    assert len(made) == 6
    assert made["EN-ShoppingMMLU-CLS-choice"][0].labels == ("0", "1", "2", "3")
    assert made["EN-ShoppingMMLU-CLS-rank_it"][1].labels == {"default": ("2", "3", "1"), "truth": ("0.0", "3.0", "1.0")}
    assert made["EN-ShoppingMMLU-CLS-entities"][1].labels == {"default": ("red", "blue"), "truth": ("Red", "blue")}
    assert [span.term for span in made["EN-ShoppingMMLU-Generate-several"][1].spans] == ["x", "y"]


@pytest.mark.parametrize("changes", [{"metric": None}, {"input_field": ""}, {"metric": "ndcg", "output_field": 3}])
def test_shopping_mmlu_of_another_form(changes: dict, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"shopping_mmlu|data\.zip"):
        list(benchmarks.read_shopping_mmlu(shopping(tmp_path / "s", **changes)))


@pytest.mark.parametrize(
    ("name", "make"), [("ecinstruct", ecinstruct), ("chinese_ecom_qa", chinese), ("shopping_mmlu", shopping)]
)
def test_folders_are_tasks_whose_gold_answers_are_right(
    name: str, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "b" / name)
    monkeypatch.setenv("ECOMGPT_BENCHMARKS", str(tmp_path / "b"))
    if name != "shopping_mmlu":
        with pytest.raises(DataError, match="sha256"):
            benchmarks.task_folders(name, tmp_path / "cache")
        monkeypatch.setattr(benchmarks.checksums, "ALL", {})
    folder = benchmarks.task_folders(name, tmp_path / "cache")
    assert benchmarks.task_folders(name, tmp_path / "cache") == folder
    for task in load_tasks(folder):
        assert task.metric.startswith(name)
        part = build_prompts(task)
        assert not part.prompts[0].startswith("Below is an instruction that describes the")
        entry = score_task(part, list(part.golds))
        assert entry["corrected"]["score"] == 1.0
        assert set(entry["baselines"]) == {"majority", "random", "copy"}
        wrong = score_task(part, ["\u3000"] * len(part.rows))
        assert wrong["corrected"]["score"] == 0.0
        assert read_rows(task)[0].sentences in part.prompts[0]


def test_the_metric_is_a_part_of_the_protocol(tmp_path: Path) -> None:
    task = TaskFolder("EN-A-CLS-b", "", "{sentences}", {"default": ("x",)})
    import dataclasses

    from ecomgpt_jax.evaluation.protocol import TaskPrompts

    other = dataclasses.replace(task, metric="ecinstruct:letter")
    one, two = (digest({}, [TaskPrompts(each, (), ("p",), ("g",))]) for each in (task, other))
    assert one != two


def test_what_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ECOMGPT_BENCHMARKS", raising=False)
    assert benchmarks.find_benchmark("ecinstruct") is None
    with pytest.raises(MissingInputError, match="fetch benchmarks ecinstruct"):
        benchmarks.task_folders("ecinstruct", tmp_path)
    with pytest.raises(ConfigError, match="none of official"):
        benchmarks.find_benchmark("ecinstrct")


@pytest.mark.skipif(not os.environ.get("ECOMGPT_BENCHMARKS"), reason="ECOMGPT_BENCHMARKS is not set")
def test_the_real_sets(tmp_path: Path) -> None:
    counts = {}
    for name in ("ecinstruct", "chinese_ecom_qa"):
        if benchmarks.find_benchmark(name):
            for task in load_tasks(benchmarks.task_folders(name, tmp_path)):
                part = build_prompts(task)
                counts[task.name] = len(part.rows)
                assert score_task(part, list(part.golds))["corrected"]["score"] == 1.0
    assert sum(count for name, count in counts.items() if "ECInstruct" in name) in (0, 6446)
    assert sum(count for name, count in counts.items() if "Chinese" in name) in (0, 1800)
