"""Trains a model: `python -m ecomgpt_jax.train --config configs/demo.py --workdir runs/demo`.

Builds (or finds) the data, tokenises and packs it, scores the held-out tasks with the initial weights, trains, scores
them again, and writes the weights in Hugging Face format (`hf/`) and `report/index.html`. The same command continues an
interrupted run. `--dry_run` builds the data too, prints config, data and plan, and stops there.
"""

import contextlib
import json
import logging
import shlex
import shutil
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from ecomgpt_jax import cli
from ecomgpt_jax import config as config_lib
from ecomgpt_jax.config import Config, parse_mesh
from ecomgpt_jax.data.pipeline import make_rows
from ecomgpt_jax.data.token_store import tokenize
from ecomgpt_jax.data.tokenizer import Tokenizer, check_vocabulary, find_tokenizer
from ecomgpt_jax.errors import ConfigError, StorageError
from ecomgpt_jax.evaluation import harness, report, terminal
from ecomgpt_jax.files import write_json
from ecomgpt_jax.instruct import ecom_instruct
from ecomgpt_jax.instruct.read import licence_of
from ecomgpt_jax.model import hf_weights, loading
from ecomgpt_jax.model.content_hash import content_hash
from ecomgpt_jax.model.model_card import model_card
from ecomgpt_jax.model.parameters import Params, param_shardings, split_layers
from ecomgpt_jax.parallel import processes
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.redaction import mask_secrets
from ecomgpt_jax.training import loop, resume, run_summary, validation
from ecomgpt_jax.training.initial_weights import fit_model_to_weights, load_initial, write_start
from ecomgpt_jax.training.progress import read_metrics
from ecomgpt_jax.waiting import file_lock, only_one

_CONFIG = config_flags.DEFINE_config_file("config", None, "a file of configs/, with an optional :argument")
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; default runs/<config name>")
_RESUME = flags.DEFINE_enum(
    "resume", "auto", ["auto", "never", "require"],
    "auto: continue a saved run, if any; require: fail without one; never: start a new run",
)  # fmt: skip
_ALLOW_DRIFT = flags.DEFINE_list("allow_drift", [], "settings that may differ from the checkpoint's")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "print config, data table and plan; train nothing, write no workdir")
_COORDINATOR = flags.DEFINE_string("coordinator", "", "several processes: host:port of process 0; auto on a TPU slice")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "several processes: how many")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "several processes: which one this is, from 0")
_JOIN_TIMEOUT = flags.DEFINE_integer("join_timeout", 300, "seconds to wait for the other processes", lower_bound=1)
_SHORT_FLAGS = {  # by config field
    "data.chain_of_task": flags.DEFINE_bool("cot", None, "train on Chain-of-Task tasks"),
    "data.num_tasks": flags.DEFINE_integer("num_tasks", None, "number of training tasks"),
    "data.instances_per_task": flags.DEFINE_integer("instances_per_task", None, "instances per task"),
    "data.languages": flags.DEFINE_list("languages", None, "languages of the tasks, en,zh"),
    "data.prompt_language": flags.DEFINE_string("prompt_language", None, "en, zh, native or mixed"),
    "data.packing": flags.DEFINE_bool("packing", None, "pack several instances into a row"),
    "model.size": flags.DEFINE_string("model_size", None, "560m, 1b1, 1b7, 3b or 7b1"),
}


def _apply_short_flags(config: Config) -> Config:
    """Sets the config field of each short flag that was given."""
    for path, flag in _SHORT_FLAGS.items():
        if flag.value is not None:
            section, field = path.split(".")
            value = tuple(flag.value) if isinstance(flag.value, list) else flag.value
            setattr(getattr(config, section), field, value)
    return config


def _tasks_dir(config: Config) -> Path | None:
    """Returns the folder of evaluation tasks; None for the held-out ones of the synthetic mixture."""
    wanted = config.train.final_evaluation or config.eval.every
    if not wanted or (config.data.mixture == "synthetic" and not config.eval.tasks_dir):
        return None
    return Path(harness.find_tasks_dir(config.eval))


def _find_tokenizer(config: Config, weights: loading.Checkpoint | None, built: ecom_instruct.Built) -> Tokenizer:
    directory = config.model.tokenizer
    if not directory and weights:
        directory = loading.tokenizer_directory(weights.directory)
    return find_tokenizer(directory, ecom_instruct.open_split(built.directory, "train"), built.fingerprint, config.data)


def main(arguments: list[str]) -> None:
    """Runs the whole path; see the module's docstring."""
    cli.check_usage("settings are --config.<field>=value", arguments)
    with contextlib.ExitStack() as held:
        _run(held)


def _run(held: contextlib.ExitStack) -> None:
    """Runs the whole path; `held` gets the lock of the workdir."""
    asked = _apply_short_flags(cli.load_config(_CONFIG))
    config = config_lib.resolve(asked)
    if not _COORDINATOR.value:
        cli.refuse_idle("without --coordinator", _JOIN_TIMEOUT)
    resume.check_drift_names(_ALLOW_DRIFT.value)
    if _RESUME.value == "never":
        cli.refuse_idle("with --resume=never, which compares with no checkpoint", _ALLOW_DRIFT)
    processes.init_distributed(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value, _JOIN_TIMEOUT.value)
    cache, first = Path(config.data.cache_dir).expanduser(), jax.process_index() == 0
    processes.enable_compilation_cache(cache / "compiled")
    if "://" in (_WORKDIR.value or ""):
        raise ConfigError(f"--workdir {_WORKDIR.value}: is not a folder; mount the bucket as tpu_setup does (gcsfuse)")
    workdir = Path(_WORKDIR.value or f"runs/{config.name}").expanduser().absolute()
    if _RESUME.value == "never":
        resume.check_inputs_stay(workdir, config.model)

    # Weights (found, not loaded yet), devices, evaluation tasks: anything missing is reported before the data is built.
    init_from = config.model.init_from
    weights = fit_model_to_weights(config, workdir, _RESUME.value)
    trained_length = max(config.data.length, loading.trained_length(weights) if weights else 0)
    mesh = make_mesh(config.mesh)
    eval_mesh = make_mesh(parse_mesh(config.eval.mesh)) if config.eval.mesh else mesh
    devices = run_summary.device_line(config, mesh)
    eval_model = loading.for_use(config.model, config.eval.dtype)
    tasks_dir = _tasks_dir(config)

    # Data: instances, tokens, packed rows.
    built = ecom_instruct.build(config.data)
    trained_on = sorted(name for name, counts in built.stats["tasks"].items() if counts["train"])
    tasks_dir = tasks_dir or built.held_out_dir
    with file_lock(cache / "turn.lock", "another process that makes tokenizer or tokens"):
        tokenizer = _find_tokenizer(config, weights, built)
        if not config.model.vocab_size:
            config.model.vocab_size = -(-tokenizer.size // 128) * 128
        check_vocabulary(tokenizer, config.model.vocab_size)
        eval_model.vocab_size = config.model.vocab_size
        param_shardings(eval_model, eval_mesh)  # raises for a mesh that does not fit, before any training
        instances = ecom_instruct.open_split(built.directory, "train")
        store = tokenize(instances, built.fingerprint, tokenizer, config.data.length, cache)
        split = ecom_instruct.open_split(built.directory, "test") if config.train.validate_every else []
        micro_batch = loop.micro_batch_rows(config, mesh)
        unseen = built.stats["tasks"].keys() - trained_on if config.data.unseen_tasks else ()
        held_back = validation.hold_back(split, built.fingerprint, tokenizer, config, micro_batch, unseen)
    rows = make_rows(store, config.data, config.train.epochs, loop.rows_per_step(config, mesh))
    evaluated = harness.slice_metrics(tasks_dir) if tasks_dir and config.eval.every else []
    validation.check_best_metric(config, held_back, evaluated)
    idle = run_summary.idle_settings(asked, config, rows, mesh, tokenizer.size, bool(held_back))
    for line in idle if first else ():
        logging.warning("config: %s", line)
    masked, data_lines = mask_secrets(config_lib.to_dict(config)), run_summary.data_lines(built.stats, rows, config)
    if _DRY_RUN.value:
        print(
            json.dumps(masked, ensure_ascii=False, indent=1), run_summary.data_table(built.stats), data_lines, sep="\n"
        )
        print(devices, run_summary.plan_line(config, rows, mesh), "dry run: nothing was trained", sep="\n")
        return

    # Workdir: the checkpoint to continue from, and a record of the run.
    def take_workdir() -> None:
        if workdir.is_dir() or _RESUME.value != "require":  # require creates no workdir
            advice = "wait for it, or use another --workdir"
            held.enter_context(only_one(workdir, "training", StorageError, advice))
        resume.prepare_workdir(workdir, _RESUME.value)

    processes.from_first(take_workdir)
    run = loop.run_facts(config, rows, mesh)
    start = resume.find_start(workdir, config, run, _ALLOW_DRIFT.value)
    if first:
        write_start(workdir, init_from, config.model.init_from)
        write_json(workdir / "config.json", masked)
        write_json(workdir / "trained_on.json", trained_on)
        tokenizer.save(workdir / "tokenizer")
        print(data_lines, devices, sep="\n", flush=True)
        if held_back:
            print(f"validation: {min(len(split), validation.INSTANCES):,} of {len(split):,} instances held back")

    # Evaluation before, training, evaluation after.
    loaded: list[Params] = []  # initial weights that are evaluated and not trained yet

    def initial_params(layered: bool = False) -> Params:
        return loaded.pop() if loaded else load_initial(config, weights, mesh, workdir, start is not None, layered)

    def evaluate(params: Params, name: str) -> dict:
        return harness.evaluate_tasks(
            split_layers(params, eval_model, eval_mesh), eval_model, tokenizer, tasks_dir,
            workdir / "evaluation" / name, config.eval, eval_mesh, weights=content_hash(params), trained_on=trained_on,
        )  # fmt: skip

    def evaluate_start() -> dict:
        """Returns the scores of the initial weights, computed once per run; keeps the weights for `loop.train`."""
        done = workdir / "evaluation" / "before"
        found = processes.from_first(
            lambda: harness.finished_scores(tasks_dir, done, config.eval, eval_model.compute_dtype) if start else None
        )
        if found:
            return found
        # A base is loaded again for training, stacked: both forms together would need over half a base more memory.
        params = initial_params(layered=config.lora.rank > 0)
        found = evaluate(params, "before")
        if start is None and not config.lora.rank:
            loaded.append(params)
        return found

    def evaluate_slice(params: Params) -> dict[str, float]:
        params = split_layers(params, eval_model, eval_mesh)
        return harness.evaluate_slice(params, eval_model, tokenizer, tasks_dir, config.eval, eval_mesh)

    scored = tasks_dir and config.train.final_evaluation
    before = evaluate_start() if scored else None
    params = loop.train(
        config, rows, mesh, workdir, initial_params, start, evaluate_slice if tasks_dir else None, held_back
    )
    after = evaluate(params, "after") if scored else None

    # Weights in Hugging Face format, replacing those of an earlier start, and the report.
    if first:
        shutil.rmtree(workdir / "hf", ignore_errors=True)
    licences = {task["source"]: licence_of(task["source"]) for task in built.stats["tasks"].values()}
    hf_weights.save_hf(
        params, config.model, workdir / "hf", config.model.compute_dtype, workdir / "tokenizer",
        card=model_card(config_lib.to_dict(config), run, licences, after), seq_length=trained_length,
    )  # fmt: skip
    if not first:
        return
    report.write_run_report(
        workdir / "report",
        config=masked,
        metrics=read_metrics(workdir / "metrics.jsonl"),
        scores=after,
        untrained_scores=before,
        samples=harness.read_samples(tasks_dir, workdir / "evaluation" / "after", config.eval) if scored else [],
    )
    if after is not None:
        print(terminal.score_table(after, before))
    print(f"report: {workdir / 'report' / 'index.html'}")
    print(f"answers: python -m ecomgpt_jax.generate --checkpoint {shlex.quote(str(workdir))}", flush=True)


if __name__ == "__main__":
    cli.run(main)
