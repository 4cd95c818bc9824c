"""LoRA (Hu et al., arXiv 2106.09685): low-rank adapters beside frozen kernels, and their PEFT layout.

An adapted kernel W acts as W + alpha / rank * A B, with A [in…, rank] and B [rank, out…] for each block. What is
trained is the pytree of adapters alone, in float32; the base lies beside it in the compute dtype. `combine` puts both
into one params pytree that every function of `bloom.py` accepts: a linear layer that finds adapters adds their product.
"""

import hashlib
import math
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from safetensors.numpy import save_file

from ecomgpt_jax import files
from ecomgpt_jax.config import LoraConfig, ModelConfig
from ecomgpt_jax.errors import DataError
from ecomgpt_jax.model.parameters import Parameter, Params, leaf_of, parameter_table, to_tree
from ecomgpt_jax.parallel.sharding import array_sharding

_PEFT_PREFIX = "base_model.model.transformer."


def _kernels(model: ModelConfig, lora: LoraConfig) -> list[Parameter]:
    return [p for p in parameter_table(model) if p.stacked and p.inputs and p.path[1] in lora.targets]


def adapter_table(model: ModelConfig, lora: LoraConfig) -> tuple[Parameter, ...]:
    """Returns the parameters of the adapters, A and B for each target; HF names are PEFT's, without prefix.

    A starts uniform in ±1/sqrt(inputs) and B at zero, as in PEFT, so that training starts at the base model.
    """
    table = []
    for kernel in _kernels(model, lora):
        split, module = 1 + kernel.inputs, kernel.hf_name.removesuffix(".weight")
        ins, outs = kernel.shape[1:split], kernel.shape[split:]

        def uniform(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype, width: int = math.prod(ins)) -> jax.Array:
            bound = 1 / math.sqrt(width)
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        table += [
            Parameter(
                (*kernel.path[:2], "lora_a"), (model.layers, *ins, lora.rank), (*kernel.axes[:split], "rank"), uniform,
                f"{module}.lora_A.weight", len(ins),
            ),
            Parameter(
                (*kernel.path[:2], "lora_b"), (model.layers, lora.rank, *outs),
                ("layers", "rank", *kernel.axes[split:]), jax.nn.initializers.zeros, f"{module}.lora_B.weight", 1,
            ),
        ]  # fmt: skip
    return tuple(table)


def adapter_shapes(model: ModelConfig, lora: LoraConfig) -> Params:
    """Returns the adapters' pytree with a float32 `jax.ShapeDtypeStruct` at every leaf."""
    return to_tree({p.path: jax.ShapeDtypeStruct(p.shape, jnp.float32) for p in adapter_table(model, lora)})


def adapter_shardings(model: ModelConfig, lora: LoraConfig, mesh: Mesh) -> Params:
    """Returns the adapters' pytree with a `NamedSharding` at every leaf: they are split as their kernels are.

    Raises:
      ConfigError: an adapter that the mesh does not divide.
    """
    table = adapter_table(model, lora)
    return to_tree({p.path: array_sharding(p.name, p.shape, p.axes, mesh) for p in table})


def init_adapters(model: ModelConfig, lora: LoraConfig, mesh: Mesh, key: jax.Array) -> Params:
    """Returns fresh adapters, float32, made shard by shard on `mesh`."""
    table = adapter_table(model, lora)

    def fresh(key: jax.Array) -> Params:
        keys = jax.random.split(key, len(table))
        return to_tree({p.path: p.initializer(k, p.shape, jnp.float32) for p, k in zip(table, keys, strict=True)})

    with jax.set_mesh(mesh):
        return jax.jit(fresh, out_shardings=adapter_shardings(model, lora, mesh))(key)


def freeze(params: Params, model: ModelConfig) -> Params:
    """Returns the base weights as LoRA keeps them: in the compute dtype."""
    return jax.tree.map(lambda leaf: leaf.astype(model.compute_dtype), params)


def fingerprint(base: Params) -> str:
    """Returns a hash by which base weights are known again: of their norms, which every device holds whole."""
    norms = [base["embedding_norm"], base["final_norm"], base["blocks"]["input_norm"], base["blocks"]["post_norm"]]
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(norms))).hexdigest()


def combine(base: Params, adapters: Params, lora: LoraConfig, key: jax.Array | None = None) -> Params:
    """Returns params for `bloom.forward`: the base with each target's adapters beside its kernel.

    Args:
      base: the model's parameters, from `freeze`; no gradient flows to them.
      adapters: from `init_adapters`; gradients flow here.
      lora: rank, alpha, dropout.
      key: of this forward's dropout; None for none.
    """
    blocks = dict(base["blocks"])
    for index, (name, leaves) in enumerate(sorted(adapters["blocks"].items())):
        scaled = leaves["lora_b"] * (lora.alpha / lora.rank)
        blocks[name] = blocks[name] | {"lora_a": leaves["lora_a"], "lora_b": scaled}
        if key is not None and lora.dropout:
            layers = len(leaves["lora_a"])
            keys = jax.random.split(jax.random.fold_in(key, index), layers)
            blocks[name]["lora_key"] = jax.random.key_data(keys)
            blocks[name]["lora_keep"] = jnp.full(layers, 1 - lora.dropout, jnp.float32)
    return base | {"blocks": blocks}


def merge(base: Params, adapters: Params, lora: LoraConfig) -> Params:
    """Returns plain float32 parameters that compute what base and adapters do together."""

    @jax.jit
    def add(kernel: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        flat_a, flat_b = a.reshape(len(a), -1, a.shape[-1]), b.reshape(len(b), b.shape[1], -1)
        product = jnp.einsum("lir,lro->lio", flat_a, flat_b, precision=jax.lax.Precision.HIGHEST)
        return kernel.astype(jnp.float32) + (lora.alpha / lora.rank) * product.reshape(kernel.shape)

    merged = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), base)
    for name, leaves in adapters["blocks"].items():
        linear = merged["blocks"][name]
        linear["kernel"] = add(linear["kernel"], leaves["lora_a"], leaves["lora_b"])
    return merged


def save_peft(
    adapters: Params, model: ModelConfig, lora: LoraConfig, directory: str | os.PathLike[str], base: str
) -> None:
    """Writes adapters as HF `peft` reads them: `adapter_config.json` and `adapter_model.safetensors`, float32.

    Args:
      adapters: what was trained; every shard must be on this host.
      model: the base's shape.
      lora: rank, alpha, targets, dropout.
      directory: an existing folder.
      base: name or path of the base model, which PEFT loads.

    Raises:
      DataError: an adapter is not finite.
    """
    tensors = {}
    for parameter in adapter_table(model, lora):
        array = np.asarray(leaf_of(adapters, parameter.path), np.float32)
        if not np.isfinite(array).all():
            raise DataError(f"{parameter.name}: adapter is not finite; nothing was exported")
        for layer, name in enumerate(parameter.hf_names):
            tensors[_PEFT_PREFIX + name] = np.ascontiguousarray(parameter.to_hf(array[layer]))
    save_file(tensors, Path(directory) / "adapter_model.safetensors", metadata={"format": "pt"})
    modules = [kernel.hf_name.removesuffix(".weight").split(".")[-1] for kernel in _kernels(model, lora)]
    files.write_json(
        Path(directory) / "adapter_config.json",
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": lora.rank,
            "lora_alpha": lora.alpha,
            "lora_dropout": lora.dropout,
            "target_modules": modules,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
        },
    )
