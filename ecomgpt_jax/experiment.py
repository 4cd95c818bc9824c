"""Experiments: variants of one configuration, each trained with several seeds from one shared start.

`configs/ablations.py` declares experiments, `ablate` runs them. A cell (variant, seed) is one run of the `train`
command, and its overrides are written as on the command line, so that every cell can be repeated by hand.
"""

import dataclasses
import re

from ecomgpt_jax.config import Config, field_paths, nearest
from ecomgpt_jax.errors import ConfigError

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One condition of an experiment.

    Attributes:
      name: used for the cells' folders and the table's row; lower case, digits, `_`, `.` and `-`.
      overrides: config fields of this variant, each "a.b=value".
      config: config file with argument, if it differs from the experiment's (another model size).
      start: config files of another start than the experiment's; () = the experiment's.
      left_out: the ability whose tasks are left out, if the experiment varies that.
      factors: {name: value} of the varied quantities, on a scale on which a trend is linear.
    """

    name: str
    overrides: tuple[str, ...] = ()
    config: str = ""
    start: tuple[str, ...] = ()
    left_out: str = ""
    factors: tuple[tuple[str, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A grid of runs that answers one question.

    Attributes:
      name: names the experiment in its results.
      question: one sentence.
      config: config file, with argument, of every cell.
      variants: the conditions; the others are compared with the first.
      seeds: one run each; a seed determines sampling and wording of the data.
      start: config files, with arguments, of the runs that make the initial weights of all cells, each from the
        weights of the previous one; trained once and shared.
      overrides: config fields that every cell sets, each "a.b=value".
      limit: evaluation rows per task; 0 = all.
      caveats: notes for readers of the results.
    """

    name: str
    question: str
    config: str
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    start: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    limit: int = 0
    caveats: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of an experiment: `folder` is unique, `start` names the runs before it (() = fresh weights)."""

    variant: str
    seed: int
    folder: str
    config: str
    start: tuple[str, ...]
    overrides: tuple[str, ...]


def cells(experiment: Experiment) -> list[Cell]:
    """Returns the runs, seed by seed, so that an interrupted experiment has every variant.

    Raises:
      ConfigError: a name is not a folder name or repeated, an override is not a field, or there is nothing to run.
    """
    names = [variant.name for variant in experiment.variants]
    if not names or not experiment.seeds:
        raise ConfigError(f"experiment {experiment.name}: needs at least one variant and one seed")
    if len(set(experiment.seeds)) < len(experiment.seeds):
        raise ConfigError(f"experiment {experiment.name}: a seed occurs twice in {experiment.seeds}")
    known = list(field_paths(Config()))
    for variant in experiment.variants:
        if not _NAME.fullmatch(variant.name) or names.count(variant.name) > 1:
            raise ConfigError(f"experiment {experiment.name}: variant {variant.name!r} is not a name, or occurs twice")
        for override in (*experiment.overrides, *variant.overrides):
            field, equals, _ = override.partition("=")
            if not equals or field not in known:
                raise ConfigError(
                    f"experiment {experiment.name}, variant {variant.name}: {override!r} is not <field>=<value>"
                    + nearest(field, known)
                )
    return [
        Cell(
            variant=variant.name,
            seed=seed,
            folder=f"{variant.name}-seed{seed}",
            config=variant.config or experiment.config,
            start=variant.start or experiment.start,
            overrides=(*experiment.overrides, *variant.overrides, f"data.seed={seed}", f"train.seed={seed}"),
        )
        for seed in experiment.seeds
        for variant in experiment.variants
    ]
