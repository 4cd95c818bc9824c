"""The cases in which this BLOOM must equal HF's, with weights and batches that a seed makes anywhere.

`RandomState` is used because numpy promises its stream never changes; so only outputs need to be stored.
"""

import numpy as np

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.model.parameters import Params, parameter_table, to_tree

# name: (embed, heads, length, (padding on the left, padding on the right) of each row)
CASES = {
    "heads8_padded": (64, 8, 24, ((0, 0), (0, 9), (7, 0), (3, 5))),
    "heads12_length300": (96, 12, 300, ((0, 0), (31, 0))),
    "heads16_padded": (64, 16, 40, ((0, 0), (0, 17), (23, 0))),
}
STORED = 400  # entries stored of each parameter's gradient, and of the logits: rows of every 11th position
LOGIT_STEP = 11


def case_model(name: str) -> ModelConfig:
    embed, heads, _, _ = CASES[name]
    return ModelConfig(
        size="custom", embed=embed, layers=2, heads=heads, vocab_size=128, compute_dtype="float32", head_chunk=32
    )


def random_params(model: ModelConfig, seed: int = 0) -> Params:
    """Weights large enough that attention is peaked and every bias and norm matters."""
    random = np.random.RandomState(seed)
    leaves = {}
    for parameter in parameter_table(model):
        centre, spread = (1, 0.3) if parameter.path[-1] == "scale" else (0, 0.15)
        leaves[parameter.path] = (centre + spread * random.standard_normal(parameter.shape)).astype(np.float32)
    return to_tree(leaves)


def case_batch(name: str) -> dict[str, np.ndarray]:
    """Batch with the keys of training; a position carries loss where it and the next are no padding."""
    _, _, length, paddings = CASES[name]
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

    network = transformers.BloomForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    labels = np.full_like(batch["inputs"], -100)
    labels[:, 1:] = np.where(batch["loss_mask"][:, :-1], batch["inputs"][:, 1:], -100)
    as_long = {name: torch.from_numpy(batch[name]).long() for name in ("inputs", "segment_ids")}
    outputs = network(
        input_ids=as_long["inputs"], attention_mask=as_long["segment_ids"], labels=torch.from_numpy(labels).long()
    )
    outputs.loss.backward()
    gradients = {
        name.removeprefix("transformer."): weight.grad.numpy()
        for name, weight in network.named_parameters()
        if weight.grad is not None
    }
    return outputs.logits.detach().numpy(), outputs.loss.item(), gradients
