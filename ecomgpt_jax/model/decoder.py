"""The decoder that all families share, and the functions that run it on a plain params pytree.

`model/families/` declares the networks: parameter table, block, norms. This module has the embedding, one `lax.scan`
over the blocks, which are one stacked module, the final norm and the head. Properties that differ between layers (a
window, the angles of the rotation) are scanned over too, so program size does not grow with depth. The functions merge
the modules with `params` (nested dictionaries, see `parameters.py`), so that a jitted step passes arrays only.
"""

import dataclasses
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.model import attention
from ecomgpt_jax.model.families import family_of
from ecomgpt_jax.model.fused_attention import CONTEXT, segment_positions
from ecomgpt_jax.model.layers import Adapters, Attend, Declare, in_decoding_step, residual
from ecomgpt_jax.model.parameters import Params, param_shardings, parameter_table
from ecomgpt_jax.model.product import matmul_precision, narrower, stream_dtype
from ecomgpt_jax.model.rotation import Rotation, angles, inverse_frequencies, rotate
from ecomgpt_jax.parallel.sharding import constrain

# What each remat policy keeps of a block besides its input; `selective` recomputes mainly the wide MLP.
_policies = jax.checkpoint_policies
_KEPT = {
    "selective": _policies.save_only_these_names("qkv", CONTEXT, "attended"),
    "dots": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable, _policies.save_only_these_names(CONTEXT)
    ),
    "full": None,
}


class Attention(NamedTuple):
    """The parameters of attention that are not weights.

    Attributes:
      slopes: ALiBi's, float32 [heads]; None: none.
      frequencies: of the rotation, float32 [2, head_dim / 2], in full and in sliding layers; None: none.
      window: keys that a query of a sliding layer attends to, its own included.
      slides: whether a layer slides, bool [layers].
      scale: of the scores.
    """

    slopes: np.ndarray | None
    frequencies: np.ndarray | None
    window: int
    slides: np.ndarray
    scale: float

    @property
    def mixed(self) -> bool:
        """Whether there are layers of both kinds."""
        return bool(self.slides.any() and not self.slides.all())

    def rotations(self, positions: jax.Array) -> Rotation | None:
        """Returns the rotation by positions int [batch, length] in full and in sliding layers [2, ...]; None: none."""
        return None if self.frequencies is None else angles(self.frequencies, positions)

    def rotated(
        self, q: jax.Array, k: jax.Array, rotations: Rotation | None, slides: jax.Array | bool
    ) -> tuple[jax.Array, jax.Array]:
        """Returns q and k of a layer of one kind, rotated if the model has a rotation."""
        if rotations is None:
            return q, k
        rotation = jax.tree.map(lambda of_kind: of_kind[jnp.int32(slides) if self.mixed else int(slides)], rotations)
        return rotate(q, rotation), rotate(k, rotation)


def attention_of(model: ModelConfig) -> Attention:
    """Returns the attention parameters of a model."""
    family = family_of(model)
    thetas, width = family.thetas(model), model.head_width
    frequencies = None if thetas is None else np.stack([inverse_frequencies(width, *theta) for theta in thetas])
    scale = 1 / np.sqrt(model.query_scale or width)
    return Attention(family.slopes(model), frequencies, model.window, np.array(model.slides), float(scale))


def layer_kinds(model: ModelConfig) -> Sequence[np.ndarray | None]:
    """Returns for each layer whether it slides, as an argument of one program for all; None if layers are alike."""
    of = attention_of(model)
    return list(of.slides) if of.mixed else [None] * model.layers


def make_attend(
    model: ModelConfig, segment_ids: jax.Array | None, rotations: Rotation | None, slides: jax.Array | None,
    keep: list[tuple[jax.Array, jax.Array]] | None = None,
) -> Attend:  # fmt: skip
    """Returns the function that a block calls for attention inside segments.

    Args:
      model: shapes and numerics.
      segment_ids: int [batch, length], 0 is padding; None: each row is one segment.
      rotations: `Attention.rotations` of the tokens' positions.
      slides: whether the layer slides, bool []; None: all layers are alike.
      keep: called with (k, v) in the form of the cache.
    """
    of = attention_of(model)
    kind = bool(of.slides[0]) if slides is None else slides

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        q, k = of.rotated(q, k, rotations, kind)
        if keep is not None:
            keep.append((k, v))
        return attention.attend(
            q, k, v, segment_ids, model.attention, slopes=of.slopes, window=of.window, slides=kind, scale=of.scale,
            operands=model.compute_dtype,
        )  # fmt: skip

    return attend


def _positions(segment_ids: jax.Array | None, inputs: jax.Array) -> jax.Array:
    """Returns the position of each token in its segment, from 0, int32 [batch, length]."""
    return segment_positions(jnp.ones_like(inputs) if segment_ids is None else segment_ids)


def _declaring(model: ModelConfig, rngs: nnx.Rngs) -> Declare:
    """Returns a function that makes a parameter (of one block, if blocks are stacked) from the parameter table."""
    entries = {parameter.name: parameter for parameter in parameter_table(model)}

    def declare(path: str) -> nnx.Param | None:
        entry = entries.get(path)
        return entry and nnx.Param(entry.initializer(rngs.params(), entry.layer_shape, jnp.float32))

    return declare


class Embedding(nnx.Module):
    """The word embedding, or an untied head."""

    def __init__(self, declare: Declare, path: str, dtype: str) -> None:
        self.table = declare(f"{path}/table")
        self.dtype = jnp.dtype(dtype)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Looks up int [batch, length]; an id outside the vocabulary gives nan, never another row.

        The table is not gathered: each device reads its share of `embed` for the rows of its whole FSDP group, and then
        the devices exchange activations, a hundredth of the size of the table.
        """
        ids = constrain(inputs.astype(jnp.uint32), "group_batch", "length")  # a negative id would index from the end
        table = self.table[...]
        rows = jnp.take(table, ids, axis=0, mode="fill", fill_value=jnp.nan)
        rows = rows.astype(stream_dtype(table.dtype, self.dtype))
        return residual(constrain(rows, "group_batch", "length", "embed"))

    def logits(self, hidden: jax.Array, by_vocab: bool = False) -> jax.Array:
        """Maps hidden [..., embed] to float32 [..., vocab]; hidden [batch, 1, embed] `by_vocab` to [vocab, batch].

        `by_vocab` uses the table in its layout. For [batch, vocab] XLA copies it to another layout on a CPU at every
        step, which takes as long as the product itself if the batch is small.
        """
        step, table = in_decoding_step(hidden), self.table[...]
        operands = narrower(hidden, table)
        hidden = (residual(hidden) if step else hidden).astype(operands)
        table = table.astype(operands)
        product = partial(jnp.einsum, precision=matmul_precision(operands), preferred_element_type=jnp.float32)
        if by_vocab:
            return constrain(product("ve,be->vb", table, hidden[:, 0]), "vocab", "batch")
        logits = product("...e,ve->...v", hidden, table)
        return constrain(logits, "batch", "length", "vocab") if step else logits


def _block(model: ModelConfig, rngs: nnx.Rngs) -> nnx.Module:
    return family_of(model).Block(model, _declaring(model, rngs))


class Decoder(nnx.Module):
    """The whole network up to the final norm; the head is `head.logits`, or `embedding.logits` if it is tied."""

    def __init__(self, model: ModelConfig, rngs: nnx.Rngs) -> None:
        declare, family = _declaring(model, rngs), family_of(model)
        paths = {parameter.path[0] for parameter in parameter_table(model)}
        self.embedding = Embedding(declare, "embedding", model.compute_dtype)
        self.embedding_norm = family.norm(declare, "embedding_norm", model) if "embedding_norm" in paths else None
        self.blocks = nnx.vmap(lambda rngs: _block(model, rngs), in_axes=0, out_axes=0)(rngs.split(model.layers))
        self.final_norm = family.norm(declare, "final_norm", model)
        self.head = Embedding(declare, "head", model.compute_dtype) if "head" in paths else None

    def embed(self, inputs: jax.Array, model: ModelConfig) -> jax.Array:
        """Maps token ids int [batch, length] to the first block's input [batch, length, embed], compute dtype."""
        rows = family_of(model).scale_embedding(self.embedding(inputs))
        return rows if self.embedding_norm is None else residual(self.embedding_norm(rows))

    def __call__(
        self, inputs: jax.Array, segment_ids: jax.Array | None, adapters: Adapters | None, model: ModelConfig
    ) -> jax.Array:
        """Maps token ids int [batch, length] to hidden [batch, length, embed] after the final norm."""
        of, rotations = attention_of(model), None
        if of.frequencies is not None:
            rotations = of.rotations(_positions(segment_ids, inputs))
        graph, weights = nnx.split(self.blocks)

        def step(x: jax.Array, layer: tuple[nnx.State, Adapters | None, jax.Array | None]) -> tuple[jax.Array, None]:
            attend = make_attend(model, segment_ids, rotations, layer[2])
            return nnx.merge(graph, layer[0])(x, attend, layer[1]), None

        if model.remat != "none":
            step = jax.checkpoint(step, policy=_KEPT[model.remat], prevent_cse=False)
        kinds = jnp.asarray(of.slides) if of.mixed else None
        return self.final_norm(jax.lax.scan(step, self.embed(inputs, model), (weights, adapters, kinds))[0])


@lru_cache(maxsize=16)
def _graphs(fields: tuple) -> tuple[nnx.GraphDef, nnx.GraphDef]:
    """Returns the structure of the model and of one block, without creating arrays."""
    model = ModelConfig(*fields)
    whole, one = (nnx.eval_shape(lambda make=make: make(model, nnx.Rngs(params=0))) for make in (Decoder, _block))
    return nnx.split(whole)[0], nnx.split(one)[0]


def _decoder(params: Params, model: ModelConfig) -> Decoder:
    if isinstance(params["blocks"], tuple):  # layered: passed to `block`, and not read by the rest of the network
        params = params | {"blocks": params["blocks"][0]}
    return nnx.merge(_graphs(dataclasses.astuple(model))[0], params)


def init_params(model: ModelConfig, key: jax.Array) -> Params:
    """Returns fresh float32 weights: normal with `initializer_range` for matrices; norms and biases without effect."""
    return nnx.to_pure_dict(nnx.split(Decoder(model, nnx.Rngs(params=key)))[1])


def init_sharded_params(
    model: ModelConfig, mesh: Mesh, key: jax.Array, dtype: jax.typing.DTypeLike = jnp.float32
) -> Params:
    """Returns `init_params`, created sharded on `mesh`: no device ever holds a whole array that is split.

    Raises:
      ConfigError: a parameter that the mesh does not divide.
    """

    def init(key: jax.Array) -> Params:
        return jax.tree.map(lambda leaf: leaf.astype(dtype), init_params(model, key))

    with jax.set_mesh(mesh):
        return jax.jit(init, out_shardings=param_shardings(model, mesh))(key)


def embed(params: Params, inputs: jax.Array, model: ModelConfig) -> jax.Array:
    """Maps token ids int [batch, length] to the first block's input [batch, length, embed]."""
    return _decoder(params, model).embed(inputs, model)


def block(block_params: Params, x: jax.Array, attend: Attend, model: ModelConfig) -> jax.Array:
    """Runs one block.

    Args:
      block_params: one layer of `params["blocks"]` (index its stacked arrays).
      x: [batch, length, embed] in the compute dtype.
      attend: maps q [batch, length, heads, head_dim] and k, v [batch, length, kv_heads, head_dim] to the context, of
        q's shape; `make_attend` makes it.
      model: the shape of the network.

    Returns:
      [batch, length, embed] in x's dtype.
    """
    return nnx.merge(_graphs(dataclasses.astuple(model))[1], block_params)(x, attend)


def final_norm(params: Params, x: jax.Array, model: ModelConfig) -> jax.Array:
    """Applies the norm between the last block and the head to x [batch, length, embed]."""
    return _decoder(params, model).final_norm(x)


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
      adapters: added to its linear layers; None: none.

    Returns:
      hidden [batch, length, embed] in the compute dtype.
    """
    return _decoder(params, model)(inputs, segment_ids, adapters, model)


def logits(params: Params, hidden: jax.Array, model: ModelConfig, by_vocab: bool = False) -> jax.Array:
    """Applies the head: hidden [..., embed] to float32 [..., vocab]; see `Embedding.logits` for `by_vocab`."""
    decoder = _decoder(params, model)
    return (decoder.head or decoder.embedding).logits(hidden, by_vocab)


def head_table(params: Params) -> jax.Array:
    """Returns the weights of the head [vocab, embed]; those of the embedding if it is tied."""
    return (params["head"] if "head" in params else params["embedding"])["table"]
