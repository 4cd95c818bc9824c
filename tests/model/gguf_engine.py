"""Models written as GGUF, and llama.cpp's greedy answers to them."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from ecomgpt_jax.model import gguf_write
from tests.model.gguf_files import VOCABULARY

KEYS = VOCABULARY | {"tokenizer.ggml.add_bos_token": False}
torch.set_num_threads(1)  # of small products on few cores
PROMPTS = [np.random.RandomState(i).randint(4, 101, 2 + i).tolist() for i in range(50)]
TOKENS = 24


def bloom(heads: int) -> transformers.PreTrainedModel:
    """A random BLOOM whose answers do not settle on one token."""
    torch.manual_seed(heads)
    config = transformers.BloomConfig(hidden_size=8 * heads, n_layer=2, n_head=heads, vocab_size=128, seq_length=96)
    model = transformers.BloomForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight + 0.2 * torch.randn_like(weight))
    return model


def written(model: transformers.PreTrainedModel, folder: Path, dtype: str = "float32") -> Path:
    model.save_pretrained(folder / "hf")
    gguf_write.write_gguf(folder / "hf", folder / f"{dtype}.gguf", dtype, KEYS, "m")
    return folder / f"{dtype}.gguf"


def engine_answers(
    path: Path, prompts: list[list[int]], ignore_eos: bool = True, lora: Path | None = None
) -> list[list[int]]:
    """Greedy ids of llama.cpp with its cache in float32 and without fused attention, which is float16."""
    engine = pytest.importorskip("xllamacpp")
    settings = engine.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel = str(path), 96, 1
    settings.warmup, settings.fit_params, settings.verbosity = False, False, 0
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.cache_type_k = settings.cache_type_v = engine.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = engine.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if lora:
        settings.lora_adapters = [engine.CommonAdapterLoraInfo(str(lora), 1.0)]
    server, answers = engine.Server(settings), []
    for ids in prompts:
        request = {
            "prompt": ids,
            "n_predict": TOKENS,
            "temperature": 0,
            "top_k": 1,
            "logprobs": 1,
            "cache_prompt": False,
        }
        done = server.handle_completions(request | {"ignore_eos": ignore_eos})
        answers.append([token["id"] for token in done["choices"][0]["logprobs"]["content"]])
    return answers


def disagreements(
    model: transformers.PreTrainedModel, prompts: list[list[int]], answers: list[list[int]]
) -> list[float]:
    """By how much of the logits' spread the best token beats the answer's, at each answer's first other token.

    A token is the greedy one where it is the best after the prompt and the answer so far.
    """
    found = []
    for ids, answer in zip(prompts, answers, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([ids + answer[:-1]])).logits[0, len(ids) - 1 :]
        logits[:, 2] = -np.inf  # the end of sequence, which the engine was told to ignore
        for row, token in zip(logits, answer, strict=True):
            if row.argmax() != token:
                found.append(float((row.max() - row[token]) / row[torch.isfinite(row)].std()))
                break
    return found
