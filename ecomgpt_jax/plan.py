"""Estimates what a run needs: `python -m ecomgpt_jax.plan --config configs/bloomz_7b1.py --topology v5e:4x4`.

For a TPU (v4-8, v5e-8, v5e:4x4, v5p-8, v6e-8, …) the training step is compiled, on any host, by the TPU's compiler (pip
install 'ecomgpt_jax[plan]'), which reports its memory. For GPUs (h100, h200:8) nothing is compiled. Time and cost are
estimates from FLOPs and an assumed share of the chip's peak, stated with the result. The shape is that of
`model.init_from` if it is a local directory, else that of the config, which is printed.
"""

import json
import logging
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from ecomgpt_jax import cli
from ecomgpt_jax import config as config_lib
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.parallel.topology import parse_topology
from ecomgpt_jax.training.initial_weights import fit_model_to_weights
from ecomgpt_jax.training.planning import describe, make_plan

_CONFIG = config_flags.DEFINE_config_file("config", None, "a file of configs/, with an optional :argument")
_TOPOLOGY = flags.DEFINE_string("topology", None, "v4-8, v5e-8, v5e:4x4, v5p-8, v6e-8, h100, h200:8, …")
_JSON = flags.DEFINE_bool("json", False, "print one JSON object")
_LARGEST = flags.DEFINE_bool("largest", False, "find the largest rows_per_device by compiling, not by estimate")
_PRICE = flags.DEFINE_float("price", None, "dollars per chip and hour; default: about a US on-demand list price")


def main(arguments: list[str]) -> None:
    """Prints the plan; see the module's docstring."""
    cli.check_usage("plan --config F --topology v5e:4x4; settings are --config.<field>=value", arguments, _TOPOLOGY)
    if _PRICE.value is not None and _PRICE.value < 0:
        raise ConfigError(f"--price must not be negative, not {_PRICE.value}")
    topology = parse_topology(_TOPOLOGY.value)
    if not topology.layout:
        cli.refuse_idle("on a GPU, for which nothing is compiled", _LARGEST)
    config = config_lib.resolve(cli.load_config(_CONFIG))
    jax.config.update("jax_platforms", "cpu")  # does not occupy this host's accelerators
    init_from = config.model.init_from
    if init_from and Path(init_from).expanduser().is_dir():
        fit_model_to_weights(config, Path(), "never")
    elif init_from:
        logging.warning(
            "model.init_from=%s: no directory here, so the planned shape is that of the config",
            init_from,
        )
    if not config.model.vocab_size:  # that of the tokenizer that training would create
        config.model.vocab_size = -(-config.data.tokenizer_vocab // 128) * 128
    plan = make_plan(config, topology, _LARGEST.value, _PRICE.value)
    print(json.dumps(plan, indent=1) if _JSON.value else describe(plan), flush=True)


if __name__ == "__main__":
    cli.run(main)
