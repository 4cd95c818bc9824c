"""The cases in which a network here must equal HF's, with weights and batches that a seed makes anywhere.

`RandomState` is used because numpy promises its stream never changes; so only outputs need to be stored.
"""

from typing import Any

import numpy as np
import pytest

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.model.parameters import Params, parameter_table, to_tree

LLAMA = {"family": "llama", "embed": 64, "heads": 4, "mlp": 96, "head_chunk": 16}
SHORT = (24, ((0, 0), (0, 9), (7, 0), (3, 5)))
# name: (fields of the model, length, (padding on the left, padding on the right) of each row)
CASES: dict[str, tuple[dict[str, Any], int, tuple[tuple[int, int], ...]]] = {
    "heads8_padded": ({"embed": 64, "heads": 8}, *SHORT),
    "heads12_length300": ({"embed": 96, "heads": 12}, 300, ((0, 0), (31, 0))),
    "heads16_padded": ({"embed": 64, "heads": 16}, 40, ((0, 0), (0, 17), (23, 0))),
    # The original length is so short that the scaling acts on all but the first of eight frequencies.
    "llama": (
        LLAMA | {"kv_heads": 2, "biases": "attention", "tied_head": False, "rope_scaling": "llama3:8.0:1.0:4.0:64"},
        *SHORT,
    ),
    "smollm2": (
        LLAMA | {"embed": 72, "heads": 9, "kv_heads": 3, "rope_theta": 1e5, "layer_norm_epsilon": 1e-2}, *SHORT,
    ),
    "mistral": (LLAMA | {"kv_heads": 1, "head_dim": 24, "tied_head": False, "window": 6}, *SHORT),
    "qwen2": (LLAMA | {"kv_heads": 2, "biases": "qkv", "window": 6, "layer_kinds": "fs"}, *SHORT),
    "qwen3": (LLAMA | {"kv_heads": 2, "head_dim": 32, "qk_norm": True, "rope_theta": 1e6}, *SHORT),
    "gemma": (
        LLAMA | {
            "family": "gemma", "layers": 3, "kv_heads": 1, "head_dim": 24, "window": 6, "layer_kinds": "sfs",
            "rope_theta": 1e6, "rope_scaling": "linear:8.0", "local_rope_theta": 100.0, "query_scale": 16.0,
        },
        *SHORT,
    ),
}  # fmt: skip
BLOOM = tuple(name for name, (fields, *_) in CASES.items() if "family" not in fields)
FAMILIES = ("heads8_padded", *(name for name in CASES if name not in BLOOM))  # all on batches [4, 24]


def families(*quick: str) -> list[Any]:
    """Returns all but BLOOM as parameters of a test; those that are not named are slow ones."""
    marks = {name: [] if name in quick else pytest.mark.slow for name in FAMILIES[1:]}
    return [pytest.param(name, marks=mark) for name, mark in marks.items()]


STORED = 400  # entries stored of each parameter's gradient, and of the logits: rows of every 11th position
LOGIT_STEP = 11


def case_model(name: str) -> ModelConfig:
    usual = {"size": "custom", "layers": 2, "vocab_size": 128, "compute_dtype": "float32", "head_chunk": 32}
    return ModelConfig(**usual | CASES[name][0])


def random_params(model: ModelConfig, seed: int = 0) -> Params:
    """Weights large enough that attention is peaked and every bias and norm matters."""
    random = np.random.RandomState(seed)
    leaves = {}
    for parameter in parameter_table(model):
        centre, spread = (model.family != "gemma", 0.3) if parameter.path[-1] == "scale" else (0, 0.15)
        leaves[parameter.path] = (centre + spread * random.standard_normal(parameter.shape)).astype(np.float32)
    return to_tree(leaves)


def case_batch(name: str) -> dict[str, np.ndarray]:
    """Batch with the keys of training; a position carries loss where it and the next are no padding."""
    _, length, paddings = CASES[name]
    random = np.random.RandomState(1)
    inputs = random.randint(4, 128, (len(paddings), length)).astype(np.int32)
    segment_ids = np.ones_like(inputs)
    for row, (left, right) in enumerate(paddings):
        segment_ids[row, :left] = segment_ids[row, length - right :] = 0
    inputs[segment_ids == 0] = 3
    targets = np.concatenate([inputs[:, 1:], np.full_like(inputs[:, :1], 3)], axis=1)
    following = np.concatenate([segment_ids[:, 1:], np.zeros_like(inputs[:, :1])], axis=1)
    return {
        "inputs": inputs,
        "targets": targets,
        "segment_ids": segment_ids,
        "loss_mask": (segment_ids > 0) & (following > 0),
    }


def stored_entries(size: int) -> np.ndarray:
    return np.random.RandomState(2).permutation(size)[:STORED]


def torch_outputs(directory: str, batch: dict[str, np.ndarray]) -> tuple[np.ndarray, float, dict[str, np.ndarray]]:
    """(logits, mean loss, gradient of each parameter by HF name) of HF's fp32 model on an HF directory."""
    import torch
    import transformers

    network = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    labels = np.full_like(batch["inputs"], -100)
    labels[:, 1:] = np.where(batch["loss_mask"][:, :-1], batch["inputs"][:, 1:], -100)
    as_long = {name: torch.from_numpy(batch[name]).long() for name in ("inputs", "segment_ids")}
    outputs = network(
        input_ids=as_long["inputs"], attention_mask=as_long["segment_ids"], labels=torch.from_numpy(labels).long()
    )
    outputs.loss.backward()
    gradients = {
        name.removeprefix("transformer.").removeprefix("model."): weight.grad.numpy()
        for name, weight in network.named_parameters()
        if weight.grad is not None
    }
    return outputs.logits.detach().numpy(), outputs.loss.item(), gradients
