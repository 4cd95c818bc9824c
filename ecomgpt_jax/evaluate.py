"""Decodes and scores tasks: `python -m ecomgpt_jax.evaluate --checkpoint C --tasks DIR --out O`.

C is a training workdir, a step directory, a Hugging Face directory or `owner/name@revision`. O receives `predictions/`,
`scores.json`, `report.md` and `report.html`. The same command again continues an interrupted evaluation.
"""

from pathlib import Path

import jax
from absl import flags
from etils import epath

from ecomgpt_jax import cli
from ecomgpt_jax.config import DEFAULT_PROTOCOL, Config, DataConfig, EvalConfig, parse_mesh, resolve
from ecomgpt_jax.data.tokenizer import check_vocabulary, load_tokenizer
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.evaluation.harness import evaluate_tasks
from ecomgpt_jax.evaluation.protocol import find_tasks_dir
from ecomgpt_jax.evaluation.report import write_overview
from ecomgpt_jax.evaluation.scores import average, measures
from ecomgpt_jax.files import check_output, read_json
from ecomgpt_jax.instruct.benchmarks import BENCHMARKS, find_benchmark, task_folders
from ecomgpt_jax.instruct.task_folder import load_tested, warn_of_templates
from ecomgpt_jax.model import loading
from ecomgpt_jax.model.content_hash import content_hash
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.parallel.processes import enable_compilation_cache

_CHECKPOINT = flags.DEFINE_string("checkpoint", "", "workdir, step or Hugging Face directory, or owner/name@revision")
_BENCHMARK = flags.DEFINE_string("benchmark", "", "official, ecinstruct, chinese_ecom_qa, shopping_mmlu, or all")
_TASKS = flags.DEFINE_string("tasks", "", "folder of tasks; default $ECOMGPT_EVAL")
_OUT = flags.DEFINE_string("out", "", "folder for predictions, scores.json and the report")
_ONLY = flags.DEFINE_list("only", [], "tasks to evaluate: names or patterns such as EN-*; default all")
_LIMIT = flags.DEFINE_integer("limit", 0, "only the first rows of each task; 0 = all", lower_bound=0)
_BATCH = flags.DEFINE_integer("batch", EvalConfig.batch, "prompts decoded together", lower_bound=1)
_MAX_NEW_TOKENS = flags.DEFINE_integer("max_new_tokens", EvalConfig.max_new_tokens, "longest answer", lower_bound=1)
_ANSWER_LOSS = flags.DEFINE_bool("answer_loss", False, "also the loss of the right answers, per row")
_PROTOCOL = flags.DEFINE_string(
    "protocol", DEFAULT_PROTOCOL, "greedy (fixed candidates), greedy:letters (letters as labels), released:SEED (drawn)"
)
_CACHE_DIR = flags.DEFINE_string("cache_dir", DataConfig.cache_dir, "folder for compiled programs")
_NUM_BEAMS = flags.DEFINE_integer("num_beams", EvalConfig.num_beams, "beams; 1 = greedy", lower_bound=1)
_DTYPE = flags.DEFINE_string("dtype", EvalConfig.dtype, "float32 or bfloat16; default the checkpoint's own")
_ANSWERS = flags.DEFINE_enum("answers", "free", ["free", "constrained", "likelihood"], "how answers are chosen")
_MESH = flags.DEFINE_string("mesh", EvalConfig.mesh, "devices, such as data=1,fsdp=8; default all along data")


def main(arguments: list[str]) -> None:
    """Runs the command; see the module's docstring."""
    cli.check_usage("evaluate --checkpoint C --tasks DIR --out O", arguments, _CHECKPOINT, _OUT)
    settings = EvalConfig(
        tasks_dir=_TASKS.value, limit=_LIMIT.value, batch=_BATCH.value, max_new_tokens=_MAX_NEW_TOKENS.value,
        num_beams=_NUM_BEAMS.value, protocol=_protocol(), answer_loss=_ANSWER_LOSS.value,
        dtype=_DTYPE.value, mesh=_MESH.value,
    )  # fmt: skip
    resolve(Config(eval=settings))
    folders = _task_folders(settings)
    only = _ONLY.value or None
    for tasks_dir in folders.values():
        warn_of_templates(load_tested(tasks_dir, only))  # reports a wrong folder before minutes of loading
    mesh = make_mesh(parse_mesh(settings.mesh))
    enable_compilation_cache(Path(_CACHE_DIR.value).expanduser() / "compiled")
    found = loading.find_checkpoint(_CHECKPOINT.value, settings.dtype)
    tokenizer = load_tokenizer(loading.tokenizer_directory(found.directory))
    check_vocabulary(tokenizer, found.model.vocab_size)
    if jax.process_index() == 0:
        check_output(Path(_OUT.value) / "scores.json")
    print(loading.describe(found, mesh), flush=True)
    params = loading.load_params(found, mesh)
    named = content_hash(params)
    trained_on = _trained_on(found.directory)
    together: dict[str, dict] = {}
    for benchmark, tasks_dir in folders.items():
        out = Path(_OUT.value, benchmark) if len(folders) > 1 else Path(_OUT.value)
        scores = evaluate_tasks(
            params, found.model, tokenizer, tasks_dir, out, settings, mesh, only, named, trained_on
        )  # fmt: skip
        together |= scores["tasks"]
        _print_averages(benchmark, scores["tasks"])
    if len(folders) > 1 and jax.process_index() == 0:
        write_overview(_OUT.value, together)
    print(f"report: {Path(_OUT.value) / 'report.html'}", flush=True)


def _protocol() -> str:
    """Returns the protocol that `--protocol` and `--answers` name.

    Raises:
      ConfigError: they name two.
    """
    answers, (mode, colon, variant) = _ANSWERS.value, _PROTOCOL.value.partition(":")
    if answers == "free":
        return _PROTOCOL.value
    if mode not in (DEFAULT_PROTOCOL, answers):
        raise ConfigError(f"--answers={answers} is a protocol of its own; leave --protocol={_PROTOCOL.value} out")
    return answers + colon + variant


def _task_folders(settings: EvalConfig) -> dict[str, str]:
    """Returns {benchmark: folder of its tasks} for the flags; the key of `--tasks` is "".

    Raises:
      ConfigError: `--benchmark` names no benchmark, or is given together with `--tasks`.
      MissingInputError: its data is not there.
    """
    wanted = _BENCHMARK.value
    if not wanted:
        return {"": find_tasks_dir(settings)}
    if settings.tasks_dir:
        raise ConfigError("--benchmark and --tasks both select tasks; give one of them")
    names = ["official", *BENCHMARKS] if wanted == "all" else [wanted]
    if wanted == "all":
        absent = [name for name in names[1:] if not find_benchmark(name)]
        for name in absent:
            print(f"benchmark {name}: not found and left out; see `python -m ecomgpt_jax.fetch benchmarks`")
        names = [name for name in names if name not in absent]
    return {
        name: find_tasks_dir(settings) if name == "official" else str(task_folders(name, _CACHE_DIR.value))
        for name in names
    }


def _print_averages(benchmark: str, tasks: dict[str, dict]) -> None:
    entries, of = list(tasks.values()), f" of {benchmark}" if benchmark else ""
    for title, kind, name in measures(tasks):
        counted = sum(entry[kind].get(name) is not None for entry in entries)
        if counted:
            print(f"{title}, average of {counted} tasks{of}: {average(entries, kind, name):.4f}")
    if _ANSWER_LOSS.value:
        loss = sum(entry["answer_loss"] for entry in entries) / len(entries)
        print(f"Loss of right answers, average of {len(entries)} tasks{of}: {loss:.4f} nats per token")


def _trained_on(checkpoint: epath.Path) -> list[str]:
    """Returns the names of the tasks that a workdir's run was trained on; none for other checkpoints."""
    for folder in (checkpoint, checkpoint.absolute().parent.parent):
        if (folder / "trained_on.json").is_file():
            return read_json(folder / "trained_on.json")
    return []


if __name__ == "__main__":
    cli.run(main)
