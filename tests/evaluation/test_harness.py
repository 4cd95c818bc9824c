import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import pytest
import tiny_tasks

from ecomgpt_jax.config import EvalConfig, MeshConfig, ModelConfig
from ecomgpt_jax.data.tokenizer import Tokenizer, load_tokenizer
from ecomgpt_jax.decoding import resumable
from ecomgpt_jax.errors import MissingInputError
from ecomgpt_jax.evaluation import harness
from ecomgpt_jax.evaluation.protocol import TaskPrompts
from ecomgpt_jax.evaluation.scores import read_answer_losses
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow, write_task
from ecomgpt_jax.model.decoder import init_sharded_params
from ecomgpt_jax.parallel.mesh import make_mesh

World = tuple[Path, list[TaskPrompts], dict[str, str]]


class Characters:
    """A tokenizer with one id per character; 0 ends an answer."""

    eos_id, stop_ids, ids = 0, (0,), range(0x110000)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [[ord(character) for character in text] for text in texts]

    encode_prompts = encode_batch

    def cut(self, prompt: list[int], limit: int) -> list[int]:
        return prompt[-limit:]

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


class Engine:
    """Answers every prompt with its gold answer, last prompt first, and records its arguments."""

    def __init__(self, answers: dict[str, str], stop_after: int | None = None) -> None:
        self.answers, self.stop_after, self.asked, self.settings = answers, stop_after, [], None

    def generate_tokens(
        self, params: object, model: object, prompts: list[list[int]], *, on_finished: Callable, **settings: object
    ) -> None:
        self.settings = settings
        for number in reversed(range(len(prompts))):
            if self.stop_after is not None and len(self.asked) >= self.stop_after:
                raise KeyboardInterrupt
            self.asked.append("".join(map(chr, prompts[number])))
            answer = [ord(character) for character in self.answers[self.asked[-1]]]
            on_finished(number, answer[: settings["max_new_tokens"]])


@pytest.fixture
def world(tmp_path: Path) -> World:
    tiny_tasks.write_tiny_tasks(tmp_path / "tasks")
    parts = [harness.build_prompts(task) for task in harness.load_tested(tmp_path / "tasks")]
    answers = {prompt: gold for part in parts for prompt, gold in zip(part.prompts, part.golds, strict=True)}
    return tmp_path, parts, answers


def evaluate(
    world: World,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    settings: EvalConfig | None = None,
    **arguments: object,
) -> dict:
    monkeypatch.setattr(resumable, "generate_tokens", engine.generate_tokens)
    settings = settings or EvalConfig(max_prompt_tokens=10_000)
    return harness.evaluate_tasks(
        None, ModelConfig(), Characters(), world[0] / "tasks", world[0] / "out", settings, **arguments
    )


def test_gold_answers_give_full_scores_and_every_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    root, parts, answers = world
    scores = evaluate(world, Engine(answers), monkeypatch)
    assert list(scores["tasks"]) == [part.task.name for part in parts]
    for part in parts:
        entry = scores["tasks"][part.task.name]
        assert "answer_loss" not in entry
        assert (entry["corrected"]["score"], entry["rows"]) == (1, len(part.rows))
        lines = (root / "out" / "predictions" / f"{part.task.name}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == [
            {"index": index, "prediction": gold} for index, gold in enumerate(part.golds)
        ]
    assert json.loads((root / "out" / "scores.json").read_text(encoding="utf-8")) == scores
    assert {path.name for path in (root / "out").iterdir()} == {
        "predictions", "scores.json", "report.md", "report.html",
    }  # fmt: skip
    assert len(scores["protocol"]["sha256"]) == 64


def test_a_finished_evaluation_is_known_by_its_dtype_settings_and_tasks(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _, answers = world
    settings = EvalConfig(max_prompt_tokens=10_000)
    scores = evaluate(world, Engine(answers), monkeypatch, settings)

    def finished(dtype: str = ModelConfig().compute_dtype, **changed: object) -> dict | None:
        changed = dataclasses.replace(settings, **changed)
        return harness.finished_scores(root / "tasks", root / "out", changed, dtype)

    assert finished() == finished(batch=3) == scores
    assert finished("float16") is None
    assert finished(max_new_tokens=7) is finished(num_beams=2) is finished(answer_loss=True) is None
    shutil.rmtree(next((root / "tasks").iterdir()))
    assert finished() is None
    (root / "out" / "scores.json").unlink()
    assert finished() is None


def test_losses_of_right_answers_are_those_of_each_row(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def chances(params: object, model: object, prompts: list, answers: list, **settings: object) -> list[float]:
        asked.extend(zip(prompts, answers, strict=True))
        return [-float(len(asked) - place) for place in range(len(prompts))]

    monkeypatch.setattr(harness, "mean_log_probabilities", chances)
    root, parts, answers = world
    settings = EvalConfig(max_prompt_tokens=50, max_new_tokens=8, answer_loss=True)
    scores = evaluate(world, Engine({key[-50:]: gold for key, gold in answers.items()}), monkeypatch, settings)
    golds = [(prompt[-50:], gold) for part in parts for prompt, gold in zip(part.prompts, part.golds, strict=True)]
    assert [("".join(map(chr, prompt)), answer) for prompt, answer in asked] == [
        (prompt, [*map(ord, gold), Characters.eos_id][:8]) for prompt, gold in golds
    ]
    left = [read_answer_losses(root / "out" / "predictions" / f"{part.task.name}.jsonl") for part in parts]
    assert [loss for losses in left for loss in losses] == [float(n) for n in range(len(golds), 0, -1)]
    for part, losses in zip(parts, left, strict=True):
        assert scores["tasks"][part.task.name]["answer_loss"] == pytest.approx(sum(losses) / len(losses))


def test_settings_reach_the_engine_and_cuts_are_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _, parts, answers = world
    engine = Engine({prompt[-50:]: gold for prompt, gold in answers.items()})
    settings = EvalConfig(limit=2, batch=7, max_prompt_tokens=50, max_new_tokens=3, num_beams=2)
    scores = evaluate(world, engine, monkeypatch, settings)
    assert engine.settings == {
        "max_new_tokens": 3, "eos_ids": (0,), "allowed_ids": range(0x110000), "batch": 7, "num_beams": 2, "mesh": None,
        "forms": None,
    }  # fmt: skip
    assert scores["protocol"]["num_beams"] == 2
    assert all(entry["cut_prompts"] == entry["rows"] == 2 for entry in scores["tasks"].values())
    assert scores["tasks"]["ZH-Dian-Generate-title"]["cut_answers"] == 2
    assert scores["tasks"]["ZH-Dian-Extract-choice"]["cut_answers"] == 1
    assert len(set(engine.asked)) == len(engine.asked) > len(parts)


def test_finished_answers_are_kept_for_the_same_weights_and_prompts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, parts, answers = world
    with pytest.raises(KeyboardInterrupt):
        evaluate(world, Engine(answers, stop_after=3), monkeypatch, weights="w")
    assert [path.name for path in (root / "out").iterdir()] == ["answers.jsonl"]
    log = root / "out" / "answers.jsonl"
    log.write_text(log.read_text() + '{"key": "cut sho')

    def asked(**arguments: object) -> int:
        engine = Engine(answers)
        scores = evaluate(world, engine, monkeypatch, **arguments)
        assert all(entry["corrected"]["score"] == 1 for entry in scores["tasks"].values())
        return len(engine.asked)

    rows = sum(len(part.rows) for part in parts)
    assert asked(weights="w") == rows - 3
    assert asked(weights="w") == 0
    assert asked(weights="") == rows
    assert asked(weights="w") == 0
    assert asked(weights="w", settings=EvalConfig(max_prompt_tokens=10_000, max_new_tokens=100)) == rows
    assert asked(weights="v") == rows
    assert asked(weights="w") == rows
    lines = log.read_text().split("\n")
    log.write_text("\n".join(["[]", "{}", '{"key": 1}', *lines[2:]]))
    assert asked(weights="w") == 2


def test_equal_prompts_are_decoded_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine({prompt[-10:]: "x" for prompt in world[2]})
    evaluate(world, engine, monkeypatch, EvalConfig(max_prompt_tokens=10))
    assert engine.asked == ["\n### Response:"[-10:]]


def test_trained_tasks_stand_apart_from_those_held_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = ["EN-Shop-CLS-topic", "ZH-Other-NER-x"]
    scores = evaluate(world, Engine(world[2]), monkeypatch, trained_on=trained)
    domains = {name: entry["domain"] for name, entry in scores["tasks"].items()}
    assert domains == {
        name: "in-domain" if name == trained[0] else "held-out task" if "-Shop-" in name else "held-out dataset"
        for name in domains
    }
    averages = scores["averages"]
    assert {name: averages[name]["tasks"] for name in ("In-domain", "Held-out task")} == {
        "In-domain": 1,
        "Held-out task": 2,
    }
    assert averages["All tasks"]["corrected"]["score"] == 1
    assert "domain" not in evaluate(world, Engine(world[2]), monkeypatch)["tasks"][trained[0]]


def test_released_candidates_are_what_the_model_sees(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine({prompt[:20]: "x" for prompt in world[2]})
    engine.answers = type("Any", (dict,), {"__missing__": lambda self, key: "x"})()
    settings = EvalConfig(max_prompt_tokens=10_000, protocol="released:3")
    scores = evaluate(world, engine, monkeypatch, settings)
    assert scores["protocol"]["name"] == "released:3"
    fixed = set(world[2])
    unlike = [prompt for prompt in engine.asked if prompt not in fixed]
    assert unlike
    assert all("shade" in prompt or "topic" in prompt for prompt in unlike), "only classification is drawn"


def test_letters_are_scored_as_labels_in_whole_evaluations_and_slices(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = world[0]
    parts = [harness.build_prompts(task, 0, "greedy:letters") for task in harness.load_tested(root / "tasks")]
    answers = {text: said for part in parts for text, said in zip(part.prompts, part.responses(), strict=True)}
    topic = next(part for part in parts if "topic" in part.task.name)
    answers[topic.prompts[0]] = topic.golds[0]  # a label where a letter was asked for
    settings = EvalConfig(max_prompt_tokens=10_000, protocol="greedy:letters", answer_loss=True)
    asked = []

    def chances(params: object, model: object, prompts: list, golds: list, **settings: object) -> list[float]:
        asked.extend("".join(map(chr, gold[:-1])) for gold in golds)
        return [-1.0] * len(prompts)

    monkeypatch.setattr(harness, "mean_log_probabilities", chances)
    scores = evaluate(world, Engine(answers), monkeypatch, settings)
    assert asked == [said for part in parts for said in part.responses()]
    for part in parts:
        entry = scores["tasks"][part.task.name]
        assert ("letters" in entry) == (part.task.family == "CLS")
        missed = part is topic
        assert (entry["corrected"]["score"] < 1) == (entry["corrected"]["format-error-rate"] > 0) == missed
        path = root / "out" / "predictions" / f"{part.task.name}.jsonl"
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert [line["prediction"] for line in lines][missed:] == list(part.golds)[missed:]
        if part.letters:
            assert [line["said"] for line in lines][missed:] == list(part.letters)[missed:]
    found = harness.evaluate_slice(None, ModelConfig(), Characters(), root / "tasks", settings)
    assert found["eval/EN-Shop-CLS-shade/score"] == 1
    assert harness.finished_scores(root / "tasks", root / "out", settings, ModelConfig().compute_dtype) == scores
    assert harness.read_samples(root / "tasks", root / "out", settings)[0]["gold"] in parts[0].golds


def test_a_slice_is_scored_without_a_trace(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    root, parts, answers = world
    monkeypatch.setattr(harness, "SLICE_ROWS", 3)
    engine = Engine({**answers, parts[0].prompts[0]: "?"})
    monkeypatch.setattr(resumable, "generate_tokens", engine.generate_tokens)
    settings = EvalConfig(max_prompt_tokens=10_000)
    found = harness.evaluate_slice(None, ModelConfig(), Characters(), root / "tasks", settings)
    assert len(engine.asked) == sum(min(3, len(part.rows)) for part in parts)
    names = {"score", "micro-f1", "rouge-l-f1"}
    tasks = [part.task.name for part in parts]
    assert set(found) == {f"eval/{task}/{name}" for task in [*tasks, "average"] for name in names}
    assert found[f"eval/{tasks[0]}/score"] == pytest.approx(2 * 2 / (3 + 3))
    assert found["eval/average/score"] == pytest.approx((5 + 2 / 3) / 6)
    assert not (root / "out").exists()


def test_samples_are_spread_over_tasks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    root, _, answers = world
    evaluate(world, Engine(answers), monkeypatch)
    found = harness.read_samples(root / "tasks", root / "out", EvalConfig())
    assert 6 <= len(found) <= harness.SAMPLES
    assert len({sample["task"] for sample in found}) == 6
    assert all(answers[sample["prompt"]] == sample["gold"] == sample["prediction"] for sample in found)


def test_only_some_tasks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = evaluate(world, Engine(world[2]), monkeypatch, only=["EN-Shop-CLS-topic"])
    assert list(scores["tasks"]) == ["EN-Shop-CLS-topic"]
    with pytest.raises(MissingInputError, match="did you mean 'EN-Shop-CLS-topic'"):
        evaluate(world, Engine(world[2]), monkeypatch, only=["EN-Shop-CLS-topics"])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ModelConfig, Tokenizer, Path]:
    """Random weights that say anything, the published tokenizer, and the tiny tasks."""
    tokenizer = load_tokenizer(Path(__file__).parents[2] / "configs/nano")
    model = ModelConfig(size="custom", embed=32, layers=1, heads=4, vocab_size=tokenizer.size, compute_dtype="float32")
    params = init_sharded_params(model, make_mesh(MeshConfig()), jax.random.key(0))
    folder = tmp_path_factory.mktemp("tasks")
    tiny_tasks.write_tiny_tasks(folder)
    return params, model, tokenizer, folder


def test_constrained_answers_have_no_format_error_and_do_not_hang_on_the_batch(
    small: tuple[Any, ModelConfig, Tokenizer, Path], tmp_path: Path
) -> None:
    *model, folder = small
    said = {}
    for name, settings in {
        "free": EvalConfig(max_new_tokens=24),
        "one": EvalConfig(max_new_tokens=24, protocol="constrained", batch=1),
        "many": EvalConfig(max_new_tokens=24, protocol="constrained", batch=32),
        "letters": EvalConfig(max_new_tokens=24, protocol="constrained:letters"),
    }.items():
        scores = harness.evaluate_tasks(*model, folder, tmp_path / name, settings)
        paths = sorted((tmp_path / name / "predictions").iterdir())
        said[name] = (scores["protocol"]["sha256"], [path.read_text(encoding="utf-8") for path in paths])
        errors = {task: entry["corrected"]["format-error-rate"] for task, entry in scores["tasks"].items()}
        assert (max(errors.values()) == 0) == (name != "free"), errors
    assert said["one"] == said["many"]
    assert len({said[name][0] for name in ("free", "one", "letters")}) == 3, "each mode has a protocol of its own"


def test_the_likeliest_candidate_answers(small: tuple[Any, ModelConfig, Tokenizer, Path], tmp_path: Path) -> None:
    *model, folder = small
    settings = EvalConfig(max_new_tokens=8, protocol="likelihood")
    scores = harness.evaluate_tasks(*model, folder, tmp_path / "out", settings)
    for task, entry in scores["tasks"].items():
        assert ("likelihood" in entry) == ("-CLS-" in task)
        if "likelihood" in entry:
            assert entry["corrected"]["format-error-rate"] == 0
            assert entry["likelihood"]["sum"] == entry["corrected"]["score"]
            assert set(entry["likelihood"]) == {"sum", "mean", "prior"}
    assert scores["protocol"]["name"] == "likelihood"


@pytest.mark.parametrize("protocol", ["constrained", "likelihood"])
def test_open_questions_of_a_benchmark_are_decoded_freely(
    small: tuple[Any, ModelConfig, Tokenizer, Path], tmp_path: Path, protocol: str
) -> None:
    """ChineseEcomQA has such tasks, and `--benchmark all` comes to them after hours."""
    *model, _ = small
    task = TaskFolder("ZH-Q-CLS-open", "", "{sentences}", separator="\n", metric="chinese_ecom_qa:label")
    write_task(tmp_path, task, [TaskRow("red mug, what color?", {"default": ("red",)})])
    said = {}
    for name in ("greedy", protocol):
        harness.evaluate_tasks(*model, tmp_path, tmp_path / name, EvalConfig(max_new_tokens=8, protocol=name))
        said[name] = (tmp_path / name / "predictions" / f"{task.name}.jsonl").read_text(encoding="utf-8")
    assert said[protocol] == said["greedy"]
