"""Checks of a Hugging Face directory before it is served, for transformers, vLLM and llama.cpp."""

import dataclasses
import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import requests
import tokenizers
import transformers

from ecomgpt_jax import files
from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.decoding.engine import generate_tokens
from ecomgpt_jax.decoding.scoring import mean_log_probabilities
from ecomgpt_jax.errors import EcomError
from ecomgpt_jax.model.gguf_read import GgufFile, hf_config, hf_tensors, write_hf
from ecomgpt_jax.model.gguf_write import write_gguf
from ecomgpt_jax.model.hf_files import Tensors, find_weight_files
from ecomgpt_jax.model.hf_weights import load_hf, model_config_from_hf

PROMPTS = (
    "Classify the sentiment of this review.", "The red ceramic mug isn't what I'd expect; it broke!", "$12.50  (50%)",
    "请将下面的商品标题分类", "这款陶瓷马克杯质量很好，物流也快。", "价格99元 👍", "### Response:", "f(x):\n    12",
)  # fmt: skip
NEW_TOKENS = 16
# Rounded weights change some answers; with fewer equal ones, or a larger change of the loss, the file is wrong.
_LEAST_EQUAL, _MOST_LOSS, _BATCH = 0.5, 0.1, 8
_SAMPLING = ("temperature", "top_p", "top_k", "do_sample", "repetition_penalty")
_ONLY_IN_5 = ("TokenizersBackend", "PythonBackend", "SentencePieceBackend")


class Check(NamedTuple):
    """Outcome of one check: its name, whether it failed, and a short text."""

    name: str
    failed: bool
    words: str


class _Failed(Exception):
    """A check failed."""


def _require(holds: bool, words: str) -> None:
    if not holds:
        raise _Failed(words)


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def check_export(directory: Path, tokenizer: Any, keys: Mapping[str, Any] | None) -> Iterator[Check]:
    """Yields the outcome of each check, in order of cost; checks that need a package that is not installed are skipped.

    Args:
      directory: of Hugging Face's layout.
      tokenizer: its tokenizer (`data.tokenizer.Tokenizer`).
      keys: the tokenizer's keys in a GGUF file; None if it cannot be described.
    """
    prompts, cache = tokenizer.encode_prompts(PROMPTS), {}

    def ours() -> list[list[int]]:
        if "answers" not in cache:
            cache["answers"] = _answers(*_float32(directory), tokenizer, prompts)
        return cache["answers"]

    checks: list[tuple[str, str, Callable[[], str]]] = [
        ("files", "", lambda: _files(directory)),
        ("config", "", lambda: _config(directory)),
        ("special tokens", "", lambda: _special(directory, tokenizer)),
        ("tokenizer", "", lambda: _tokenizer(directory)),
        ("tensors", "", lambda: f"{sum(leaf.size for leaf in jax.tree.leaves(load_hf(directory))):,} weights"),
        ("gguf", "gguf", lambda: _gguf(directory, keys)),
        ("torch", "torch", lambda: _compare(_torch(directory, prompts), ours(), tokenizer.stop_ids)),
        ("llama.cpp", "xllamacpp", lambda: _compare(_engine(directory, keys, prompts), ours(), tokenizer.stop_ids)),
    ]
    for name, package, run in checks:
        yield _outcome(name, [package] if package else [], run)


def check_dtype(
    directory: Path,
    tokenizer: Any,
    keys: Mapping[str, Any] | None,
    dtype: str,
    prompts: Sequence[Sequence[int]],
    right: Sequence[Sequence[int]],
) -> Check:
    """Compares a GGUF file of a dtype with the directory's weights in float32: answers and the loss of right ones.

    Args:
      directory: of Hugging Face's layout.
      tokenizer: its tokenizer.
      keys: the tokenizer's keys in a GGUF file; None if it cannot be described.
      dtype: of the kernels, a key of `gguf_write.TYPES`.
      prompts: token ids, cut from the left to the context.
      right: token ids of each prompt's right answer, with its end.

    Returns:
      How many of llama.cpp's greedy answers with the file equal ours in float32, and by how much the weights read back
      from it raise the mean loss, in nats per token.
    """

    def run() -> str:
        _require(keys is not None, "the tokenizer cannot be described")
        context = _context(files.read_json(directory / "config.json"))  # the longest prompt that llama.cpp accepts
        asked = [tokenizer.cut(list(ids), context - NEW_TOKENS) for ids in prompts]
        with tempfile.TemporaryDirectory() as beside:
            path, back = Path(beside) / "m.gguf", Path(beside) / "hf"
            write_gguf(directory, path, dtype, keys or {}, directory.name)
            theirs = llama_cpp_answers(path, asked, NEW_TOKENS, max(map(len, asked)) + NEW_TOKENS)
            back.mkdir()
            write_hf(GgufFile(path), back, "float32", {})
            loss = _loss(*_float32(back), asked, right)
        ours = _answers(*_float32(directory), tokenizer, asked)
        exact = _loss(*_float32(directory), asked, right)
        same = _equal(theirs, ours, tokenizer.stop_ids)
        words = f"{same} of {len(ours)} greedy answers of llama.cpp equal ours in float32; loss of right answers "
        words += f"{exact:.4f}, with the file's weights {loss - exact:+.4f} nats per token"
        _require(same >= _LEAST_EQUAL * len(ours) and abs(loss - exact) <= _MOST_LOSS, words)
        return words

    return _outcome(f"gguf {dtype}", ["gguf", "xllamacpp"], run)


def _outcome(name: str, packages: Sequence[str], run: Callable[[], str]) -> Check:
    if missing := [package for package in packages if not _has(package)]:
        return Check(name, False, f"passed over, {missing[0]} is not installed")
    try:
        return Check(name, False, run())
    except (_Failed, EcomError, OSError, KeyError, ValueError, RuntimeError) as error:
        return Check(name, True, (str(error) or type(error).__name__).splitlines()[0])


def _float32(directory: Path) -> tuple[Any, ModelConfig]:
    model = dataclasses.replace(model_config_from_hf(directory), compute_dtype="float32")
    return load_hf(directory, model), model


def _answers(params: Any, model: ModelConfig, tokenizer: Any, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    return generate_tokens(
        params, model, prompts, max_new_tokens=NEW_TOKENS, eos_ids=tokenizer.stop_ids, allowed_ids=tokenizer.ids,
        batch=_BATCH,
    )  # fmt: skip


def _loss(params: Any, model: ModelConfig, prompts: Sequence[Sequence[int]], right: Sequence[Sequence[int]]) -> float:
    return -float(np.mean(mean_log_probabilities(params, model, prompts, right, batch=_BATCH)))


def _files(directory: Path) -> str:
    needed = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
    missing = [name for name in needed if not (directory / name).is_file()]
    _require(not missing, f"no {', '.join(missing)}")
    return f"{len(find_weight_files(directory))} of weights"


def _config(directory: Path) -> str:
    config = files.read_json(directory / "config.json")
    context = _context(config)
    _require(bool(config.get("architectures")), "no architectures, from which servers choose the class")
    model_config_from_hf(directory)
    return f"{config['architectures'][0]}, {context} positions"


def _context(config: Mapping[str, Any]) -> int:
    context = config.get("max_position_embeddings") or config.get("seq_length")
    _require(bool(context), "neither seq_length nor max_position_embeddings; servers would guess the context")
    return int(context)


def _special(directory: Path, tokenizer: Any) -> str:
    config, generation = (files.read_json(directory / name) for name in ("config.json", "generation_config.json"))
    sampling = [key for key in _SAMPLING if key in generation]
    _require(not sampling, f"generation_config.json sets {', '.join(sampling)}, which a server would follow")
    for where, values in (("config.json", config), ("generation_config.json", generation)):
        ends = values.get("eos_token_id")
        listed = set(ends if isinstance(ends, list) else [ends])
        _require(listed == set(tokenizer.stop_ids), f"{where}: eos_token_id {ends}, the tokenizer {tokenizer.stop_ids}")
    _require(tokenizer.rows <= config["vocab_size"], f"ids up to {tokenizer.rows - 1}, {config['vocab_size']} rows")
    return f"ends of an answer {list(tokenizer.stop_ids)}"


def _tokenizer(directory: Path) -> str:
    config = files.read_json(directory / "tokenizer_config.json")
    kind = config.get("tokenizer_class")
    _require(kind not in _ONLY_IN_5, f"tokenizer_class {kind} is unknown to transformers 4")
    _require(not isinstance(config.get("extra_special_tokens"), list), "extra_special_tokens is a list")
    loaded = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    backend = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    other = [text for text in PROMPTS if loaded.encode(text) != backend.encode(text).ids]
    _require(not other, f"AutoTokenizer and tokenizer.json differ on {len(other)} prompts: {other[:1]}")
    return str(kind)


def _gguf(directory: Path, keys: Mapping[str, Any] | None) -> str:
    _require(keys is not None, "the tokenizer cannot be described")
    with tempfile.TemporaryDirectory() as beside:
        lines = write_gguf(directory, Path(beside) / "m.gguf", "float32", keys or {}, directory.name)
        file, stored = GgufFile(Path(beside) / "m.gguf"), Tensors(directory)
        tensors, _ = hf_tensors(file, hf_config(file, {}, "float32")[0])
        for tensor in tensors:
            name = tensor.name if tensor.name in stored.shapes else tensor.name.split(".", 1)[1]
            expected = stored.read(name).astype(np.float32)
            found = np.concatenate(list(tensor.pieces()))
            if not np.array_equal(found, expected):  # Gemma's 1 + w is rounded, and its query scale is folded in
                close = "norm" in name and np.allclose(found - found.mean(), expected - expected.mean(), atol=1e-6)
                _require(close, f"{tensor.name} is not the same after writing and reading")
    return "; ".join(["read back as written", *lines])


def _torch(directory: Path, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype="float32", local_files_only=True).eval()
    answers = []
    for ids in prompts:
        batch = transformers.BatchEncoding({"input_ids": [list(ids)]}, tensor_type="pt")
        answers.append(model.generate(**batch, max_new_tokens=NEW_TOKENS, do_sample=False)[0].tolist()[len(ids) :])
    return answers


def _engine(directory: Path, keys: Mapping[str, Any] | None, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    _require(keys is not None, "the tokenizer cannot be described")
    with tempfile.TemporaryDirectory() as beside:
        path = Path(beside) / "m.gguf"
        write_gguf(directory, path, "float32", keys or {}, directory.name)
        return llama_cpp_answers(path, prompts, NEW_TOKENS, 256)


def llama_cpp_answers(
    path: Path, prompts: Sequence[str | Sequence[int]], new_tokens: int, context: int
) -> list[list[int]]:
    """Returns the greedy tokens of llama.cpp, of the package `xllamacpp`, with a cache in float32.

    Args:
      path: a GGUF file.
      prompts: texts or token ids.
      new_tokens: per answer, at most.
      context: positions of prompt and answer, at most.
    """
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel = str(path), context, 1
    settings.warmup, settings.fit_params, settings.verbosity = False, False, 0
    # Its threads busy-wait for each other: on a busy machine one per core takes many times as long.
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = max(1, (os.cpu_count() or 1) // 2)
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED  # the default is float16
    server = xllamacpp.Server(settings)
    asked = {"n_predict": new_tokens, "temperature": 0, "top_k": 1, "return_tokens": True, "cache_prompt": False}
    answers = []
    for prompt in prompts:
        done = requests.post(f"{server.listening_address}/completion", json={"prompt": prompt, **asked}, timeout=600)
        said = done.json()
        _require("tokens" in said, f"llama.cpp: {said.get('error', said)}")
        answers.append(said["tokens"])
    return answers


def _compare(theirs: list[list[int]], ours: list[list[int]], stops: Sequence[int]) -> str:
    """Checks that all answers but one, which may be a near tie, are equal up to their ends; returns it as text."""

    same = _equal(theirs, ours, stops)
    words = f"{same} of {len(ours)} greedy answers equal ours"
    _require(same >= len(ours) - 1, words)
    return words


def _equal(theirs: Sequence[list[int]], ours: Sequence[list[int]], stops: Sequence[int]) -> int:
    def cut(answer: list[int]) -> list[int]:
        return answer[: next((at for at, token in enumerate(answer) if token in stops), len(answer))]

    return sum(cut(answer) == cut(own) for answer, own in zip(theirs, ours, strict=True))
