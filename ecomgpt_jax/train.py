"""Trains: `python -m ecomgpt_jax.train --config configs/demo.py --workdir runs/demo`.

Builds (or finds) the data, tokenises and packs it, scores the held-out tasks with the weights as they are, trains,
scores them again, and writes the weights for Hugging Face (`hf/`) and `report/index.html`. Start the same command again
and it goes on where it stopped.
`--dry_run` builds the data too, prints config, data and what a step takes, and stops there.
"""

import json
import logging
import math
import shutil
from pathlib import Path

import jax
from absl import flags
from jax.sharding import Mesh
from ml_collections import config_flags

from ecomgpt_jax import cli
from ecomgpt_jax import config as config_lib
from ecomgpt_jax.config import Config, ModelConfig, parse_mesh
from ecomgpt_jax.data import packing
from ecomgpt_jax.data.pipeline import PackedRows, make_rows
from ecomgpt_jax.data.token_store import tokenize
from ecomgpt_jax.data.tokenizer import Tokenizer, check_vocabulary, find_tokenizer
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.evaluation import harness, report, terminal
from ecomgpt_jax.files import write_json
from ecomgpt_jax.instruct import ecom_instruct
from ecomgpt_jax.instruct.sources import all_sources
from ecomgpt_jax.instruct.synthetic import products
from ecomgpt_jax.model import hf_weights, loading, model_card
from ecomgpt_jax.model.attention import resolve_implementation
from ecomgpt_jax.model.content_hash import content_hash
from ecomgpt_jax.model.parameters import param_shardings, parameter_count, split_layers
from ecomgpt_jax.parallel import processes
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.redaction import mask_secrets
from ecomgpt_jax.training import loop, memory, resume, validation
from ecomgpt_jax.training.gauges import TRACED_FROM
from ecomgpt_jax.training.progress import read_metrics
from ecomgpt_jax.waiting import file_lock

_CONFIG = config_flags.DEFINE_config_file("config", None, "a file of configs/, with an optional :argument")
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; default runs/<config name>")
_RESUME = flags.DEFINE_string("resume", "auto", "auto: go on if there is a checkpoint; never: afresh; require: insist")
_ALLOW_DRIFT = flags.DEFINE_list("allow_drift", [], "settings that may differ from the checkpoint's")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "print config, data table and plan; train nothing, write no workdir")
_COORDINATOR = flags.DEFINE_string("coordinator", "", "several processes: host:port of process 0; auto on a TPU slice")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "several processes: how many")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "several processes: which one this is, from 0")
_JOIN_TIMEOUT = flags.DEFINE_integer("join_timeout", 300, "seconds to wait for the other processes", lower_bound=1)
_COT = flags.DEFINE_bool("cot", None, "train on Chain-of-Task tasks (data.chain_of_task)")
_NUM_TASKS = flags.DEFINE_integer("num_tasks", None, "number of training tasks (data.num_tasks)")
_INSTANCES = flags.DEFINE_integer("instances_per_task", None, "instances a task (data.instances_per_task)")
_LANGUAGES = flags.DEFINE_list("languages", None, "languages of the tasks, en,zh (data.languages)")
_PROMPT_LANGUAGE = flags.DEFINE_string("prompt_language", None, "en, zh, native or mixed (data.prompt_language)")
_PACKING = flags.DEFINE_bool("packing", None, "pack several instances a row (data.packing)")
_MODEL_SIZE = flags.DEFINE_string("model_size", None, "560m, 1b1, 1b7, 3b or 7b1 (model.size)")


def _apply_short_flags(config: Config) -> Config:
    """Sets the config field of each short flag that was given."""
    short = (
        (_COT, config.data, "chain_of_task"),
        (_NUM_TASKS, config.data, "num_tasks"),
        (_INSTANCES, config.data, "instances_per_task"),
        (_LANGUAGES, config.data, "languages"),
        (_PROMPT_LANGUAGE, config.data, "prompt_language"),
        (_PACKING, config.data, "packing"),
        (_MODEL_SIZE, config.model, "size"),
    )
    for flag, section, field in short:
        if flag.value is not None:
            setattr(section, field, tuple(flag.value) if isinstance(flag.value, list) else flag.value)
    return config


def _fit_model_to_weights(config: Config, workdir: Path) -> loading.Checkpoint:
    """Finds the weights of `init_from` and takes the model's shape from them.

    Raises:
      ConfigError: they are of another size than the config names, or of another vocabulary.
    """
    config.model.init_from, directory = resume.find_weights(workdir, config.model.init_from, _RESUME.value)
    weights = loading.find_checkpoint(directory, loop.params_dtype(config))
    loaded = weights.model
    shape = ("embed", "layers", "heads")
    wanted, found = ({name: getattr(m, name) for name in shape} for m in (config.model, loaded))
    if config.model.size != "custom" and wanted != found:
        raise ConfigError(f"model.size={config.model.size} means {wanted}, but {config.model.init_from} holds {found}")
    rows = config.model.vocab_size
    if rows not in (0, ModelConfig().vocab_size, loaded.vocab_size):
        raise ConfigError(
            f"model.vocab_size={rows}, but {config.model.init_from} holds {loaded.vocab_size:,} rows, which stay as "
            "they are; set model.vocab_size=0"
        )
    for name in (*shape, "vocab_size", "layer_norm_epsilon"):
        setattr(config.model, name, getattr(loaded, name))
    return weights


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


def _describe_data(built: ecom_instruct.Built, rows: PackedRows, config: Config) -> str:
    store = rows.store
    share = packing.fill(rows.plan, store.positions, rows.length)
    text = (
        f"data: {len(built.stats['tasks'])} tasks, {len(store):,} training instances, {len(store.tokens):,} tokens; "
        f"{len(rows.plan):,} rows of {rows.length} over {config.train.epochs} epochs, {share:.1%} full"
    )
    if store.cut_prompts or store.cut_answers:
        text += f"; {store.cut_prompts:,} prompts lost their beginning, {store.cut_answers:,} answers their end"
    return "\n".join([text, *(f"{file}: {description}" for file, description in built.stats["files"].items())])


def _data_table(built: ecom_instruct.Built) -> str:
    """Returns a line for each language and family: tasks, training instances, held-out instances."""
    groups: dict[tuple[str, str], list[int]] = {}
    for entry in built.stats["tasks"].values():
        counts = groups.setdefault((entry["language"], entry["family"]), [0, 0, 0])
        for index, number in enumerate((1, entry["train"], entry["test"])):
            counts[index] += number
    lines = [f"{'language':<10}{'family':<20}{'tasks':>7}{'train':>12}{'test':>10}"]
    for (language, family), (tasks, train, test) in sorted(groups.items()):
        lines.append(f"{language:<10}{family:<20}{tasks:>7,}{train:>12,}{test:>10,}")
    return "\n".join(lines)


def _plan(config: Config, rows: PackedRows, mesh: Mesh) -> str:
    """Returns what the run holds and does, by arithmetic alone: no device is touched."""
    steps, model, held = loop.count_steps(config, rows, mesh), config.model, memory.state_bytes(config, mesh)
    trained = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(memory.state(config, mesh).params))
    tokens = loop.rows_per_step(config, mesh) * config.data.length
    return (
        f"plan: {steps:,} steps of {loop.rows_per_step(config, mesh):,} rows ({tokens:,} tokens) on {mesh.size} "
        f"devices, mesh {dict(mesh.shape)}; {parameter_count(model):,} parameters, {trained:,} trained; weights and "
        f"optimizer state take {held / 2**30:.2f} GiB a device; each stage takes about "
        f"{memory.describe(memory.stage_bytes(config, mesh))}"
    )


def _idle_settings(asked: Config, config: Config, rows: PackedRows, mesh: Mesh) -> list[str]:
    """Returns a line for each setting that was asked for and has no effect in the run that became of it."""
    lines = config_lib.unused(asked)
    for name in ("embed", "layers", "heads", "vocab_size", "layer_norm_epsilon") if config.model.init_from else ():
        given, there = getattr(asked.model, name), getattr(config.model, name)
        if given not in (0, there, getattr(ModelConfig, name)):
            lines.append(f"model.{name}={given}: gives way to {there}, that of model.init_from")
    steps, epochs = loop.count_steps(config, rows, mesh), len(rows) // loop.rows_per_step(config, mesh)
    train, traced = config.train, max(0, steps - TRACED_FROM + 1)
    if train.max_steps > epochs:
        lines.append(f"train.max_steps={train.max_steps}: train.epochs={train.epochs} are {epochs} steps")
    if train.profile_steps > traced:
        lines.append(f"train.profile_steps={train.profile_steps}: {traced} of {steps} steps come after the second")
    if config.eval.every > steps:
        lines.append(f"eval.every={config.eval.every}: the run has {steps} steps, so no slice is evaluated")
    return lines


def _licences(built: ecom_instruct.Built) -> dict[str, str]:
    """Returns the licence of each source that is trained on; the user's own files are theirs to know."""
    return {task["source"]: _licence(task["source"]) for task in built.stats["tasks"].values()}


def _licence(source: str) -> str:
    if source in all_sources.SOURCES:
        return all_sources.source(source).licence
    return "generated by ecomgpt_jax" if source.startswith(products.PREFIX) else "see its origin"


def _export(params: object, config: Config, workdir: Path, card: str, trained_length: int) -> None:
    """Writes the trained weights as a Hugging Face directory, in place of those of an earlier start."""
    if jax.process_index() == 0:
        shutil.rmtree(workdir / "hf", ignore_errors=True)
    hf_weights.save_hf(
        params, config.model, workdir / "hf", config.model.compute_dtype, workdir / "tokenizer", card=card,
        seq_length=trained_length,
    )  # fmt: skip


def _describe_devices(config: Config, mesh: Mesh) -> str:
    model, device = config.model, mesh.devices.flat[0]
    chosen = resolve_implementation(model.attention, model.compute_dtype, model.embed // model.heads, device.platform)
    axes = " ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    how = f" ({model.attention} on {device.platform})" if model.attention == "auto" else ""
    return f"devices: {mesh.size} x {device.device_kind}, mesh {axes}; attention {chosen}{how}"


def main(arguments: list[str]) -> None:
    """Runs the whole path; see the module's docstring."""
    if arguments:
        raise ConfigError(f"unexpected argument {arguments[0]!r}; settings are --config.<field>=value")
    asked = _apply_short_flags(cli.load_config(_CONFIG))
    config = config_lib.resolve(asked)
    if not _COORDINATOR.value:
        cli.refuse_idle("without --coordinator", _JOIN_TIMEOUT)
    if _RESUME.value == "never":
        cli.refuse_idle("with --resume=never, which compares with no checkpoint", _ALLOW_DRIFT)
    processes.init_distributed(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value, _JOIN_TIMEOUT.value)
    cache, first = Path(config.data.cache_dir).expanduser(), jax.process_index() == 0
    processes.enable_compilation_cache(cache / "compiled")
    if "://" in (_WORKDIR.value or ""):
        raise ConfigError(f"--workdir {_WORKDIR.value}: is no folder; mount the bucket, as tpu_setup does with gcsfuse")
    workdir = Path(_WORKDIR.value or f"runs/{config.name}").expanduser().absolute()
    given = config.model.init_from
    weights = _fit_model_to_weights(config, workdir) if given else None
    trained_length = max(config.data.length, loading.trained_length(weights) if weights else 0)
    mesh = make_mesh(config.mesh)
    eval_mesh = make_mesh(parse_mesh(config.eval.mesh)) if config.eval.mesh else mesh
    eval_model = loading.for_use(config.model, config.eval.dtype)
    tasks_dir = _tasks_dir(config)
    built = ecom_instruct.build(config.data)
    tasks_dir = tasks_dir or built.held_out_dir
    with file_lock(cache / "turn.lock", "another process that makes tokenizer or tokens"):
        tokenizer = _find_tokenizer(config, weights, built)
        if not config.model.vocab_size:
            config.model.vocab_size = -(-tokenizer.size // 128) * 128
        check_vocabulary(tokenizer, config.model.vocab_size)
        eval_model.vocab_size = config.model.vocab_size
        param_shardings(eval_model, eval_mesh)  # refuses a mesh that does not fit before anything is trained
        instances = ecom_instruct.open_split(built.directory, "train")
        store = tokenize(instances, built.fingerprint, tokenizer, config.data.length, cache)
        split = ecom_instruct.open_split(built.directory, "test") if config.train.validate_every else []
        micro_batch = loop.micro_batch_rows(config, mesh)
        held_back = validation.hold_back(split, built.fingerprint, tokenizer, config, micro_batch)
    rows = make_rows(store, config.data, config.train.epochs, loop.rows_per_step(config, mesh))
    evaluated = harness.slice_metrics(tasks_dir) if tasks_dir and config.eval.every else []
    validation.check_best_metric(config, held_back, evaluated)
    for line in _idle_settings(asked, config, rows, mesh) if first else ():
        logging.warning("config: %s", line)
    if _DRY_RUN.value:
        print(json.dumps(mask_secrets(config_lib.to_dict(config)), ensure_ascii=False, indent=1))
        print(_data_table(built), _describe_data(built, rows, config), _plan(config, rows, mesh), sep="\n")
        print("dry run: nothing was trained")
        return
    processes.from_first(lambda: resume.prepare_workdir(workdir, _RESUME.value))
    start = resume.find_start(workdir, config, loop.run_facts(config, rows, mesh), _ALLOW_DRIFT.value)
    trained_on = sorted(name for name, counts in built.stats["tasks"].items() if counts["train"])
    if first:
        resume.write_start(workdir, given, config.model.init_from)
        write_json(workdir / "config.json", mask_secrets(config_lib.to_dict(config)))
        write_json(workdir / "trained_on.json", trained_on)
        tokenizer.save(workdir / "tokenizer")
        print(_describe_data(built, rows, config), _describe_devices(config, mesh), sep="\n", flush=True)
        if held_back:
            print(f"validation: {min(len(split), validation.INSTANCES):,} of {len(split):,} instances held back")

    loaded: list[object] = []  # initial weights that were evaluated and not trained on yet

    def initial_params(layered: bool = False) -> object:
        if loaded:
            return loaded.pop()
        if weights:
            params = loading.load_params(weights, mesh, layered=layered)
        else:
            params = loop.fresh_params(config, mesh, layered)
        resume.check_initial(workdir, content_hash(params), resumed=start is not None)
        return params

    def evaluate(params: object, name: str) -> dict:
        return harness.evaluate_tasks(
            split_layers(params, eval_model, eval_mesh), eval_model, tokenizer, tasks_dir,
            workdir / "evaluation" / name, config.eval, eval_mesh, weights=content_hash(params), trained_on=trained_on,
        )  # fmt: skip

    def evaluate_start() -> dict:
        """Scores the initial weights, once a run; they are kept for `loop.train` where that asks for them."""
        done = workdir / "evaluation" / "before"
        found = processes.from_first(
            lambda: harness.finished_scores(tasks_dir, done, config.eval, eval_model.compute_dtype) if start else None
        )
        if found:
            return found
        # A base is loaded again for training, stacked, since both forms together would be over half a base more.
        params = initial_params(layered=config.lora.rank > 0)
        found = evaluate(params, "before")
        if start is None and not config.lora.rank:
            loaded.append(params)
        return found

    def evaluate_slice(params: object) -> dict[str, float]:
        params = split_layers(params, eval_model, eval_mesh)
        return harness.evaluate_slice(params, eval_model, tokenizer, tasks_dir, config.eval, eval_mesh)

    before = after = None
    if tasks_dir and config.train.final_evaluation:
        before = evaluate_start()
    params = loop.train(
        config, rows, mesh, workdir, initial_params, start, evaluate_slice if tasks_dir else None, held_back
    )
    samples = []
    if before is not None:
        after = evaluate(params, "after")
        if jax.process_index() == 0:  # which wrote them
            samples = harness.read_samples(tasks_dir, workdir / "evaluation" / "after", config.eval)
    card = model_card.model_card(
        config_lib.to_dict(config), loop.run_facts(config, rows, mesh), _licences(built), after
    )
    _export(params, config, workdir, card, trained_length)
    if not first:
        return
    report.write_run_report(
        workdir / "report",
        config=mask_secrets(config_lib.to_dict(config)),
        metrics=read_metrics(workdir / "metrics.jsonl"),
        scores=after,
        untrained_scores=before,
        samples=samples,
    )
    if after is not None:
        print(terminal.score_table(after, before))
    print(f"report: {workdir / 'report' / 'index.html'}", flush=True)


if __name__ == "__main__":
    cli.run(main)
