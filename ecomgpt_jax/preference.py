"""Human evaluation of two sets of predictions.

Make the sheets: `python -m ecomgpt_jax.preference --make A B --tasks DIR --rows 20 --annotators 3 --out STUDY`
Read them back: `python -m ecomgpt_jax.preference --judgements FILE ... --key STUDY/key.json --out result.json`

A and B are output folders of `evaluate`, or folders of <task>.jsonl. STUDY receives `sheets/annotator-<k>.html`, an
offline page per annotator, and `key.json`, which records whose answer is on which side: do not show it to annotators.
If a folder has a `scores.json`, only its tasks are used. Reading back writes `result.json` and its tables, `result.md`.
"""

from pathlib import Path
from typing import Any

from absl import flags

from ecomgpt_jax import cli
from ecomgpt_jax.config import DEFAULT_PROTOCOL, EvalConfig
from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError
from ecomgpt_jax.evaluation.judging_page import render_sheet
from ecomgpt_jax.evaluation.page import render_markdown
from ecomgpt_jax.evaluation.preference import (
    OUTCOMES,
    make_study,
    preference_sections,
    read_judgements,
    read_key,
    summarise,
)
from ecomgpt_jax.evaluation.protocol import TaskPrompts, build_prompts, find_tasks_dir
from ecomgpt_jax.evaluation.scores import read_scores, task_predictions
from ecomgpt_jax.files import read_json_lines, write_json, write_text
from ecomgpt_jax.instruct.task_folder import load_tested

_MAKE = flags.DEFINE_bool("make", False, "make sheets from the two folders given")
_TASKS = flags.DEFINE_string("tasks", "", "folder of tasks; default $ECOMGPT_EVAL")
_ROWS = flags.DEFINE_integer("rows", 20, "rows drawn from each task", lower_bound=1)
_ANNOTATORS = flags.DEFINE_integer("annotators", 2, "how many sheets", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "seed of rows, orders and sides", lower_bound=0)
_JUDGEMENTS = flags.DEFINE_string("judgements", "", "the files that annotators saved; more may follow")
_KEY = flags.DEFINE_string("key", "", "key.json of the study")
_OUT = flags.DEFINE_string("out", "", "folder for the sheets, or file for the result")


def main(arguments: list[str]) -> None:
    """Runs the command; see the module's docstring."""
    if not _OUT.value:
        raise ConfigError("--out is missing; preference --make A B --out STUDY, or --judgements FILES --key F --out F")
    if _MAKE.value == bool(_JUDGEMENTS.value):
        raise ConfigError("give either --make A B or --judgements FILES --key FILE")
    if _MAKE.value:
        cli.refuse_idle("with --make", _KEY)
        if len(arguments) != 2:
            raise ConfigError(f"{len(arguments)} folders given, --make needs two: A B")
        _make(*map(Path, arguments))
    else:
        cli.refuse_idle("without --make", _TASKS, _ROWS, _ANNOTATORS, _SEED)
        if not _KEY.value:
            raise ConfigError("--key is missing; it is the key.json that --make wrote")
        _read([_JUDGEMENTS.value, *arguments])


def _make(first: Path, second: Path) -> None:
    out = Path(_OUT.value)
    if (out / "key.json").exists():
        raise ConfigError(f"{out}: holds a study already; its sheets may be in use, so name another folder")
    folders = [_predictions(first), _predictions(second)]
    files = [folder / "scores.json" for folder in (first, second)]
    scores = [read_scores(path) if path.is_file() else {} for path in files]
    protocols = [_protocol(each) for each in scores]
    if protocols[0] != protocols[1]:
        raise DataError(f"{first} and {second} answer other prompts: protocol {protocols[0]} and {protocols[1]}")
    tasks_dir = find_tasks_dir(EvalConfig(tasks_dir=_TASKS.value))
    prompt_sets: list[TaskPrompts] = []
    for task in load_tested(tasks_dir):
        paths = [folder / f"{task.name}.jsonl" for folder in folders]
        # The folder may contain files of earlier evaluations, whose tasks are not in scores.json.
        scored = all(task.name in each["tasks"] for each in scores if each)
        if scored and all(path.is_file() for path in paths):
            prompt_sets.append(build_prompts(task, sum(1 for _ in read_json_lines(paths[0])), protocols[0]))
        else:
            print(f"left out: {task.name} (not in both)")
    if not prompt_sets:
        raise MissingInputError(f"{first} and {second}: no <task>.jsonl in both for any task of {tasks_dir}")
    a, b = (
        {prompt_set.task.name: task_predictions(folder, prompt_set) for prompt_set in prompt_sets} for folder in folders
    )
    sheets, key = make_study(prompt_sets, a, b, _ROWS.value, _ANNOTATORS.value, _SEED.value)
    for sheet in sheets:
        write_text(out / "sheets" / f"{sheet['annotator']}.html", render_sheet(sheet))
    write_json(out / "key.json", {"a": str(first), "b": str(second), "seed": _SEED.value, **key})
    print(f"{len(key['items'])} items for each of {len(sheets)} annotators: {out / 'sheets'}")
    print(f"{sum(key['identical'].values())} drawn rows have the same answer twice; they count as ties")


def _predictions(folder: Path) -> Path:
    if not folder.is_dir():
        raise MissingInputError(f"{folder}: no such folder of predictions")
    inner = folder / "predictions"
    return inner if inner.is_dir() else folder


def _protocol(scores: dict[str, Any]) -> str:
    """Returns the protocol, which determines the candidates; folders with predictions only have the fixed ones."""
    name = str(scores["protocol"].get("name")) if scores else DEFAULT_PROTOCOL
    if name.endswith(":letters"):
        return f"{DEFAULT_PROTOCOL}:letters"
    return name if name.startswith("released:") else DEFAULT_PROTOCOL


def _read(paths: list[str]) -> None:
    out = Path(_OUT.value)
    if not out.name:
        raise ConfigError(f"--out={_OUT.value}: name the file of the result, such as result.json")
    key = read_key(_KEY.value)
    result = summarise(key, *read_judgements(paths, key))
    result = {"a": key.get("a"), "b": key.get("b"), **result}
    stem = out.with_suffix("") if out.suffix in (".json", ".md") else out  # ".2" of "v1.2" is not a suffix
    write_json(f"{stem}.json", result)
    write_text(f"{stem}.md", render_markdown("Human preference", preference_sections(result)))
    for name, entry in [*result["tasks"].items(), ("all", result["all"])]:
        if entry:
            shares = "  ".join(f"{outcome} {entry[outcome] / entry['items']:.1%}" for outcome in OUTCOMES)
            print(f"{name:56} {shares}")


if __name__ == "__main__":
    cli.run(main)
