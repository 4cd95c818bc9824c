"""The training loop: restores or initialises the state, runs steps, logs, saves."""

import collections
import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from ecomgpt_jax import config as config_lib
from ecomgpt_jax.config import Config
from ecomgpt_jax.data.pipeline import PackedRows, batches
from ecomgpt_jax.errors import PreemptedError
from ecomgpt_jax.model import lora
from ecomgpt_jax.model.content_hash import content_hash
from ecomgpt_jax.model.loading import BASE, check_base
from ecomgpt_jax.model.parameters import Params
from ecomgpt_jax.parallel.mesh import batch_shards
from ecomgpt_jax.parallel.processes import from_first
from ecomgpt_jax.redaction import mask_secrets
from ecomgpt_jax.training import checkpoint, faults, guards, resume, signals, validation
from ecomgpt_jax.training.initial_weights import fresh_params, params_dtype
from ecomgpt_jax.training.optimizer import make_optimizer, make_schedule
from ecomgpt_jax.training.progress import Progress
from ecomgpt_jax.training.saving import UNMEASURED, Checkpoints
from ecomgpt_jax.training.step_clock import StepClock
from ecomgpt_jax.training.throughput import Tracer, make_throughput_metrics
from ecomgpt_jax.training.train_step import abstract_state, global_batch, init_state, make_train_step, step_rows


def rows_per_step(config: Config, mesh: Mesh) -> int:
    """Returns the rows of one optimizer step over all devices."""
    return config.train.rows_per_device * batch_shards(mesh) * config.train.accumulation


def micro_batch_rows(config: Config, mesh: Mesh) -> int:
    """Returns the rows of one micro-batch over all devices."""
    return rows_per_step(config, mesh) // config.train.accumulation


def count_steps(config: Config, rows: PackedRows, mesh: Mesh) -> int:
    """Returns the optimizer steps of the run: all epochs, or `train.max_steps` if that is fewer."""
    steps = len(rows) // rows_per_step(config, mesh)
    return min(steps, config.train.max_steps) if config.train.max_steps else steps


def run_facts(config: Config, rows: PackedRows, mesh: Mesh) -> dict[str, Any]:
    """Returns the facts that a checkpoint records besides the config: data, steps, rows per step."""
    return {
        "data": rows.store.fingerprint,
        "total_steps": count_steps(config, rows, mesh),
        "rows_per_step": rows_per_step(config, mesh),
    }


def train(
    config: Config,
    rows: PackedRows,
    mesh: Mesh,
    workdir: str | os.PathLike[str],
    initial_params: Callable[..., Params] | None = None,
    start: resume.Start | None = None,
    evaluate: Callable[[Params], dict[str, float]] | None = None,
    held_back: validation.HeldBack | None = None,
) -> Params:
    """Trains to the end and returns the parameters; `resume.py` describes where a run starts.

    They have `params_dtype`; with LoRA they are merged and layered (`parameters.Params`).

    A resumed run continues at the row after the last trained one, for any number of hosts. The host reads each step's
    metrics while the next step runs.

    Args:
      config: resolved, with the vocabulary's real size.
      rows: all rows of the run.
      mesh: devices.
      workdir: receives checkpoints, `metrics.jsonl` and TensorBoard files.
      initial_params: loads pretrained weights in `params_dtype`; called if there is no checkpoint. With LoRA it is also
        called on resuming, and twice per evaluation, so that no device holds base and merged weights together: with
        `layered=True` for the weights that adapters are merged into, then for the base.
      start: the checkpoint to continue from; None: the workdir's newest valid one, if any.
      evaluate: called every `eval.every` steps; its result is added to the step's line of metrics.
      held_back: rows whose loss is computed every `train.validate_every` steps and at the last one.

    Raises:
      ConfigError: a checkpoint was made from other data or with other settings, or a device is out of memory.
      DataError: loss or gradient were not finite in too many steps in a row; the last finite state is saved.
      StorageError: checkpoints could not be written.
      PreemptedError: SIGTERM was received; the run is saved.
    """
    workdir, run = Path(workdir), run_facts(config, rows, mesh)
    per_step, total_steps = run["rows_per_step"], run["total_steps"]
    optimizer = make_optimizer(config.optimizer, total_steps)
    schedule = make_schedule(config.optimizer, total_steps)
    start = start or resume.find_start(workdir, config, run)
    initial = initial_params or partial(fresh_params, config, mesh)
    masked = mask_secrets(config_lib.to_dict(config))
    with (
        jax.set_mesh(mesh),
        signals.on_sigterm() as sigterm,
        _memory_explained(config, mesh),
        Checkpoints(workdir, config.train.keep, config.train.best_metric) as checkpoints,
    ):
        train_step, vote = make_train_step(config, optimizer, mesh), signals.make_vote(mesh)
        if start is None:
            state = init_state(config, optimizer, mesh, initial())
        else:
            state = checkpoint.restore(start.directory, abstract_state(config, optimizer, mesh))
            if config.lora.rank:  # a checkpoint contains only the adapters
                state = state._replace(base=initial())
                check_base(start.directory, start.meta, content_hash(state.base))
        base = {BASE: content_hash(state.base)} if config.lora.rank else {}
        step, first_row = int(state.step), start.meta["next_row"] if start else 0
        origin = first_row - step * per_step  # first row of step 1
        monitor = guards.LossMonitor(rows, per_step, config.train.skip_nonfinite, workdir)
        throughput = make_throughput_metrics(config.model, rows.length, per_step, mesh)
        writer = jax.process_index() == 0
        progress = Progress(workdir, first_step=step, total_steps=total_steps, writer=writer, throughput=throughput)
        validate = None
        if held_back and config.train.validate_every:
            validate = validation.make_validate(config, held_back, micro_batch_rows(config, mesh), mesh)
        tracer = Tracer(workdir / "profile", step, config.train.profile_steps)
        source = batches(rows, per_step, first_row, step_rows(per_step, config.train.accumulation, mesh))
        clock = StepClock()
        running: collections.deque[tuple[int, dict[str, jax.Array]]] = collections.deque()
        since_log: list[dict[str, float]] = []
        latest: dict[str, float] = {}  # of the last line of metrics
        measured: dict[str, float] = {}  # results of validation and evaluation at the newest step read
        stop = False

        def merged() -> Params:
            """Returns the weights of the state; with LoRA merged ones, after removing the base from the state."""
            nonlocal state
            if state.base is None:
                return state.params
            state = state._replace(base=None)
            weights = initial(layered=True)
            check_base(workdir, {"config": masked} | base, content_hash(weights))
            return lora.merge(weights, lora.make_adapters(state.params, config.lora), params_dtype(config))

        def score() -> dict[str, float]:
            nonlocal state
            found = evaluate(merged())
            if config.lora.rank:
                state = state._replace(base=initial())
            return found

        def measures(at: int) -> list[Callable[[], dict[str, float]]]:
            """Returns the validation and evaluation that are due at a step."""
            every, due = config.train.validate_every, []
            if validate is not None and (at % every == 0 or at == total_steps):
                due.append(lambda: validate(state))
            if evaluate is not None and config.eval.every and at % config.eval.every == 0:
                due.append(score)
            return due

        def measure(at: int) -> dict[str, float]:
            for take in measures(at):
                with clock.spending("evaluation"), signals.interruptible(sigterm):
                    measured.update(take())
            return measured

        def report(at: int) -> None:
            progress.log(at, latest, partial(measure, at) if measures(at) else None)

        def drain_metrics(pending: int) -> None:
            """Reads the metrics of all steps but the newest `pending`, which may still be running."""
            while len(running) > pending:
                at, metrics = running.popleft()
                measured.clear()
                numbers = {name: float(value) for name, value in jax.device_get(metrics).items()}
                since_log.append(numbers)
                progress.step(clock.read())
                monitor.check(at, origin + (at - 1) * per_step, numbers)
                if at % config.train.log_every == 0 or at == total_steps or measures(at):
                    latest.clear()
                    latest.update(_summary(since_log, float(schedule(at - 1)), monitor))
                    since_log.clear()
                    report(at)

        def save(unmeasured: bool = False) -> None:
            meta = {"config": masked, "run": run, "next_row": origin + step * per_step, "metrics": latest | measured}
            meta |= {UNMEASURED: True} if unmeasured else {}
            with clock.spending("checkpoint"):
                checkpoints.save(state, meta | base)

        try:
            if start is not None and start.meta.get(UNMEASURED) and not from_first(lambda: progress.has_line):
                latest.update(start.meta["metrics"])
                report(step)
            while step < total_steps and not stop:
                tracer.before(step, state)
                with clock.spending("data"):
                    batch = next(source)
                faults.inject_fault("step", step + 1, batch)
                rows_there = global_batch(batch, config.train.accumulation, mesh)
                state, metrics = clock.call(train_step, state, rows_there)
                step += 1
                running.append((step, metrics))
                drain_metrics(pending=0 if measures(step) else 1)
                stop = vote(sigterm.is_set())
                if step % config.train.save_every == 0 or step == total_steps or stop:
                    drain_metrics(pending=0)
                    save()
            checkpoints.wait()
            stop = stop or vote(sigterm.is_set()) or vote(False)  # the signal may have arrived during the last save
        except signals.Interrupted:  # during a validation or evaluation, which the next start repeats
            stop = True
            save(unmeasured=True)
            checkpoints.wait()
        except guards.NotFiniteError:
            save()  # the step was not applied, so this is the last finite state
            checkpoints.wait()
            raise
        finally:
            tracer.close()
            clock.close()
            progress.close()
        if stop:
            raise PreemptedError(f"{workdir}: stopped by SIGTERM, saved at step {step}; start the same command again")
        return merged()


@contextlib.contextmanager
def _memory_explained(config: Config, mesh: Mesh) -> Iterator[None]:
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        explained = guards.explain_out_of_memory(error, config, mesh)
        if explained is None:
            raise
        raise explained from error


def _summary(steps: list[dict[str, float]], learning_rate: float, monitor: guards.LossMonitor) -> dict[str, float]:
    """Returns the metrics of the steps since the last line: losses weighted by targets, tokens summed.

    Skipped steps count only in `train/skipped` (of this start of the run); if all were skipped there is no loss.
    """
    applied = [step for step in steps if guards.is_finite(step)]
    targets = sum(step["targets"] for step in applied)
    summary = {}
    if applied:
        loss = sum(step["loss"] * step["targets"] for step in applied) / max(targets, 1.0)
        # The loss of a single step is kept bit for bit, so that runs can be compared step by step.
        summary["train/loss"] = applied[0]["loss"] if len(applied) == 1 else loss
        summary["train/grad_norm"] = applied[-1]["grad_norm"]
    return summary | {
        "train/learning_rate": learning_rate,
        "train/targets": targets,
        "train/tokens": sum(step["tokens"] for step in steps),
        "train/skipped": monitor.skipped,
        "train/spikes": monitor.spikes,
    }
