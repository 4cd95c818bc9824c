"""Reads values of a config.json; a value that would change the network is an error that names it."""

from collections.abc import Mapping
from typing import Any

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.errors import DataError

Values = Mapping[str, Any]
LAYER_TYPES = {"s": "sliding_attention", "f": "full_attention"}  # {letter of `model.layer_kinds`: name in config.json}


def number(values: Values, where: str, kind: type, *names: str, default: float | None = None) -> Any:
    """Returns the value of the first of these keys that exists, a positive number.

    Raises:
      DataError: none exists and there is no default, or it is not a positive number of this kind.
    """
    value = next((values[name] for name in names if values.get(name) is not None), default)
    if type(value) not in (int, float) or value != kind(value) or value <= 0:
        raise DataError(f"{where}: {names[0]} is {value!r}; it must be a positive {kind.__name__}")
    return kind(value)


def flag(values: Values, where: str, name: str, default: bool = False) -> bool:
    """Returns the value of a key that is true or false.

    Raises:
      DataError: it has another value.
    """
    value = default if values.get(name) is None else values[name]
    if type(value) is not bool:
        raise DataError(f"{where}: {name} is {value!r}; it must be true or false")
    return value


def only(values: Values, where: str, **supported: tuple[Any, ...]) -> None:
    """Checks that keys have values that the network supports; an absent key and null mean the default.

    Raises:
      DataError: a key has a value other than those given for it.
    """
    for key, choices in supported.items():
        if (value := values.get(key)) is not None and value not in choices:
            words = " or ".join(map(repr, choices)) or "null"
            raise DataError(f"{where}: {key}={value!r} is not supported, only {words}")


# Keys of other networks under these model types: experts, quantised weights, caps, multipliers.
_FOREIGN = (
    "quantization_config", "num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size", "clip_qkv",
    "attn_logit_softcapping", "final_logit_softcapping", "logit_scale", "logits_scaling", "residual_multiplier",
    "embedding_multiplier", "attention_multiplier", "no_rope_layers", "no_rope_layer_interval", "attention_chunk_size",
)  # fmt: skip


def refuse_foreign(values: Values, where: str) -> None:
    """Checks that there is no key that none of the rotary families supports.

    Raises:
      DataError: there is one, and it is neither null nor 0.
    """
    only(
        values, where, **dict.fromkeys(_FOREIGN, (0, False)), partial_rotary_factor=(1,), rope_interleaved=(False,),
        use_bidirectional_attention=(False,), pretraining_tp=(1,),
    )  # fmt: skip


def layer_kinds(values: Values, where: str, layers: int, fallback: str) -> str:
    """Returns a letter for each layer from `layer_types`: s (sliding attention) or f (full); `fallback` where absent.

    Raises:
      DataError: there is another kind of layer, or not one kind per layer.
    """
    types = values.get("layer_types")
    if types is None:
        return fallback
    letters = {name: letter for letter, name in LAYER_TYPES.items()}
    if not isinstance(types, list) or len(types) != layers or not all(kind in letters for kind in types):
        raise DataError(f"{where}: layer_types must name {layers} layers, each {' or '.join(letters)}; it is {types!r}")
    return "".join(letters[kind] for kind in types)


def every_nth_full(layers: int, n: int) -> str:
    """Returns a letter for each layer; every n-th attends to all positions and the others to a window."""
    return "".join("f" if (layer + 1) % n == 0 else "s" for layer in range(layers))


def letters_of(model: ModelConfig) -> str:
    """Returns a letter for each layer of a model, as `layer_kinds` does of a config.json."""
    return "".join("s" if slides else "f" for slides in model.slides)


def rope(values: Values, where: str, default_theta: float, kind: str = "") -> tuple[float, str]:
    """Returns (theta, `model.rope_scaling`) from either form: `rope_parameters` of transformers 5, or the older keys.

    Args:
      values: of config.json.
      where: its path.
      default_theta: the family's.
      kind: key in `rope_parameters` if layers of two kinds have one entry each; empty: it is flat.

    Raises:
      DataError: the two forms disagree, or the scaling is neither linear nor llama3.
    """
    new, old = values.get("rope_parameters") or {}, values.get("rope_scaling") or {}
    if kind and isinstance(new, Mapping):
        new = new.get(kind) or {}
    if not (isinstance(new, Mapping) and isinstance(old, Mapping)):
        raise DataError(f"{where}: rope_parameters and rope_scaling must be objects")
    found = [_scaling(given, values, where) for given in (new, old) if given]
    if len(set(found)) > 1:
        raise DataError(f"{where}: rope_parameters has {found[0]!r} and rope_scaling {found[1]!r}; keep one of them")
    thetas = [number(given, where, float, "rope_theta") for given in (new, old, values) if given.get("rope_theta")]
    if len(set(thetas)) > 1:
        raise DataError(f"{where}: rope_theta is {thetas[0]!r} in one place and {thetas[1]!r} in another; keep one")
    return (thetas or [default_theta])[0], found[0] if found else ""


def _scaling(given: Values, values: Values, where: str) -> str:
    kinds = {given[key] for key in ("rope_type", "type") if given.get(key) is not None} or {"default"}
    if len(kinds) > 1:
        raise DataError(f"{where}: rope_type={given['rope_type']!r} but type={given['type']!r}; keep one of them")
    only(given, where, partial_rotary_factor=(1,), attention_factor=(1,), mscale=(1,))
    (kind,) = kinds
    if kind == "default":
        return ""
    if kind == "linear":
        return f"linear:{number(given, where, float, 'factor')}"
    if kind != "llama3":
        raise DataError(f"{where}: rope_type={kind!r} is not supported, only 'default', 'linear' or 'llama3'")
    original = "original_max_position_embeddings"
    source = given if given.get(original) is not None else values
    numbers = [number(given, where, float, name) for name in ("factor", "low_freq_factor", "high_freq_factor")]
    return ":".join(["llama3", *map(str, numbers), str(number(source, where, int, original))])


def rope_entries(theta: float, scaling: str) -> dict[str, Any]:
    """Returns one entry of `rope_parameters`."""
    names = ("factor", "low_freq_factor", "high_freq_factor")
    kind, *numbers = scaling.split(":") if scaling else ("default",)
    entry: dict[str, Any] = {"rope_theta": theta, "rope_type": kind}
    entry |= {name: float(value) for name, value in zip(names, numbers, strict=False)}
    if kind == "llama3":
        entry["original_max_position_embeddings"] = int(numbers[-1])
    return entry


def rope_scaling(entry: Values) -> dict[str, Any] | None:
    """Returns the older key `rope_scaling` of an entry of `rope_parameters`; None where nothing is scaled."""
    if entry["rope_type"] == "default":
        return None
    return {key: value for key, value in entry.items() if key != "rope_theta"}
