"""Rebuilds `configs/nano` and `configs/nano_base`: training to copy, tuning, evaluation, weights, cards and logs.

    ECOMGPT_SOURCES=DIR ECOMGPT_EVAL=DIR python scripts/publish_nano.py --folder configs/nano --work runs

Half an hour on two CPU cores. It reads only sources whose licence allows redistribution, and the embedded catalogue.
The base is trained to copy and not on tasks. Besides the tuned weights in bfloat16 it writes `training.json` (loss
curves and cost), `evaluation.json` (scores of the official tasks before and after tuning, and of the baselines) and
`losses.json` (the loss of right answers, by family, on rows of trained tasks and on held-out tasks). The same command
continues an interrupted run.
"""

import argparse
import collections
import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import benchmark

from ecomgpt_jax import config as config_lib
from ecomgpt_jax.config import DataConfig, EvalConfig, MeshConfig
from ecomgpt_jax.data.tokenizer import Tokenizer, load_tokenizer
from ecomgpt_jax.evaluation.baselines import BASELINES
from ecomgpt_jax.evaluation.harness import answer_losses
from ecomgpt_jax.evaluation.protocol import build_prompts
from ecomgpt_jax.files import read_json, read_text, write_json, write_text
from ecomgpt_jax.instruct import ecom_instruct
from ecomgpt_jax.instruct.task_folder import load_tasks
from ecomgpt_jax.model.loading import find_checkpoint, load_params, tokenizer_directory
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training.progress import read_metrics

CONFIG = "configs/ecom_base.py:nano"
STAGES = ("repeat", "few")
OPEN = ("--config.data.mixture=all", "--config.data.licences=redistributable")
ROWS_A_FAMILY = 60  # rows of each language for the losses
BASE_CARD = """
## What it is for

A start for small runs: `scripts/quickstart.sh` tunes it. It was trained to repeat a short text from its prompt, and on
no task. `scripts/publish_nano.py` rebuilds it, together with the tuned model in `configs/nano`.
"""
UNCUT = 10**6  # tokens; more than any answer has


def command(module: str, *arguments: str) -> dict[str, float]:
    """Runs a command of the package; returns its cost."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", f"ecomgpt_jax.{module}", *arguments], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_seconds": round(time.monotonic() - began, 1), "cpu_seconds": round(cpu, 1)}


def training_log(workdir: Path, points: int = 60) -> dict[str, object]:
    """Returns the run's size and about `points` lines of its curve."""
    lines = [line for line in read_metrics(workdir / "metrics.jsonl") if "train/loss" in line]
    kept = lines[:: max(1, len(lines) // points)]
    names = {"step": "step", "loss": "train/loss", "learning_rate": "train/learning_rate"}
    return {
        "config": read_json(workdir / "config.json")["name"],
        "steps": lines[-1]["step"],
        "tokens": round(sum(line["train/tokens"] for line in lines)),
        "targets": round(sum(line["train/targets"] for line in lines)),
        "curve": [{name: line[key] for name, key in names.items()} for line in kept],
    }


def evaluation_log(workdir: Path) -> dict[str, Any]:
    """Returns protocol, averages and the corrected scores of each task, before and after tuning."""
    before, after = (read_json(workdir / "evaluation" / name / "scores.json") for name in ("before", "after"))
    tasks = {
        name: {
            "rows": entry["rows"],
            "before": before["tasks"][name]["corrected"],
            "after": entry["corrected"],
            "baselines": {each: scores["corrected"]["score"] for each, scores in entry["baselines"].items()},
        }
        for name, entry in after["tasks"].items()
    }
    averages = {"before": before["averages"], "after": after["averages"]}
    return {"protocol": after["protocol"], "averages": averages, "tasks": tasks}


def limits(evaluation: dict[str, Any]) -> str:
    """Returns the model card's last section: the use of the weights, from the scores of `evaluation_log`."""
    before, after = (evaluation["averages"][name]["All tasks"]["corrected"]["score"] for name in ("before", "after"))
    tasks = evaluation["tasks"].values()
    value, best = max((sum(task["baselines"][name] for task in tasks) / len(tasks), name) for name in BASELINES)
    verdict = "above" if after > value else "below"
    return (
        "\n## What it is for\n\n"
        "Trying the commands of this repository, and a start for small runs. Average of official tasks, "
        f"{evaluation['protocol']['limit']} rows each: {before:.3f} before tuning, {after:.3f} after. "
        f"That is {verdict} `{best}`, the best of three baselines that need no model ({value:.3f}). "
        "`training.json`, `evaluation.json` and `losses.json` record its training and results; "
        "`scripts/publish_nano.py` rebuilds it.\n"
    )


def loss_log(checkpoints: dict[str, Path], data: DataConfig, tasks_dir: str) -> dict[str, object]:
    """Returns the mean loss of right answers per token, for each checkpoint, family and kind of row."""
    groups: dict[str, list[tuple[str, str]]] = collections.defaultdict(list)
    for row in ecom_instruct.open_split(ecom_instruct.build(data).directory, "test"):
        groups[f"{row['family']} {row['language']}, trained tasks"].append((row["prompt"], row["response"]))
    for task in load_tasks(tasks_dir):
        built = build_prompts(task, ROWS_A_FAMILY)
        groups[f"{task.family} {task.language}, held-out tasks"] += zip(built.prompts, built.golds, strict=True)
    chosen = {name: random.Random(0).sample(rows, min(ROWS_A_FAMILY, len(rows))) for name, rows in groups.items()}
    losses: dict[str, dict[str, float]] = {name: {"rows": len(rows)} for name, rows in sorted(chosen.items())}
    for label, checkpoint in checkpoints.items():
        tokenizer: Tokenizer = load_tokenizer(tokenizer_directory(checkpoint))
        found = find_checkpoint(checkpoint)
        params, model = load_params(found, make_mesh(MeshConfig())), found.model
        for name, rows in losses.items():
            prompts, answers = zip(*chosen[name], strict=True)
            found = answer_losses(params, model, tokenizer, prompts, answers, EvalConfig(max_new_tokens=UNCUT))
            rows[label] = round(sum(found) / len(found), 3)
    return losses


def main() -> None:
    """Runs everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder",
        type=Path,
        required=True,
        help="folder for tuned weights, card and logs, and with _base appended for the base; must not exist",
    )
    parser.add_argument("--work", type=Path, default=Path("runs"), help="folder of the runs")
    options, further = parser.parse_known_args()
    os.environ.update(MALLOC_MMAP_THRESHOLD_="1073741824", MALLOC_TRIM_THRESHOLD_="4294967296")
    runs, costs = {stage: options.work / f"nano_{stage}" for stage in STAGES}, {}
    start: tuple[str, ...] = ()
    for stage, run in runs.items():
        costs[stage] = command("train", "--config", f"{CONFIG},{stage}", *OPEN, *start, f"--workdir={run}", *further)
        start = (f"--config.model.init_from={run}",)
    base, tuned = runs[STAGES[0]], runs[STAGES[-1]]
    base_folder = options.folder.with_name(f"{options.folder.name}_base")
    for run, folder in ((base, base_folder), (tuned, options.folder)):
        command("convert", "--from", str(run), "--to", str(folder), "--format", "hf", "--dtype", "bfloat16")
    write_text(base_folder / "README.md", read_text(base_folder / "README.md") + BASE_CARD)
    logs = {stage: {**training_log(run), **costs[stage]} for stage, run in runs.items()}
    write_json(
        options.folder / "training.json", {"date": time.strftime("%Y-%m-%d"), "hardware": benchmark.machine(), **logs}
    )
    evaluation, card = evaluation_log(tuned), options.folder / "README.md"
    write_json(options.folder / "evaluation.json", evaluation)
    write_text(card, read_text(card) + limits(evaluation))
    data = config_lib.from_dict(read_json(tuned / "config.json")).data
    losses = loss_log({"before": base, "after": tuned}, data, os.environ["ECOMGPT_EVAL"])
    write_json(options.folder / "losses.json", losses)
    print(json.dumps(losses, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
