"""Runs an experiment: `python -m ecomgpt_jax.ablate --config configs/ablations.py:cot --out DIR`.

Every cell is one run of `train` and one of `evaluate` from the same start, in its own folder with command, log and
cost. Experiments with the same start train it once if they share the folder `--starts`, even when they run
concurrently. The same command continues an interrupted experiment: finished cells are kept, an interrupted one resumes
from its checkpoint. DIR receives `results.json`, `table.md` and `figure.png`, rewritten after each cell.

`python -m ecomgpt_jax.ablate --interpolate BASE:TUNED --weights 0,0.25,0.5,0.75,1 --out DIR` scores the weights between
two checkpoints (WiSE-FT, see `convert --interpolate`): each cell writes the mixture to a directory tensor by tensor,
evaluates it and removes it.
"""

import dataclasses
import datetime
import functools
import os
import platform
import re
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tqdm
from absl import flags
from ml_collections import config_flags

from ecomgpt_jax import cli
from ecomgpt_jax.config import EvalConfig
from ecomgpt_jax.errors import ConfigError, EcomError
from ecomgpt_jax.evaluation import ablation, figure
from ecomgpt_jax.evaluation.corrected_scores import score_rows
from ecomgpt_jax.evaluation.protocol import TaskPrompts, build_prompts, find_tasks_dir
from ecomgpt_jax.evaluation.scores import read_answer_losses, task_predictions
from ecomgpt_jax.experiment import Cell, Experiment, Variant, cells
from ecomgpt_jax.files import read_json, write_json, write_text
from ecomgpt_jax.instruct.task_folder import load_tested
from ecomgpt_jax.waiting import file_lock, only_one

_CONFIG = config_flags.DEFINE_config_file("config", None, "an experiment: configs/ablations.py:<name>")
_OUT = flags.DEFINE_string("out", "", "folder for the cells, results.json, table.md and figure.png")
_TASKS = flags.DEFINE_string("tasks", "", "folder of evaluation tasks; default $ECOMGPT_EVAL")
_LIMIT = flags.DEFINE_integer("limit", None, "evaluation rows per task; default that of the experiment", lower_bound=1)
_STARTS = flags.DEFINE_string(
    "starts", "", "folder of trained starts, to share between experiments; default OUT/starts"
)
_SEEDS = flags.DEFINE_list("seeds", None, "seeds to run; default those of the experiment")
_INTERPOLATE = flags.DEFINE_string("interpolate", "", "BASE:TUNED, instead of --config: score the weights between them")
_WEIGHTS = flags.DEFINE_list("weights", "0,0.25,0.5,0.75,1", "with --interpolate: shares of TUNED, 0 to 1")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "with --interpolate: of the mixed weights")

START = "start"  # name of the untuned start in the results
_WEIGHT = "weight"


def main(arguments: list[str]) -> None:
    """Runs the command; see the module's docstring."""
    experiment = _curve() if _INTERPOLATE.value else _experiment()
    cli.check_usage("ablate --config configs/ablations.py:cot --out DIR", arguments, _OUT)
    out, tasks_dir = Path(_OUT.value).absolute(), Path(find_tasks_dir(EvalConfig(tasks_dir=_TASKS.value))).absolute()
    prompt_sets = [build_prompts(task, experiment.limit) for task in load_tested(tasks_dir)]
    runs = cells(experiment)
    started = Path(_STARTS.value).absolute() if _STARTS.value else out / "starts"
    chains = {cell.start[:count] for cell in runs for count in range(1, len(cell.start) + 1)}
    starts = {chain: started / _folder(chain[-1]) for chain in sorted(chains)}  # a stage starts from the previous one
    with (
        only_one(out, "experiment", ConfigError, "use another --out"),
        tqdm.tqdm(total=len(starts) + len(runs), desc=experiment.name, unit="run", disable=None) as bar,
    ):
        for chain, folder in starts.items():
            bar.set_postfix_str(chain[-1])
            _run(folder, _train(chain[-1], (), starts.get(chain[:-1])), tasks_dir, experiment.limit)
            bar.update()
        ends = _ends(out, _INTERPOLATE.value) if _INTERPOLATE.value else ""
        finished: list[Cell] = []
        scored: dict[Path, tuple[dict[str, np.ndarray], ...]] = {}
        for cell in runs:
            bar.set_postfix_str(cell.folder)
            command = _mix(ends, cell) if ends else _train(cell.config, cell.overrides, starts.get(cell.start))
            _run(out / "cells" / cell.folder, command, tasks_dir, experiment.limit)
            finished.append(cell)
            bar.update()
            _write(out, experiment, finished, starts, prompt_sets, scored)
    print((out / "table.md").read_text(encoding="utf-8"))
    print(f"figure: {out / 'figure.png'}", flush=True)


def _curve() -> Experiment:
    """Returns the experiment of `--interpolate`: one variant per weight; the weight is its factor."""
    cli.refuse_idle("with --interpolate", _CONFIG, _SEEDS, _STARTS)
    if _INTERPOLATE.value.count(":") != 1:
        raise ConfigError(f"--interpolate={_INTERPOLATE.value}: give BASE:TUNED and --weights")
    try:
        weights = [float(text) for text in _WEIGHTS.value]
    except ValueError:
        weights = []
    if not weights or not all(0 <= weight <= 1 for weight in weights):
        raise ConfigError(f"--weights={','.join(_WEIGHTS.value)}: give numbers from 0 to 1")
    return Experiment(
        name="interpolation",
        question=f"How do scores change from the first of {_INTERPOLATE.value} (0) to the second (1)?",
        config="",
        variants=tuple(Variant(f"weight-{weight:g}", factors=((_WEIGHT, weight),)) for weight in weights),
        seeds=(0,),
        limit=_LIMIT.value or 0,
        caveats=(f"Each variant is (1 - weight) x base + weight x tuned, in {_DTYPE.value}.",),
    )


def _ends(out: Path, sources: str) -> str:
    """Returns BASE:TUNED as Hugging Face directories; any other checkpoint is converted once, adapters merged."""
    ends = []
    for name, source in zip(("base", "tuned"), sources.split(":"), strict=True):
        found, made = Path(source).expanduser().absolute(), out / "ends" / name
        if (found / "config.json").is_file() and (found / "tokenizer.json").is_file():
            made = found
        elif not made.exists():
            made.parent.mkdir(parents=True, exist_ok=True)
            convert = ["-m", "ecomgpt_jax.convert", "--from", source, "--to", str(made), "--format", "hf"]
            _call(convert, out / "ends" / "log.txt", os.environ)
        ends.append(str(made))
    return ":".join(ends)


def _mix(ends: str, cell: Cell) -> list[str]:
    """Returns the arguments that write the weights of a cell of `--interpolate`."""
    weight = cell.variant.removeprefix("weight-")
    return ["-m", "ecomgpt_jax.convert", "--interpolate", f"{ends}:{weight}", "--dtype", _DTYPE.value]


def _experiment() -> Experiment:
    cli.refuse_idle("without --interpolate", _WEIGHTS, _DTYPE)
    experiment = cli.config_value(_CONFIG)
    if not isinstance(experiment, Experiment):
        raise ConfigError("--config is missing or no experiment; try --config configs/ablations.py:cot")
    if _LIMIT.value is not None:
        experiment = dataclasses.replace(experiment, limit=_LIMIT.value)
    if _SEEDS.value is not None:
        if not all(seed.isdecimal() for seed in _SEEDS.value):
            raise ConfigError(f"--seeds={','.join(_SEEDS.value)}: seeds are whole numbers, 0,1,2")
        experiment = dataclasses.replace(experiment, seeds=tuple(int(seed) for seed in _SEEDS.value))
    return experiment


def _folder(config: str) -> str:
    """Returns the folder's name of a start: its config file without directory and ending, and the argument."""
    path, _, argument = config.partition(":")
    return "-".join(filter(None, (Path(path).stem, re.sub(r"[^\w.-]+", "-", argument))))


def _train(config: str, overrides: Sequence[str], start: Path | None) -> list[str]:
    """Returns the arguments of a run that starts from the weights of the run in `start` (None = fresh ones)."""
    started = [f"model.init_from={start / 'run'}"] if start else []
    settings = [f"--config.{override}" for override in (*overrides, *started, "train.final_evaluation=false")]
    return ["-m", "ecomgpt_jax.train", "--config", config, *settings]


def _run(folder: Path, make: Sequence[str], tasks_dir: Path, limit: int) -> None:
    """Trains or mixes one cell and evaluates it, unless an earlier call has done so and written `cost.json`."""
    mixed, checkpoint = "--interpolate" in make, folder / "run"
    folder.mkdir(parents=True, exist_ok=True)
    evaluate = ["-m", "ecomgpt_jax.evaluate", "--answer_loss", "--tasks", str(tasks_dir)]
    evaluate += ["--limit", str(limit)] if limit else []
    commands = {"convert" if mixed else "train": list(make), "evaluate": evaluate}
    known = folder / "command.json"
    with file_lock(folder / ".lock", "another experiment that trains the same start"):
        if known.is_file() and read_json(known) != commands:
            raise ConfigError(f"{folder}: was run with other settings ({known.name} has them); use another folder")
        write_json(known, commands)
        if (folder / "cost.json").is_file():
            return
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        environment = {**os.environ, "ECOMGPT_EVAL": str(tasks_dir)}
        if not mixed or not checkpoint.exists():  # a mixture is written completely or not at all
            _call([*make, "--to" if mixed else "--workdir", str(checkpoint)], folder / "log.txt", environment)
        where = ["--checkpoint", str(checkpoint), "--out", str(folder / "evaluation")]
        _call([*evaluate, *where], folder / "log.txt", environment)
        if mixed:
            shutil.rmtree(checkpoint)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        cost = {"wall_seconds": round(time.monotonic() - began, 1), "cpu_seconds": round(cpu, 1)}
        write_json(folder / "cost.json", cost)


def _call(arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
    """Runs one command to its end.

    Raises:
      EcomError: it failed; the error carries its last line and its exit code.
    """
    command = [sys.executable, *arguments]
    with open(log, "ab") as output:
        output.write(f"$ {shlex.join(['python', *arguments])}\n".encode())
        output.flush()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
        try:
            code = process.wait()
        except BaseException:  # after SIGTERM: the child saves before this process ends
            process.terminate()
            process.wait()
            raise
    if code:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        kinds = {kind.exit_code: kind for kind in EcomError.__subclasses__()}
        last = lines[-1].removeprefix("error: ")
        raise kinds.get(code, EcomError)(f"{log}: {arguments[1]} ended with exit code {code}: {last}")


def _write(
    out: Path,
    experiment: Experiment,
    finished: Sequence[Cell],
    starts: Mapping[tuple[str, ...], Path],
    prompt_sets: Sequence[TaskPrompts],
    scored: dict[Path, tuple[dict[str, np.ndarray], ...]],
) -> None:
    """Writes the results of the finished cells; `scored` caches each run's rows between calls."""
    runs = [(cell.variant, out / "cells" / cell.folder) for cell in finished]
    trained = [(f"{START} {folder.name}", folder) for folder in starts.values()]
    ends = {starts[cell.start] for cell in finished if cell.start}  # only the last stage is used for comparison
    runs += [(name, folder) for name, folder in trained if folder in ends]
    seen = list(dict.fromkeys(name for name, _ in runs))
    for _, folder in runs:
        if folder not in scored:
            scored[folder] = _scores(folder, prompt_sets)
    ratios, losses = (
        {
            prompt_set.task.name: [scored[folder][kind][prompt_set.task.name] for _, folder in runs]
            for prompt_set in prompt_sets
        }
        for kind in (0, 1)
    )
    owners = [seen.index(name) for name, _ in runs]
    languages = sorted({prompt_set.task.language for prompt_set in prompt_sets})
    groups = {
        name: [prompt_set.task.name for prompt_set in prompt_sets if prompt_set.task.language == name]
        for name in languages
    }
    factors = {variant.name: dict(variant.factors) for variant in experiment.variants if variant.factors}
    left_out = {variant.name: variant.left_out for variant in experiment.variants if variant.left_out}
    left_out = {name: ability for name, ability in left_out.items() if name in seen}
    uses = ablation.abilities_of(ratios)
    inputs = {prompt_set.task.name: [row.sentences for row in prompt_set.rows] for prompt_set in prompt_sets}
    curve = {name: of[_WEIGHT] for name, of in factors.items() if _WEIGHT in of and name in seen}
    straight = None if curve else factors
    summary = ablation.summarise(seen, ratios, owners, inputs, straight, groups, left_out, uses, losses)
    baselines = _baselines(runs[0][1])
    costs = [
        {"variant": name, "folder": os.path.relpath(folder, out), **read_json(folder / "cost.json")}
        for name, folder in dict.fromkeys((*runs, *trained))
    ]
    date = datetime.date.today().isoformat()
    described = {"experiment": _described(experiment), "date": date, "hardware": _hardware(), "runs": costs}
    rows = {prompt_set.task.name: len(prompt_set.rows) for prompt_set in prompt_sets}
    write_json(out / "results.json", {**described, "rows": rows, "baselines": baselines, **summary})
    counted = ", ".join(f"{name} {owners.count(index)}" for index, name in enumerate(seen))
    # Wall time counts concurrent runs twice, so CPU time is given too.
    wall, cpu = (sum(cost[f"{kind}_seconds"] for cost in costs) / 3600 for kind in ("wall", "cpu"))
    notes = [
        f"Runs: {counted}; {sum(rows.values()):,} evaluation rows each; {wall:.1f} hours, {cpu:.1f} CPU-hours on "
        f"{_hardware()}, {date}.",
        "Baselines, average: " + ", ".join(f"{name} {100 * value:.1f}" for name, value in baselines.items()) + ".",
        *experiment.caveats,
    ]
    write_text(out / "table.md", ablation.markdown(experiment.name, experiment.question, summary, notes))
    if left_out:
        figure.draw_dependency(out / "figure.png", summary["dependency"], summary["loss"]["dependency"])
    elif curve:
        figure.draw_curve(out / "figure.png", curve, summary)
    else:
        figure.draw_variants(out / "figure.png", experiment.name, summary)


def _scores(folder: Path, prompt_sets: Sequence[TaskPrompts]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns by task the scores of a run's rows ([rows, 2], `score_rows`) and the losses of their answers ([rows])."""
    ratios, losses = {}, {}
    for prompt_set in prompt_sets:
        predictions, task = folder / "evaluation" / "predictions", prompt_set.task
        ratios[task.name] = score_rows(task, prompt_set.rows, task_predictions(predictions, prompt_set))
        losses[task.name] = np.asarray(read_answer_losses(predictions / f"{task.name}.jsonl"))
    return ratios, losses


def _described(experiment: Experiment) -> dict[str, Any]:
    """Returns the experiment as JSON, with paths of config files relative to the working directory."""

    def seen(config: str) -> str:
        path, colon, argument = config.partition(":")
        return f"{os.path.relpath(path)}{colon}{argument}" if path else ""

    def replaced(described: Any, **further: Any) -> Any:
        start = tuple(map(seen, described.start))
        return dataclasses.replace(described, config=seen(described.config), start=start, **further)

    return dataclasses.asdict(replaced(experiment, variants=tuple(map(replaced, experiment.variants))))


def _baselines(folder: Path) -> dict[str, float]:
    """Returns the average corrected score of each baseline, from one run's scores."""
    entries = list(read_json(folder / "evaluation" / "scores.json")["tasks"].values())
    names = entries[0]["baselines"]
    return {
        name: sum(entry["baselines"][name]["corrected"]["score"] for entry in entries) / len(entries) for name in names
    }


@functools.cache
def _hardware() -> str:
    """Returns the accelerator, or the processor and its cores where there is none."""
    code = "import jax; d = jax.devices(); print('' if d[0].platform == 'cpu' else f'{len(d)} x {d[0].device_kind}')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout.strip()
    if found:
        return found
    described = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", described.read_text()) if described.is_file() else None
    return f"{os.cpu_count()} cores of {model[1].strip() if model else platform.processor() or platform.machine()}"


if __name__ == "__main__":
    cli.run(main)
