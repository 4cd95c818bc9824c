"""The paper's experiments by name, at a size that two CPU cores can finish.

python -m ecomgpt_jax.ablate --config configs/ablations.py:cot --out runs/cot

`:cot,mini` runs the same on another size of `configs/ecom_base.py`. All cells of an experiment start from the same
weights, trained by the same stages, and have the same number of instances unless the experiment varies it. `domain`
compares with the general instructions in the file that ECOMGPT_GENERAL names (JSON lines or Parquet, any form of
`data.files`).
"""

import math
import os

from ecomgpt_jax.config import Config
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.experiment import Experiment, Variant

_FAMILY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ecom_base.py")
# Training instances per cell and evaluation rows per task.
_BUDGET = {"nano": (1_200, 48), "micro": (40_000, 200), "mini": (200_000, 500)}
# Parameters without the embedding table.
_PARAMETERS = {"pico": 0.45e6, "nano": 2.7e6, "micro": 14.2e6, "mini": 56.7e6}
# The stages that make the initial weights of an experiment's cells. Two cores cannot process enough plain text for a
# model to learn copying, nor enough instructions per cell for it to learn to follow them. So both are trained before,
# as BLOOMZ was trained on instructions before EcomGPT, without Chain-of-Task tasks and the sources' annotation.
_STAGES = {"nano": ("repeat", "follow"), "micro": ("",), "mini": ("",)}
_EPOCHS = "train.epochs=1"
_ATOMIC = ("simplification", "reversal", "recombination", "pseudo_label")
# Abilities that the official tasks are declared to use.
_ABILITIES = (
    "find spans", "type spans", "spot topics", "find evidence", "find the answer", "categorise a product",
    "write from facts", "compare facts", "compare texts",
)  # fmt: skip
_BASE_TASKS = 109  # tasks made directly from the annotation
_FEW_TASKS = 20  # of `instances` on two cores, since 800 per task would take a day


def get_config(arg: str = "cot") -> Experiment:
    """Returns the experiment `<name>` or `<name>,<size>`.

    Raises:
      ConfigError: there is no such experiment or size.
    """
    name, _, size = arg.partition(",")
    size = size or "nano"
    if name not in _EXPERIMENTS or size not in _BUDGET:
        raise ConfigError(
            f"ablations.py:{arg}: experiments are {', '.join(_EXPERIMENTS)}; sizes are {', '.join(_BUDGET)}"
        )
    question, make = _EXPERIMENTS[name]
    instances, limit = _BUDGET[size]
    # Tasks have equal shares; the limit is enough for the fewest tasks and keeps the whole data set small.
    shared = f"data.total_instances={instances}", "data.temperature=0", f"data.instances_per_task={instances // 5}"
    fixed = () if name == "instances" else shared
    held = f"; {instances:,} instances per cell, the same number of each task"
    if name == "instances":
        held = f"; {_FEW_TASKS} tasks" if size == "nano" else ""
    stages = " and then ".join(stage or "plain text" for stage in _STAGES[size])
    caveats = (
        f"Start: {size} of configs/ecom_base.py after {stages}{held}.",
        "Intervals resample rows and seeds; with three seeds the part of the seeds is a rough estimate.",
    )
    return Experiment(
        name=name,
        question=question,
        config=f"{_FAMILY}:{size},tune",
        start=_start(size, size),
        variants=make(size),
        overrides=(_EPOCHS, "train.max_steps=0", *fixed),
        limit=limit,
        caveats=caveats,
    )


def _start(each: str, size: str) -> tuple[str, ...]:
    """Returns the stages before the cells for a model of size `each`, in an experiment for `size`."""
    return tuple(f"{_FAMILY}:{each}" + (f",{stage}" if stage else "") for stage in _STAGES[size])


def _cot(size: str) -> tuple[Variant, ...]:
    def kept(*operators: str) -> str:
        return "data.operators=" + ",".join(("base", *operators))

    return (
        Variant("all"),
        Variant("none", (kept(),)),
        Variant("gold", (kept(*_ATOMIC[:3]),)),
        Variant("pseudo", (kept("pseudo_label"),)),
        *(Variant(f"no_{left}", (kept(*(o for o in _ATOMIC if o != left)),)) for left in _ATOMIC[:3]),
        Variant("all_as_many_tasks", (f"data.num_tasks={_BASE_TASKS}",)),
    )


def _task_scaling(size: str) -> tuple[Variant, ...]:
    return tuple(
        Variant(
            f"{each}_{tasks}_tasks",
            (f"data.num_tasks={tasks}",),
            config=f"{_FAMILY}:{each},tune",
            start=_start(each, size),
            factors=(("log2 tasks", math.log2(tasks)), ("log2 parameters", math.log2(count))),
        )
        for each, count in _up_to(size).items()
        for tasks in (20, 60, 120)
    )


def _up_to(size: str) -> dict[str, float]:
    """Returns the parameters of the sizes up to `size`, smallest first."""
    return {each: count for each, count in _PARAMETERS.items() if count <= _PARAMETERS[size]}


def _instances(size: str) -> tuple[Variant, ...]:
    fewer = (f"data.num_tasks={_FEW_TASKS}",) if size == "nano" else ()
    return tuple(
        Variant(
            f"{count}_a_task",
            (f"data.instances_per_task={count}", *fewer),
            factors=(("log2 instances", math.log2(count)),),
        )
        for count in (50, 100, 200, 400, 800)
    )


def _size(size: str) -> tuple[Variant, ...]:
    return tuple(Variant(each, config=f"{_FAMILY}:{each},tune", start=_start(each, size)) for each in _up_to(size))


def _dependency(size: str) -> tuple[Variant, ...]:
    lacking = (
        Variant(f"no_{ability.replace(' ', '_')}", (f"data.leave_out_abilities={ability}",), left_out=ability)
        for ability in _ABILITIES
    )
    return (Variant("all"), *lacking)


def _domain(size: str) -> tuple[Variant, ...]:
    if not (general := os.environ.get("ECOMGPT_GENERAL", "")):
        raise ConfigError(
            "ablations.py:domain: ECOMGPT_GENERAL must name a file of general instructions to compare with"
        )
    return (
        Variant("ecommerce"),
        Variant("general", ("data.mixture=files", f"data.files={general}", "data.instances_per_task=0")),
    )


def _each(field: str, *values: object) -> tuple[Variant, ...]:
    return tuple(Variant(str(value).replace(",", "_").lower(), (f"{field}={value}",)) for value in values)


_EXPERIMENTS = {
    "cot": ("Do Chain-of-Task tasks help on held-out tasks, at the same number of instances and of tasks?", _cot),
    "task_scaling": ("Which helps more at the same number of instances, more tasks or more parameters?", _task_scaling),
    "instances": ("How many instances per task are enough?", _instances),
    "prompt_language": (
        "In which language should instructions be written?",
        lambda size: _each("data.prompt_language", "native", "en", "zh", "mixed"),
    ),
    "language": (
        "Does training on one language help the other?",
        lambda size: _each("data.languages", "en,zh", "en", "zh"),
    ),
    "dependency": ("Which held-out tasks score lower without the tasks of one ability?", _dependency),
    "domain": ("Are e-commerce instructions better than the same number of general ones?", _domain),
    "size": ("How much does a larger model help?", _size),
    "packing": ("Does packing change the result?", lambda size: _each("data.packing", "true", "false")),
    "loss_on_prompt": (
        "Should prompts carry loss?",
        lambda size: _each("data.loss_on_prompt", "false", "true"),
    ),
    "learning_rate": (
        "Which peak rate?",
        lambda size: _each("optimizer.learning_rate", Config().optimizer.learning_rate, 1e-4, 3e-4, 1e-3, 3e-3),
    ),
}
