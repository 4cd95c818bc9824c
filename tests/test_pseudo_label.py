"""The command as a user runs it, with a model so small that its answers are noise: what it says becomes the labels."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import pytest
from xla_flags import fake_devices

from ecomgpt_jax.config import DataConfig, ModelConfig
from ecomgpt_jax.data.tokenizer import load_tokenizer, train_tokenizer
from ecomgpt_jax.decoding.engine import generate_tokens
from ecomgpt_jax.decoding.scoring import mean_log_probabilities
from ecomgpt_jax.instruct import make, pseudo_labels
from ecomgpt_jax.instruct.choose import choose
from ecomgpt_jax.instruct.instructions import render
from ecomgpt_jax.instruct.read import BuildStats
from ecomgpt_jax.instruct.task_folder import TaskFolder, TaskRow, load_task, read_rows, write_task
from ecomgpt_jax.model.content_hash import content_hash
from ecomgpt_jax.model.decoder import init_params
from ecomgpt_jax.model.hf_weights import load_hf, model_config_from_hf, save_hf

TEXTS = [
    f"a {colour} {thing}" for colour in ("red", "blue", "green") for thing in ("cup", "shirt", "phone case", "lamp")
]
LONGEST = 12
HOME = tempfile.TemporaryDirectory()  # where compiled programs are kept by default


def run(*arguments: object, rc: int = 0, devices: int = 1) -> str:
    command = [sys.executable, "-m", "ecomgpt_jax.pseudo_label", *map(str, arguments)]
    dropped = ("ECOMGPT_EVAL", "ECOMGPT_SOURCES")
    environment = {key: value for key, value in os.environ.items() if key not in dropped}
    environment |= {"HOME": HOME.name, "XLA_FLAGS": fake_devices(devices)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == rc, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if rc == 0 else done.stderr


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A checkpoint, a pool, and a task whose labels are what the model answers to every second text."""
    root = tmp_path_factory.mktemp("pseudo")
    tokenizer = train_tokenizer(TEXTS * 5, 300, root / "tokenizer")
    model = ModelConfig(
        size="custom", embed=32, layers=2, heads=4, vocab_size=384, compute_dtype="float32", initializer_range=0.4
    )
    params = init_params(model, jax.random.key(3))
    params["final_norm"]["bias"] += 2.0 * params["embedding"]["table"][tokenizer.eos_id]
    save_hf(params, model, root / "hf", tokenizer_dir=tokenizer.directory)
    model = model_config_from_hf(root / "hf")
    params = load_hf(root / "hf", model)
    template = "{sentences}\n### Response:"
    task = TaskFolder("EN-Shop-CLS-mood", "mood", template, {"default": ("unheard of",)}, separator=" ;; ")
    prompts = [tokenizer.encode(render(asked)[0]) for asked in pseudo_labels.instructions(task, TEXTS)]
    answers = generate_tokens(
        params,
        model,
        prompts,
        max_new_tokens=LONGEST,
        eos_ids=tokenizer.stop_ids,
        allowed_ids=tokenizer.ids,
        batch=8,
    )
    texts = [tokenizer.decode(answer).strip() if len(answer) < LONGEST else "" for answer in answers]
    assert sum(map(bool, texts)) >= 4, "the model ends too rarely for this test"
    labels = tuple(dict.fromkeys(filter(None, texts[::2])))
    ended = [i for i, text in enumerate(texts) if text in labels]
    full = [[*answers[i], tokenizer.eos_id] for i in ended]
    chances = mean_log_probabilities(params, model, [prompts[i] for i in ended], full, batch=8)
    task = TaskFolder(task.name, task.definition, template, {"default": ("unheard of", *labels)}, separator=" ;; ")
    write_task(root / "tasks", task, [TaskRow("x", {"default": ("unheard of",)})])
    (root / "pool.txt").write_text("\n".join([*TEXTS, "", TEXTS[0].upper()]), encoding="utf-8")
    task_dir = root / "tasks/Shop/tasks/EN-Shop-CLS-mood"
    found = {"chances": sorted(chances), "weights": content_hash(params)}
    return {"root": root, "checkpoint": root / "hf", "task": task_dir, **found}


@pytest.mark.slow
def test_answers_that_pass_become_a_task_to_train_on(setting: dict[str, Any], tmp_path: Path) -> None:
    least = sum(setting["chances"][:2]) / 2  # between the two least sure answers
    output = run(
        "--checkpoint", setting["checkpoint"], "--task", setting["task"], "--pool", setting["root"] / "pool.txt",
        "--max_new_tokens", LONGEST, "--batch", 8, "--out", tmp_path, "--min_log_probability", least,
        "--mesh", "data=1,fsdp=2", devices=2,
    )  # fmt: skip
    written = load_task(tmp_path / "Shop_Pseudo/tasks/EN-Shop_Pseudo-CLS-mood")
    rows = read_rows(written, "train")
    provenance = json.loads((written.path / "provenance.json").read_text())
    assert " in float32 (the checkpoint's own); 2 x cpu, mesh data=1 fsdp=2 tensor=1" in output.splitlines()[0]
    assert "no official evaluation tasks are installed, so no text was compared with them" in output
    assert (provenance["weights"], provenance["dtype"]) == (setting["weights"], "float32")
    assert provenance["texts"] == 12
    assert provenance["kept"] == len(rows) == len(setting["chances"]) - 1
    assert sorted(provenance["mean_log_probabilities"]) == pytest.approx(setting["chances"][1:], abs=1e-3)
    assert provenance["dropped"]["log-probability"] == 1
    assert provenance["kept"] + sum(provenance["dropped"].values()) == 12
    assert f"{len(rows)} of 12 texts labelled ({provenance['acceptance_rate']:.1%})" in output
    assert not (tmp_path / "answers.partial.jsonl").exists()
    data = DataConfig(mixture="folder", tasks_dir=str(tmp_path))
    (shard,) = make.shards(choose(data))
    made = [row for split, row in make.make_rows(choose(data), shard, BuildStats(), {}) if split == "train"]
    assert {row["task"] for row in made} == {written.name}


@pytest.mark.slow
def test_an_answer_may_end_with_any_id_that_ends_one(setting: dict[str, Any], tmp_path: Path) -> None:
    """Chat models name two ends, and the one that they say need not be the tokenizer's."""
    checkpoint = shutil.copytree(setting["checkpoint"], tmp_path / "hf")
    settings = checkpoint / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "eos_token": "<pad>"}))
    ends = load_tokenizer(setting["checkpoint"]).eos_id, load_tokenizer(checkpoint).eos_id
    (checkpoint / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    assert load_tokenizer(checkpoint).stop_ids == ends[::-1]
    run(
        "--checkpoint", checkpoint, "--task", setting["task"], "--pool", setting["root"] / "pool.txt",
        "--max_new_tokens", LONGEST, "--batch", 8, "--out", tmp_path, "--min_log_probability", -100,
    )  # fmt: skip
    (path,) = tmp_path.glob("*/tasks/*/provenance.json")
    found = json.loads(path.read_text())["mean_log_probabilities"]
    assert sorted(found) == pytest.approx(setting["chances"], abs=1e-3)


def test_errors_are_one_line(setting: dict[str, Any], tmp_path: Path) -> None:
    flags = ("--checkpoint", setting["checkpoint"], "--out", tmp_path)
    assert "neither a file with one text per line" in run(
        *flags, "--task", setting["task"], "--pool", tmp_path / "no", rc=66
    )
    assert "did you mean" in run(*flags, "--task", "EN-Sentences-NER-recognitio", rc=2)
    given = ("--task", setting["task"], "--pool", setting["root"] / "pool.txt")
    assert "dtype 'float16' is none of" in run(*flags, *given, "--dtype", "float16", rc=2)
    assert not list(tmp_path.iterdir())
