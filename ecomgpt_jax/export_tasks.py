"""Writes tasks for lm-evaluation-harness: `python -m ecomgpt_jax.export_tasks --tasks DIR --out O`.

O receives a YAML file per task with its rendered rows, and the group `ecomgpt` (the paper's tasks if there are any,
else all). Then `lm_eval --include_path O --tasks ecomgpt --model hf --model_args pretrained=...` runs them.
"""

from pathlib import Path

from absl import flags

from ecomgpt_jax import cli
from ecomgpt_jax.config import DEFAULT_PROTOCOL, Config, EvalConfig, resolve
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.evaluation.lm_eval_export import export_tasks
from ecomgpt_jax.evaluation.protocol import build_prompts, find_tasks_dir
from ecomgpt_jax.evaluation.report import PAPER_ROUGE_L
from ecomgpt_jax.instruct.task_folder import load_tested

_TASKS = flags.DEFINE_string("tasks", "", "folder of tasks; default $ECOMGPT_EVAL")
_OUT = flags.DEFINE_string("out", "", "folder for the YAML files and their rows")
_LIMIT = flags.DEFINE_integer("limit", 0, "only the first rows of each task; 0 = all", lower_bound=0)
_PROTOCOL = flags.DEFINE_string(
    "protocol", DEFAULT_PROTOCOL, "greedy (fixed candidates), greedy:letters (letters as labels), released:SEED (drawn)"
)


def main(arguments: list[str]) -> None:
    """Runs the command; see the module's docstring."""
    cli.check_usage("export_tasks --tasks DIR --out O", arguments, _OUT)
    settings = resolve(Config(eval=EvalConfig(tasks_dir=_TASKS.value, protocol=_PROTOCOL.value))).eval
    if settings.protocol.startswith(("constrained", "likelihood")):
        raise ConfigError(f"--protocol={settings.protocol}: lm_eval decides how answers are chosen; use greedy")
    tasks = load_tested(find_tasks_dir(settings))
    parts = [build_prompts(task, _LIMIT.value, settings.protocol) for task in tasks]
    names = [task.name for task in tasks]
    grouped = [name for name in names if name in PAPER_ROUGE_L] or names
    path = export_tasks(parts, Path(_OUT.value), grouped)
    print(f"{len(parts)} tasks, {len(grouped)} in the group: {path}")


if __name__ == "__main__":
    cli.run(main)
