"""Checks of a Hugging Face directory before it is served: what transformers, vLLM and llama.cpp read in it."""

import dataclasses
import importlib.util
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
from ecomgpt_jax.decoding.engine import generate_tokens
from ecomgpt_jax.errors import EcomError
from ecomgpt_jax.model.gguf_read import GgufFile, hf_config, hf_tensors
from ecomgpt_jax.model.gguf_write import write_gguf
from ecomgpt_jax.model.hf_files import Tensors, find_weight_files
from ecomgpt_jax.model.hf_weights import load_hf, model_config_from_hf

PROMPTS = (
    "Classify the sentiment of this review.", "The red ceramic mug isn't what I'd expect; it broke!", "$12.50  (50%)",
    "请将下面的商品标题分类", "这款陶瓷马克杯质量很好，物流也快。", "价格99元 👍", "### Response:", "f(x):\n    12",
)  # fmt: skip
NEW_TOKENS = 16
_SAMPLING = ("temperature", "top_p", "top_k", "do_sample", "repetition_penalty")
_ONLY_IN_5 = ("TokenizersBackend", "PythonBackend", "SentencePieceBackend")


class Check(NamedTuple):
    """Outcome of one check: what was looked at, whether it failed, and a few words."""

    name: str
    failed: bool
    words: str


class _Failed(Exception):
    """A check that does not hold."""


def _require(holds: bool, words: str) -> None:
    if not holds:
        raise _Failed(words)


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def check_export(directory: Path, tokenizer: Any, keys: Mapping[str, Any] | None) -> Iterator[Check]:
    """Yields the outcome of each check, in order of cost; what needs a package that is not installed is passed over.

    Args:
      directory: of Hugging Face's layout.
      tokenizer: its tokenizer (`data.tokenizer.Tokenizer`).
      keys: the tokenizer's keys in a GGUF file; None where it has none.
    """
    prompts, cache = tokenizer.encode_prompts(PROMPTS), {}

    def ours() -> list[list[int]]:
        if "answers" not in cache:
            model = model_config_from_hf(directory)
            cache["answers"] = generate_tokens(
                load_hf(directory, model), dataclasses.replace(model, compute_dtype="float32"), prompts,
                max_new_tokens=NEW_TOKENS, eos_ids=tokenizer.stop_ids, allowed_ids=tokenizer.ids, batch=len(prompts),
            )  # fmt: skip
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
        if package and not _has(package):
            yield Check(name, False, f"passed over, {package} is not installed")
            continue
        try:
            yield Check(name, False, run())
        except (_Failed, EcomError, OSError, KeyError, ValueError, RuntimeError) as error:
            yield Check(name, True, (str(error) or type(error).__name__).splitlines()[0])


def _files(directory: Path) -> str:
    needed = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
    missing = [name for name in needed if not (directory / name).is_file()]
    _require(not missing, f"no {', '.join(missing)}")
    return f"{len(find_weight_files(directory))} of weights"


def _config(directory: Path) -> str:
    config = files.read_json(directory / "config.json")
    context = config.get("max_position_embeddings") or config.get("seq_length")
    _require(bool(context), "neither seq_length nor max_position_embeddings; servers would guess the context")
    _require(bool(config.get("architectures")), "no architectures; servers would not know the class")
    model_config_from_hf(directory)
    return f"{config['architectures'][0]}, {context} positions"


def _special(directory: Path, tokenizer: Any) -> str:
    config, generation = (files.read_json(directory / name) for name in ("config.json", "generation_config.json"))
    sampling = [key for key in _SAMPLING if key in generation]
    _require(not sampling, f"generation_config.json sets {', '.join(sampling)}, which a server would follow")
    for where, values in (("config.json", config), ("generation_config.json", generation)):
        ends = values.get("eos_token_id")
        listed = set(ends if isinstance(ends, list) else [ends])
        _require(listed == set(tokenizer.stop_ids), f"{where}: eos_token_id {ends}, the tokenizer {tokenizer.stop_ids}")
    _require(tokenizer.size <= config["vocab_size"], f"ids up to {tokenizer.size - 1}, {config['vocab_size']} rows")
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
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it is float16
    server = xllamacpp.Server(settings)
    asked = {"n_predict": new_tokens, "temperature": 0, "top_k": 1, "return_tokens": True, "cache_prompt": False}
    answers = []
    for prompt in prompts:
        done = requests.post(f"{server.listening_address}/completion", json={"prompt": prompt, **asked}, timeout=600)
        answers.append(done.json()["tokens"])
    return answers


def _compare(theirs: list[list[int]], ours: list[list[int]], stops: Sequence[int]) -> str:
    """Returns how many answers, up to their ends, are equal; one of them may fall otherwise at a near tie."""

    def cut(answer: list[int]) -> list[int]:
        return answer[: next((at for at, token in enumerate(answer) if token in stops), len(answer))]

    same = sum(cut(answer) == cut(own) for answer, own in zip(theirs, ours, strict=True))
    words = f"{same} of {len(ours)} greedy answers equal ours"
    _require(same >= len(ours) - 1, words)
    return words
