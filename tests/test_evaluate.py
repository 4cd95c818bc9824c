import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import jax
import pytest
import tiny_tasks
from xla_flags import fake_devices

from ecomgpt_jax.config import MeshConfig, ModelConfig
from ecomgpt_jax.data.tokenizer import load_tokenizer, train_tokenizer
from ecomgpt_jax.evaluation.protocol import build_prompts
from ecomgpt_jax.instruct.task_folder import write_task
from ecomgpt_jax.model.decoder import init_sharded_params
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training.saving import save_orbax_params

CACHE = tempfile.TemporaryDirectory()


def evaluate(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ecomgpt_jax.evaluate", f"--cache_dir={CACHE.name}", *map(str, arguments)]
    left_out = ("ECOMGPT_EVAL", "JAX_COMPILATION_CACHE_DIR")
    kept = {key: value for key, value in os.environ.items() if key not in left_out}
    environment = {**kept, "XLA_FLAGS": fake_devices(1), **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    written = tiny_tasks.write_tiny_tasks(root / "tasks")
    texts = [text for task, _ in written for text in build_prompts(task).prompts]
    tokenizer = train_tokenizer(texts, 400, root / "checkpoint" / "tokenizer")
    model = ModelConfig(
        size="custom", embed=32, layers=1, heads=4, vocab_size=-(-tokenizer.size // 128) * 128, compute_dtype="float32"
    )
    params = init_sharded_params(model, make_mesh(MeshConfig()), jax.random.key(0))
    (root / "checkpoint" / "trained_on.json").write_text('["EN-Shop-CLS-topic"]')
    save_orbax_params(params, model, root / "checkpoint" / "checkpoints" / "1")
    return root


def test_a_checkpoint_is_decoded_scored_and_not_decoded_again(world: Path) -> None:
    out = world / "out"
    arguments = (
        "--checkpoint",
        world / "checkpoint",
        "--tasks",
        world / "tasks",
        "--out",
        out,
        "--limit",
        2,
        "--max_new_tokens",
        8,
        "--num_beams",
        2,
        "--answer_loss",
    )
    done = evaluate(*arguments, "--only", "EN-Shop-CLS-topic,ZH-Dian-Extract-choice")
    assert done.returncode == 0, done.stderr
    assert f"report: {out / 'report.html'}" in done.stdout
    assert " in float32 (compute dtype of the run); 1 x cpu, mesh " in done.stdout.splitlines()[0]
    assert list((Path(CACHE.name) / "compiled").iterdir())
    scores = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    loss = sum(entry["answer_loss"] for entry in scores["tasks"].values()) / 2
    assert f"Loss of right answers, average of 2 tasks: {loss:.4f} nats per token" in done.stdout
    assert 4 < loss < 8  # a model that knows nothing: log of about 400 words
    assert sorted(scores["tasks"]) == ["EN-Shop-CLS-topic", "ZH-Dian-Extract-choice"]
    assert {entry["rows"] for entry in scores["tasks"].values()} == {2}
    assert scores["protocol"]["name"] == "beam2"
    assert scores["tasks"]["EN-Shop-CLS-topic"]["domain"] == "in-domain"
    assert scores["averages"]["Held-out dataset"]["tasks"] == 1

    for name in scores["tasks"]:
        lines = (out / "predictions" / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
        assert [json.loads(line)["index"] for line in lines if line] == [0, 1]

    # A tampered answer that comes back shows that the second run decoded nothing: its weights are the same elsewhere.
    log = [json.loads(line) for line in (out / "answers.jsonl").read_text(encoding="utf-8").split("\n") if line]
    assert len(log) == 4
    tokenizer = load_tokenizer(world / "checkpoint" / "tokenizer")
    log[0]["tokens"] = tokenizer.encode("tampered")
    (out / "answers.jsonl").write_text("\n".join(map(json.dumps, log)), encoding="utf-8")
    moved = shutil.copytree(world / "checkpoint", world / "moved")
    done = evaluate(*arguments, "--only", "EN-Shop-CLS-topic,ZH-Dian-Extract-choice", "--checkpoint", moved)
    assert done.returncode == 0, done.stderr
    assert "tampered" in "".join(path.read_text(encoding="utf-8") for path in (out / "predictions").iterdir())


def test_weights_are_used_in_the_dtype_and_on_the_mesh_that_are_asked_for(world: Path, tmp_path: Path) -> None:
    done = evaluate(
        "--checkpoint", world / "checkpoint", "--tasks", world / "tasks", "--only", "EN-Shop-CLS-topic", "--limit", 1,
        "--max_new_tokens", 2, "--out", tmp_path, "--dtype", "bfloat16", "--mesh", "data=1,fsdp=2",
        XLA_FLAGS=fake_devices(2),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].endswith(" in bfloat16 (as asked for); 2 x cpu, mesh data=1 fsdp=2 tensor=1")
    assert json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["run"] == {"dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ({"--checkpoint": "nowhere"}, 66, "nowhere"),
        ({"--num_beams": "0"}, 2, "--num_beams=0"),
        ({"--protocol": "released:x"}, 2, "none of greedy, constrained, likelihood and released:SEED"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(world: Path, arguments: dict, code: int, words: str) -> None:
    given = {"--checkpoint": world / "checkpoint", "--tasks": world / "tasks", "--out": world / "bad", **arguments}
    done = evaluate(*(part for pair in given.items() for part in pair))
    assert done.returncode == code
    assert words in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert not (world / "bad").exists()


def test_a_prompt_that_runs_into_its_answer_is_warned_of_before_the_checkpoint_is_read(tmp_path: Path) -> None:
    task, rows = tiny_tasks.TOPICS
    write_task(tmp_path, dataclasses.replace(task, template="{sentences} {label_set}"), rows)
    done = evaluate("--checkpoint", tmp_path / "nowhere", "--tasks", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 66
    assert done.stderr.count("meta-info.json: test_prompt.instruction does not end with '### Response:'") == 1


def test_all_benchmarks_at_hand_in_one_table(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks" / "shopping_mmlu"
    folder.mkdir(parents=True)
    fields = {"input_field": "Which is red? 0 or 1", "task_name": "colours", "metric": "accuracy", "output_field": 1}
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        archive.writestr("data/skills/one.json", "\n".join([json.dumps(fields)] * 3))
    arguments = ("--checkpoint", world / "checkpoint", "--out", tmp_path / "out", "--limit", 2, "--max_new_tokens", 4)
    environment = {"ECOMGPT_EVAL": str(world / "tasks"), "ECOMGPT_BENCHMARKS": str(folder.parent)}
    done = evaluate(*arguments, "--benchmark", "all", **environment)
    assert done.returncode == 0, done.stderr
    assert "benchmark ecinstruct: not found and left out" in done.stdout
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "EN-ShoppingMMLU-CLS-colours" in report
    assert "EN-Shop-CLS-topic" in report
    scores = json.loads((tmp_path / "out" / "shopping_mmlu" / "scores.json").read_text(encoding="utf-8"))
    entry = scores["tasks"]["EN-ShoppingMMLU-CLS-colours"]
    assert set(entry["baselines"]) == {"majority", "random", "copy"}
    assert 0 <= entry["official"]["score"] <= 1
    refused = evaluate(*arguments, "--benchmark", "official", "--tasks", world / "tasks")
    assert refused.returncode == 2
    assert "--benchmark and --tasks" in refused.stderr
