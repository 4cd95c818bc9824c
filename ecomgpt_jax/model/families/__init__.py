"""The families of networks, one file each: parameter table with HF names, block, mapping of config.json.

A family's module has `MODEL_TYPES`, the values of `model_type` in config.json that it reads, and:

  * `parameter_table(model)`: every parameter, with its HF name.
  * `norm(declare, path, model)`, `scale_embedding(rows)`, `Block(model, declare)`: parts of the network that differ.
  * `slopes(model)`, `thetas(model)`: ALiBi's slopes, float32 [heads], and base and scaling of the rotation in full and
    in sliding layers; None where the family has none.
  * `shape_from_hf(values, where)`: the fields of `ModelConfig` that the content of a config.json describes; `where` is
    its path. Raises DataError if it is malformed or describes another network.
  * `hf_config(model, length)`: the keys of config.json that describe the network; `length` is that of its context, 0:
    unknown.
"""

from types import ModuleType

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.model.families import bloom, gemma, llama

FAMILIES = {"bloom": bloom, "llama": llama, "gemma": gemma}
OF_MODEL_TYPE = {model_type: name for name, family in FAMILIES.items() for model_type in family.MODEL_TYPES}


def family_of(model: ModelConfig) -> ModuleType:
    """Returns the module of a model's family."""
    return FAMILIES[model.family]
