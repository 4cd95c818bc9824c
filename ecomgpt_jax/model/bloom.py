"""BLOOM as Flax nnx modules, and the functions that run them on a plain params pytree.

The modules declare the parameters and hold the mathematics; the functions below merge them with `params` (nested
dictionaries, see `parameters.py`), so that a jitted step passes arrays only. All blocks are one stacked module and the
forward is one `lax.scan` over it. The architecture follows HF's modeling_bloom.py: LayerNorm after the embedding,
pre-LN blocks whose residual is the un-normalised input, fused qkv, tanh-GELU, a head tied to the embedding, no dropout.
"""

import dataclasses
from collections.abc import Callable
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.model import attention
from ecomgpt_jax.model.attention import matmul_precision
from ecomgpt_jax.model.fused_attention import CONTEXT
from ecomgpt_jax.model.lora import Adapters
from ecomgpt_jax.model.parameters import Params, param_shardings, parameter_table
from ecomgpt_jax.parallel.sharding import constrain

# What each remat policy keeps of a block besides its input; `selective` recomputes little more than the wide MLP.
_policies = jax.checkpoint_policies
_KEPT = {
    "selective": _policies.save_only_these_names("qkv", CONTEXT, "attended"),
    "dots": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable, _policies.save_only_these_names(CONTEXT)
    ),
    "full": None,
}

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # (q, k, v) -> context


def _declare(path: str, model: ModelConfig, rngs: nnx.Rngs) -> nnx.Param:
    """Makes one parameter (of one block, where blocks are stacked) as the parameter table says."""
    entry = next(parameter for parameter in parameter_table(model) if parameter.name == path)
    return nnx.Param(entry.initializer(rngs.params(), entry.layer_shape, jnp.float32))


@partial(jax.checkpoint, prevent_cse=False)  # saves its input in the compute dtype instead of float32 intermediates
def _normalise(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + epsilon) * scale + bias).astype(x.dtype)


@partial(jax.checkpoint, prevent_cse=False)
def gelu(x: jax.Array) -> jax.Array:
    """The tanh approximation with the constants of HF's BloomGelu; computed in float32, returned in x's dtype."""
    wide = x.astype(jnp.float32)
    return (wide * 0.5 * (1 + jnp.tanh(0.79788456 * wide * (1 + 0.044715 * wide * wide)))).astype(x.dtype)


class LayerNorm(nnx.Module):
    """LayerNorm with float32 statistics over the last axis."""

    def __init__(self, path: str, model: ModelConfig, rngs: nnx.Rngs) -> None:
        self.scale = _declare(f"{path}/scale", model, rngs)
        self.bias = _declare(f"{path}/bias", model, rngs)
        self.epsilon = model.layer_norm_epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises x [..., embed]; same shape and dtype out."""
        return _normalise(x, self.scale[...], self.bias[...], self.epsilon)


class Linear(nnx.Module):
    """A product over the last axes of the input and the first of the kernel, plus a bias and any adapters."""

    def __init__(self, path: str, model: ModelConfig, rngs: nnx.Rngs) -> None:
        self.name = path.split("/")[-1]
        self.kernel = _declare(f"{path}/kernel", model, rngs)
        self.bias = _declare(f"{path}/bias", model, rngs)

    def __call__(self, x: jax.Array, adapters: Adapters | None = None) -> jax.Array:
        """Maps x [batch, length, in…] to [batch, length, out…] in x's dtype; `adapters` are those of this block."""
        kernel, bias = self.kernel[...].astype(x.dtype), self.bias[...].astype(x.dtype)
        inputs = kernel.ndim - bias.ndim
        product = jnp.tensordot(x, kernel, axes=inputs, precision=matmul_precision(x.dtype)) + bias
        return product if adapters is None or self.name not in adapters.layers else product + adapters(self.name, x)


class Embedding(nnx.Module):
    """The word embedding, which is the head too."""

    def __init__(self, model: ModelConfig, rngs: nnx.Rngs) -> None:
        self.table = _declare("embedding/table", model, rngs)
        self.dtype = jnp.dtype(model.compute_dtype)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Looks up int [batch, length]; an id outside the vocabulary gives nan, never a neighbour's row.

        The table stays where it is: each device reads its share of `embed` for the rows of its whole FSDP group, and
        the activations, a hundredth of the table, are exchanged for whole rows.
        """
        ids = constrain(inputs.astype(jnp.uint32), "group_batch", "length")  # a negative id would count from the end
        rows = jnp.take(self.table[...], ids, axis=0, mode="fill", fill_value=jnp.nan).astype(self.dtype)
        return _residual(constrain(rows, "group_batch", "length", "embed"))

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Maps hidden [..., embed] to float32 [..., vocab]."""
        logits = jnp.einsum(
            "...e,ve->...v", _residual(hidden) if _stay(hidden) else hidden, self.table[...].astype(hidden.dtype),
            precision=matmul_precision(hidden.dtype), preferred_element_type=jnp.float32,
        )  # fmt: skip
        return constrain(logits, "batch", "length", "vocab") if _stay(hidden) else logits


def _stay(x: jax.Array) -> bool:
    """Whether x [batch, length, ...] holds one token per row, as in a decoding step.

    Then the weights stay where they are: each device multiplies its share of `embed` for the rows of its whole FSDP
    group and the results are summed. Gathered instead, the weights of all blocks would lie whole on every device, since
    the compiler takes what does not change out of the loop over steps.
    """
    return x.ndim == 3 and x.shape[1] == 1


def _residual(x: jax.Array) -> jax.Array:
    return constrain(x, "group_batch", "length", "embed") if _stay(x) else constrain(x, "batch", "length", None)


class Block(nnx.Module):
    """One transformer block; attention itself is passed in, so that training and decoding share the block."""

    def __init__(self, model: ModelConfig, rngs: nnx.Rngs) -> None:
        self.input_norm = LayerNorm("blocks/input_norm", model, rngs)
        self.qkv = Linear("blocks/qkv", model, rngs)
        self.attention_out = Linear("blocks/attention_out", model, rngs)
        self.post_norm = LayerNorm("blocks/post_norm", model, rngs)
        self.mlp_up = Linear("blocks/mlp_up", model, rngs)
        self.mlp_down = Linear("blocks/mlp_down", model, rngs)

    def __call__(self, x: jax.Array, attend: Attend, adapters: Adapters | None = None) -> jax.Array:
        """Maps x [batch, length, embed] to the same shape; `attend` sees q, k, v [batch, length, heads, head_dim]."""
        qkv = constrain(self.qkv(self.input_norm(x), adapters), "batch", "length", "heads", "qkv", "head_dim")
        context = attend(*jnp.unstack(checkpoint_name(qkv, "qkv"), axis=3))
        rows = "group_batch" if _stay(x) else "batch"
        context = constrain(context, rows, "length", "heads", "head_dim")
        x = checkpoint_name(_residual(x + self.attention_out(context, adapters)), "attended")
        up = constrain(self.mlp_up(self.post_norm(x), adapters), rows, "length", "mlp")
        return _residual(x + self.mlp_down(gelu(up), adapters))


class Bloom(nnx.Module):
    """The whole network up to the final norm; `embedding.logits` is the head."""

    def __init__(self, model: ModelConfig, rngs: nnx.Rngs) -> None:
        self.embedding = Embedding(model, rngs)
        self.embedding_norm = LayerNorm("embedding_norm", model, rngs)
        self.blocks = nnx.vmap(lambda rngs: Block(model, rngs), in_axes=0, out_axes=0)(rngs.split(model.layers))
        self.final_norm = LayerNorm("final_norm", model, rngs)
        self.attention, self.remat = model.attention, model.remat

    def embed(self, inputs: jax.Array) -> jax.Array:
        """Maps token ids int [batch, length] to the first block's input [batch, length, embed], compute dtype."""
        return _residual(self.embedding_norm(self.embedding(inputs)))

    def __call__(
        self, inputs: jax.Array, segment_ids: jax.Array | None = None, adapters: Adapters | None = None
    ) -> jax.Array:
        """Maps token ids int [batch, length] to hidden [batch, length, embed] after the final norm."""
        attend = partial(attention.attend, segment_ids=segment_ids, implementation=self.attention)
        graph, weights = nnx.split(self.blocks)

        def step(x: jax.Array, layer: tuple[nnx.State, Adapters | None]) -> tuple[jax.Array, None]:
            return nnx.merge(graph, layer[0])(x, attend, layer[1]), None

        if self.remat != "none":
            step = jax.checkpoint(step, policy=_KEPT[self.remat], prevent_cse=False)
        return self.final_norm(jax.lax.scan(step, self.embed(inputs), (weights, adapters))[0])


@lru_cache(maxsize=16)
def _graphs(fields: tuple) -> tuple[nnx.GraphDef, nnx.GraphDef]:
    """Returns the structure of the model and of one block, without making any array."""
    model = ModelConfig(*fields)
    whole, one = (nnx.eval_shape(lambda kind=kind: kind(model, nnx.Rngs(params=0))) for kind in (Bloom, Block))
    return nnx.split(whole)[0], nnx.split(one)[0]


def _bloom(params: Params, model: ModelConfig) -> Bloom:
    if isinstance(params["blocks"], tuple):  # layered: `block` runs these, the rest of the network does not read them
        params = params | {"blocks": params["blocks"][0]}
    return nnx.merge(_graphs(dataclasses.astuple(model))[0], params)


def init_params(model: ModelConfig, key: jax.Array) -> Params:
    """Returns fresh float32 weights: normal with `initializer_range` for matrices, 1 and 0 for norms and biases."""
    return nnx.to_pure_dict(nnx.split(Bloom(model, nnx.Rngs(params=key)))[1])


def init_sharded_params(
    model: ModelConfig, mesh: Mesh, key: jax.Array, dtype: jax.typing.DTypeLike = jnp.float32
) -> Params:
    """Returns `init_params` made shard by shard on `mesh`, so that no device ever holds a whole array it has a part of.

    Raises:
      ConfigError: a parameter that the mesh does not divide.
    """

    def init(key: jax.Array) -> Params:
        return jax.tree.map(lambda leaf: leaf.astype(dtype), init_params(model, key))

    with jax.set_mesh(mesh):
        return jax.jit(init, out_shardings=param_shardings(model, mesh))(key)


def embed(params: Params, inputs: jax.Array, model: ModelConfig) -> jax.Array:
    """Maps token ids int [batch, length] to [batch, length, embed]: word embedding, then its LayerNorm."""
    return _bloom(params, model).embed(inputs)


def block(block_params: Params, x: jax.Array, attend: Attend, model: ModelConfig) -> jax.Array:
    """Runs one block.

    Args:
      block_params: one layer of `params["blocks"]` (index its stacked arrays).
      x: [batch, length, embed] in the compute dtype.
      attend: maps q, k, v [batch, length, heads, head_dim] to the context of the same shape.
      model: the shape of the network.

    Returns:
      [batch, length, embed] in x's dtype.
    """
    return nnx.merge(_graphs(dataclasses.astuple(model))[1], block_params)(x, attend)


def final_norm(params: Params, x: jax.Array, model: ModelConfig) -> jax.Array:
    """Applies the norm between the last block and the head to x [batch, length, embed]."""
    return _bloom(params, model).final_norm(x)


def forward(
    params: Params, inputs: jax.Array, segment_ids: jax.Array | None, model: ModelConfig,
    adapters: Adapters | None = None,
) -> jax.Array:  # fmt: skip
    """Runs the network up to its final norm.

    Args:
      params: from `init_params` or `load_hf`.
      inputs: token ids, int [batch, length].
      segment_ids: int [batch, length], 0 is padding; None: each row is one segment.
      model: the shape and numerics of the network.
      adapters: what is added to its linear layers; None: nothing.

    Returns:
      hidden [batch, length, embed] in the compute dtype.
    """
    return _bloom(params, model)(inputs, segment_ids, adapters)


def logits(params: Params, hidden: jax.Array, model: ModelConfig) -> jax.Array:
    """Applies the tied head: hidden [..., embed] to float32 [..., vocab]."""
    return _bloom(params, model).embedding.logits(hidden)
