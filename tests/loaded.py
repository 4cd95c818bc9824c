"""Loads any checkpoint in one dtype, for tests that compare weights."""

import dataclasses
import os

from jax.sharding import Mesh

from ecomgpt_jax.config import MeshConfig, ModelConfig
from ecomgpt_jax.model.loading import find_checkpoint, load_params
from ecomgpt_jax.model.table import Params
from ecomgpt_jax.parallel.mesh import make_mesh


def load_checkpoint(
    name: str | os.PathLike[str], mesh: Mesh | None = None, dtype: str = "float32"
) -> tuple[Params, ModelConfig]:
    """Returns stacked parameters in `dtype`, and the model with the checkpoint's own compute dtype."""
    own = find_checkpoint(name)
    wanted = own._replace(model=dataclasses.replace(own.model, compute_dtype=dtype))
    return load_params(wanted, make_mesh(MeshConfig()) if mesh is None else mesh, layered=False), own.model
