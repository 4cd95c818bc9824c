"""Decodes and scores tasks: `python -m ecomgpt_jax.evaluate --checkpoint C --tasks DIR --out O`.

C is a training workdir, a step directory, a Hugging Face directory or `owner/name@revision`. O receives `predictions/`,
`scores.json`, `report.md` and `report.html`. Start the same command again and finished tasks are not decoded again.
"""

from pathlib import Path

import jax
from absl import flags
from etils import epath

from ecomgpt_jax import cli
from ecomgpt_jax.config import FROZEN, Config, DataConfig, EvalConfig, parse_mesh, resolve
from ecomgpt_jax.data.tokenizer import check_vocabulary, load_tokenizer
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.evaluation.harness import evaluate_tasks
from ecomgpt_jax.evaluation.protocol import find_tasks_dir
from ecomgpt_jax.evaluation.scores import MEASURES, average
from ecomgpt_jax.files import check_output, read_json
from ecomgpt_jax.instruct.task_folder import load_tasks
from ecomgpt_jax.model import loading
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.parallel.processes import enable_compilation_cache

_CHECKPOINT = flags.DEFINE_string("checkpoint", "", "workdir, step or Hugging Face directory, or owner/name@revision")
_TASKS = flags.DEFINE_string("tasks", "", "folder of tasks; default $ECOMGPT_EVAL")
_OUT = flags.DEFINE_string("out", "", "folder for predictions, scores.json and the report")
_ONLY = flags.DEFINE_list("only", [], "names of the tasks to evaluate; default all")
_LIMIT = flags.DEFINE_integer("limit", 0, "only the first rows of each task; 0 = all", lower_bound=0)
_BATCH = flags.DEFINE_integer("batch", EvalConfig.batch, "prompts decoded together", lower_bound=1)
_MAX_NEW_TOKENS = flags.DEFINE_integer("max_new_tokens", EvalConfig.max_new_tokens, "longest answer", lower_bound=1)
_ANSWER_LOSS = flags.DEFINE_bool("answer_loss", False, "also the loss of the right answers, row by row")
_PROTOCOL = flags.DEFINE_string("protocol", FROZEN, "greedy: fixed candidates; released:SEED: drawn as the authors do")
_CACHE_DIR = flags.DEFINE_string("cache_dir", DataConfig.cache_dir, "folder that compiled programs are kept in")
_NUM_BEAMS = flags.DEFINE_integer("num_beams", EvalConfig.num_beams, "beams; 1 = greedy", lower_bound=1)
_DTYPE = flags.DEFINE_string("dtype", EvalConfig.dtype, "float32 or bfloat16; default the checkpoint's own")
_MESH = flags.DEFINE_string("mesh", EvalConfig.mesh, "devices, such as data=1,fsdp=8; default all along data")


def main(arguments: list[str]) -> None:
    """Runs the command; see the module's docstring."""
    if arguments:
        raise ConfigError(f"unexpected argument {arguments[0]!r}; use --checkpoint, --tasks and --out")
    for flag in (_CHECKPOINT, _OUT):
        if not flag.value:
            raise ConfigError(f"--{flag.name} is missing; evaluate --checkpoint C --tasks DIR --out O")
    settings = EvalConfig(
        tasks_dir=_TASKS.value, limit=_LIMIT.value, batch=_BATCH.value, max_new_tokens=_MAX_NEW_TOKENS.value,
        num_beams=_NUM_BEAMS.value, protocol=_PROTOCOL.value, answer_loss=_ANSWER_LOSS.value,
        dtype=_DTYPE.value, mesh=_MESH.value,
    )  # fmt: skip
    resolve(Config(eval=settings))
    tasks_dir = find_tasks_dir(settings)
    only = _ONLY.value or None
    load_tasks(tasks_dir, only)  # a wrong folder is told before minutes of loading
    mesh = make_mesh(parse_mesh(settings.mesh))
    if jax.process_index() == 0:
        check_output(Path(_OUT.value) / "scores.json")
    enable_compilation_cache(Path(_CACHE_DIR.value).expanduser() / "compiled")
    found = loading.find_checkpoint(_CHECKPOINT.value, settings.dtype)
    tokenizer = load_tokenizer(loading.tokenizer_directory(found.directory))
    check_vocabulary(tokenizer, found.model.vocab_size)
    print(loading.describe(found, mesh), flush=True)
    scores = evaluate_tasks(
        loading.load_params(found, mesh), found.model, tokenizer, tasks_dir, _OUT.value, settings, mesh, only,
        loading.weights_fingerprint(found), _trained_on(found.directory),
    )  # fmt: skip
    entries = list(scores["tasks"].values())
    for title, kind, name in MEASURES:
        print(f"{title}, average of {len(entries)} tasks: {average(entries, kind, name):.4f}")
    if _ANSWER_LOSS.value:
        loss = sum(entry["answer_loss"] for entry in entries) / len(entries)
        print(f"Loss of right answers, average of {len(entries)} tasks: {loss:.4f} nats a token")
    print(f"report: {Path(_OUT.value) / 'report.html'}", flush=True)


def _trained_on(checkpoint: epath.Path) -> list[str]:
    """Returns the names of the tasks that a workdir's run was trained on; none where a checkpoint does not say."""
    for folder in (checkpoint, checkpoint.absolute().parent.parent):
        if (folder / "trained_on.json").is_file():
            return read_json(folder / "trained_on.json")
    return []


if __name__ == "__main__":
    cli.run(main)
