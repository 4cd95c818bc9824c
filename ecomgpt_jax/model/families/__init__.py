"""The families of networks, one file each: parameter table with HF names, block, mapping of config.json."""

from types import ModuleType

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.model.families import bloom, gemma, llama

FAMILIES = {"bloom": bloom, "llama": llama, "gemma": gemma}
OF_MODEL_TYPE = {model_type: name for name, family in FAMILIES.items() for model_type in family.MODEL_TYPES}


def family_of(model: ModelConfig) -> ModuleType:
    """Returns the module of a model's family."""
    return FAMILIES[model.family]
