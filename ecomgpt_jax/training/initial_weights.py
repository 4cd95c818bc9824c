"""The initial weights of a run: those of `model.init_from`, or fresh ones from `train.seed`.

`start.json` in the workdir records what the first start used: `init_from` as given, `pinned` (with the commit that a
branch on the Hub pointed to), and `weights`, a hash of the initial weights.
"""

from pathlib import Path

import jax
from etils import epath
from jax.sharding import Mesh

from ecomgpt_jax.config import SHAPE, Config, ModelConfig, check_targets, fit_targets
from ecomgpt_jax.errors import ConfigError, DataError
from ecomgpt_jax.files import read_json, write_json
from ecomgpt_jax.model import hub, loading
from ecomgpt_jax.model.content_hash import content_hash
from ecomgpt_jax.model.decoder import init_sharded_params
from ecomgpt_jax.model.parameters import Params, split_layers
from ecomgpt_jax.parallel.processes import from_first

START = "start.json"


def params_dtype(config: Config) -> str:
    """Returns the dtype in which a run loads and returns its weights: float32, or with LoRA the compute dtype."""
    return config.model.compute_dtype if config.lora.rank else "float32"


def fresh_params(config: Config, mesh: Mesh, layered: bool = False) -> Params:
    """Returns the weights of a run without `model.init_from`, in `params_dtype`."""
    params = init_sharded_params(config.model, mesh, jax.random.key(config.train.seed), params_dtype(config))
    return split_layers(params, config.model, consume=True) if layered else params


def fit_model_to_weights(config: Config, workdir: Path, resume: str) -> loading.Checkpoint | None:
    """Finds the weights of `model.init_from` and sets the model's shape to theirs; None if there is no `init_from`.

    Raises:
      MissingInputError: there are no such weights.
      ConfigError: their size or vocabulary differs from what the config sets.
    """
    if not config.model.init_from:
        return None
    config.model.init_from, directory = find_weights(workdir, config.model.init_from, resume)
    weights = loading.find_checkpoint(directory, params_dtype(config))
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
    for name in (*SHAPE, "layer_norm_epsilon"):
        setattr(config.model, name, getattr(loaded, name))
    fit_targets(config)
    check_targets(config)
    return weights


def find_weights(workdir: Path, init_from: str, resume: str) -> tuple[str, epath.Path]:
    """Returns `hub.find_weights` of `init_from`, with the commit that the workdir's first start pinned, if any.

    Process 0 looks it up and sends it to the others, so that all use one commit.

    Raises:
      MissingInputError: there are no such weights.
    """
    known = read_start(workdir) if resume != "never" else {}
    pinned = known["pinned"] if known.get("init_from") == init_from else init_from
    if jax.process_count() == 1:
        return hub.find_weights(pinned)
    return hub.find_weights(from_first(lambda: hub.find_weights(pinned)[0]))


def load_initial(
    config: Config, weights: loading.Checkpoint | None, mesh: Mesh, workdir: Path, resumed: bool, layered: bool = False
) -> Params:
    """Loads or makes the initial weights, in `params_dtype`, and compares them with those of the first start.

    Args:
      config: resolved.
      weights: from `fit_model_to_weights`.
      mesh: their devices.
      workdir: holds `start.json`.
      resumed: whether the run continues from a checkpoint.
      layered: `blocks` is a tuple of one pytree per block; False: stacked.

    Raises:
      DataError: as `check_initial`.
    """
    params = loading.load_params(weights, mesh, layered=layered) if weights else fresh_params(config, mesh, layered)
    check_initial(workdir, content_hash(params), resumed)
    return params


def read_start(workdir: Path) -> dict[str, str]:
    """Returns the content of `start.json`; {} if there is none."""
    path = workdir / START
    return read_json(path) if path.is_file() else {}


def write_start(workdir: Path, init_from: str, pinned: str) -> None:
    """Writes `start.json`, unless it already names these weights."""
    known = read_start(workdir)
    if (known.get("init_from"), known.get("pinned")) != (init_from, pinned):
        write_json(workdir / START, {"init_from": init_from, "pinned": pinned})


def check_initial(workdir: Path, weights: str, resumed: bool) -> None:
    """Records the hash of the initial weights; in a resumed run compares it with the recorded one.

    Raises:
      DataError: a resumed run did not start from these weights.
    """
    known = from_first(lambda: read_start(workdir))
    if resumed and known.get("weights", weights) != weights:
        raise DataError(
            f"{workdir}: the weights that the run started from are no longer those of model.init_from; "
            "restore them, or continue with --config.train.final_evaluation=false"
        )
    if jax.process_index() == 0:
        write_json(workdir / START, known | {"weights": weights})
