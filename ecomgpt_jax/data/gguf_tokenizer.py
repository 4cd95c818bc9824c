"""Converts the tokenizer of a GGUF file to Hugging Face files, and such files to the keys of a GGUF file.

A GGUF file lists tokens, their types, and merges or scores; the split before merging is only named
(`tokenizer.ggml.pre`). `SPLITS` holds llama.cpp's splits for the names of the families here.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from ecomgpt_jax.data.tokenizer import Tokenizer, check_vocabulary, load_tokenizer
from ecomgpt_jax.errors import DataError
from ecomgpt_jax.files import read_json, write_json, write_text

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # tokenizer.ggml.token_type
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# {name: (patterns that split text, or "digits" and "gpt2" for components of the tokenizers library)}
SPLITS: dict[str, tuple[str, ...]] = {
    "gpt-2": ("gpt2",),
    "bloom": (" ?[^(\\s|.,!?…。，、।۔،)]+",),
    "llama-bpe": (rf"{_WORDS}\p{{N}}{{1,3}}{_REST}",),
    "qwen2": (rf"{_WORDS}\p{{N}}{_REST}",),
    "smollm": ("digits", "gpt2"),
    "tekken": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
}
_SAME = {"llama3": "llama-bpe", "llama-v3": "llama-bpe", "deepseek-r1-qwen": "qwen2", "gpt2": "gpt-2"}
_WHOLE_WORDS = ("llama-bpe", "tekken")  # a word in the vocabulary is one token, without merges
_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")  # llama.cpp stops at these without a key
_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def _ids(values: Mapping[str, Any], tokens: list[str], where: str) -> dict[str, int | None]:
    """Returns {role: id}; SentencePiece files may omit three, for which llama.cpp has defaults."""
    known = {"bos": 1, "eos": 2, "unk": 0} if values["tokenizer.ggml.model"] == "llama" else {}
    found = {role: values.get(f"tokenizer.ggml.{key}_token_id", known.get(role)) for role, key in _ROLES.items()}
    for role, index in found.items():
        if index is not None and not (type(index) is int and 0 <= index < len(tokens)):
            raise DataError(f"{where}: {role} token {index!r} is none of its {len(tokens):,} tokens")
    if found["eos"] is None:
        raise DataError(f"{where}: no key tokenizer.ggml.eos_token_id")
    return found


def _scored_merges(vocab: Mapping[str, int], rank: Mapping[str, float]) -> list[tuple[str, str]]:
    """Returns each pair of tokens that concatenates to a token, the lowest `rank` first."""
    found = []
    for token in vocab:
        halves = ((token[:at], token[at:]) for at in range(1, len(token)))
        pairs = [pair for pair in halves if pair[0] in vocab and pair[1] in vocab]
        found += [(rank[token], -len(left), -len(right), left, right) for left, right in pairs]
    found.sort(key=lambda merge: merge[:3])
    return [merge[3:] for merge in found]


def _sentencepiece(
    values: Mapping[str, Any], vocab: dict[str, int], types: list[int], roles: Mapping[str, int | None], where: str
) -> tokenizers.Tokenizer:
    tokens, scores = values["tokenizer.ggml.tokens"], values.get("tokenizer.ggml.scores")
    if scores is None or len(scores) != len(tokens):
        raise DataError(f"{where}: no key tokenizer.ggml.scores with a score per token")
    if values["general.architecture"] == "gemma3":  # merges are ordered by ids, not by scores
        respelled = {" " * len(token): "\u2581" * len(token) for token in vocab if token and not token.strip(" ")}
        vocab = {respelled.get(token, token): index for token, index in vocab.items()}
        rank = {token: float(index) for token, index in vocab.items()}
    else:
        rank = {token: -scores[index] for token, index in vocab.items()}
    merged = {token: index for token, index in vocab.items() if types[index] not in (CONTROL, UNKNOWN, BYTE)}
    unknown = None if roles["unk"] is None else tokens[roles["unk"]]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab, _scored_merges(merged, rank), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    prefix = values.get("tokenizer.ggml.add_space_prefix", True)
    backend.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", "first" if prefix else "never", split=False)
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if prefix else parts)
    return backend


def _splitter(name: str, where: str) -> pre_tokenizers.PreTokenizer:
    if (known := _SAME.get(name, name)) not in SPLITS:
        raise DataError(f"{where}: pre-tokenizer {name!r} is none of {', '.join([*SPLITS, *_SAME])}")
    parts: list[pre_tokenizers.PreTokenizer] = []
    for part in SPLITS[known]:
        if part == "digits":
            parts.append(pre_tokenizers.Digits(individual_digits=True))
        elif part != "gpt2":
            parts.append(pre_tokenizers.Split(tokenizers.Regex(part), "isolated"))
    parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex="gpt2" in SPLITS[known]))
    return parts[0] if len(parts) == 1 else pre_tokenizers.Sequence(parts)


def _byte_level(values: Mapping[str, Any], vocab: dict[str, int], where: str) -> tokenizers.Tokenizer:
    merges, name = values.get("tokenizer.ggml.merges"), values.get("tokenizer.ggml.pre", "default")
    if not merges:
        raise DataError(f"{where}: no key tokenizer.ggml.merges")
    whole = _SAME.get(name, name) in _WHOLE_WORDS
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    if bad := next((pair for pair in pairs if any(part not in vocab for part in (*pair, "".join(pair)))), None):
        raise DataError(f"{where}: merge {' '.join(bad)!r} is not of two tokens that make a third")
    backend = tokenizers.Tokenizer(models.BPE(vocab, pairs, ignore_merges=whole))
    backend.pre_tokenizer, backend.decoder = _splitter(name, where), decoders.ByteLevel()
    return backend


def write_tokenizer(values: Mapping[str, Any], directory: Path, where: str) -> Tokenizer:
    """Writes the tokenizer that a GGUF file's metadata describes as Hugging Face files, and loads it.

    Args:
      values: {key: value} of the file.
      directory: an existing directory.
      where: name of the file, for errors.

    Raises:
      DataError: keys are missing or contradictory, or the kind of tokenizer is unknown.
    """
    kind = values.get("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise DataError(f"{where}: tokenizer.ggml.model {kind!r} is none of gpt2, llama")
    tokens = values.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise DataError(f"{where}: no key tokenizer.ggml.tokens")
    types = values.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise DataError(f"{where}: another number of types than of tokens")
    unused = {i for i, token in enumerate(tokens) if types[i] == UNUSED and token == f"[PAD{i}]"}
    vocab = {token: i for i, token in enumerate(tokens) if i not in unused}
    if len(vocab) != len(tokens) - len(unused):
        raise DataError(f"{where}: two tokens of one name")
    roles = _ids(values, tokens, where)
    backend = (
        _sentencepiece(values, vocab, types, roles, where) if kind == "llama" else _byte_level(values, vocab, where)
    )
    added = backend.get_vocab()
    control = [token for token, i in vocab.items() if types[i] == CONTROL]
    backend.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in control])
    plain = [token for token, i in vocab.items() if types[i] == USER_DEFINED and token in added]
    backend.add_tokens([tokenizers.AddedToken(token, special=False, normalized=False) for token in plain])
    names = {role: tokens[index] for role, index in roles.items() if index is not None}
    begins = kind == "llama" or values.get("tokenizer.ggml.pre") == "llama-bpe"  # llama.cpp's default without a key
    around = {
        "bos": values.get("tokenizer.ggml.add_bos_token", begins),
        "eos": values.get("tokenizer.ggml.add_eos_token", False),
    }
    if around["bos"] and "bos" not in names:
        raise DataError(f"{where}: a token begins each text, but there is no key tokenizer.ggml.bos_token_id")
    if any(around.values()):
        single = [*([names["bos"]] if around["bos"] else []), "$A", *([names["eos"]] if around["eos"] else [])]
        special = [(names[role], roles[role]) for role in ("bos", "eos") if around[role]]
        backend.post_processor = processors.TemplateProcessing(single=" ".join(single), special_tokens=special)
    backend.save(str(directory / "tokenizer.json"))
    config = {f"{role}_token": token for role, token in names.items()}
    config |= {f"add_{role}_token": wanted for role, wanted in around.items()}
    write_json(
        directory / "tokenizer_config.json",
        {**config, "clean_up_tokenization_spaces": False, "tokenizer_class": "PreTrainedTokenizerFast"},
    )
    template = values.get("tokenizer.chat_template", "")
    if template:
        write_text(directory / "chat_template.jinja", template)
    ends = [roles["eos"], values.get("tokenizer.ggml.eot_token_id"), values.get("tokenizer.ggml.eom_token_id")]
    ends += [vocab[token] for token in _TURN_ENDS if token in vocab and token in template]
    stops = list(dict.fromkeys(index for index in ends if index is not None))
    write_json(directory / "generation_config.json", {"eos_token_id": stops})
    return load_tokenizer(directory)


def pre_tokenizer_name(description: Mapping[str, Any]) -> str:
    """Returns llama.cpp's name of the pre-tokenizer of a byte-level tokenizer.json; "" if it has none.

    Args:
      description: content of a tokenizer.json.
    """
    part = description.get("pre_tokenizer") or {}
    parts = part.get("pretokenizers", [part]) if part.get("type") == "Sequence" else [part]
    found: list[str] = []
    for each in parts:
        if each.get("type") == "Digits" and each.get("individual_digits"):
            found.append("digits")
        elif each.get("type") == "Split" and each.get("behavior") == "Isolated" and not each.get("invert"):
            found.append(each["pattern"].get("Regex", ""))
        elif each.get("type") == "ByteLevel" and not each.get("add_prefix_space"):
            found += ["gpt2"] if each.get("use_regex", True) else []
        else:
            return ""
    normalizer = (description.get("normalizer") or {}).get("type")
    name = next((name for name, patterns in SPLITS.items() if patterns == tuple(found)), "")
    return name if normalizer is None or (normalizer == "NFC" and name == "qwen2") else ""


def chat_template(directory: Path) -> str:
    """Returns the chat template of a tokenizer's files, of several the one named "default"; "" if there is none."""
    return _templates(directory).get("default", "")


def _templates(directory: Path) -> dict[str, str]:
    """Returns {name: chat template}, from chat_template.jinja or tokenizer_config.json."""
    path, config = directory / "chat_template.jinja", directory / "tokenizer_config.json"
    found = path.read_text("utf-8") if path.is_file() else ""
    if not found and config.is_file():
        found = read_json(config).get("chat_template")
    if isinstance(found, list):
        return {each["name"]: each["template"] for each in found}
    return {"default": found} if found else {}


def vocabulary(tokenizer: Tokenizer, rows: int) -> tuple[dict[str, Any], list[str]]:
    """Returns the keys `tokenizer.…` that describe a tokenizer in a GGUF file, and notes on what they cannot represent.

    Args:
      tokenizer: the tokenizer.
      rows: of the model's embedding; rows without a token get a name and the type UNUSED.

    Raises:
      DataError: the tokenizer has ids beyond the model's.
    """
    check_vocabulary(tokenizer, rows)
    description = read_json(tokenizer.directory / "tokenizer.json")
    model, lines = description["model"], []
    every = tokenizer.backend.get_vocab(with_added_tokens=True)
    vocab = {token: index for token, index in every.items() if index < rows}
    if past := sorted(every.keys() - vocab.keys()):
        lines.append(f"left out, since the model has no row for it: {', '.join(past)}")
    byte_level = model["type"] == "BPE" and '"ByteLevel"' in json.dumps(description.get("pre_tokenizer"))
    byte_fallback = model["type"] == "BPE" and bool(model.get("byte_fallback"))
    tokens, types = [f"[PAD{i}]" for i in range(rows)], [UNUSED] * rows
    for token, index in vocab.items():
        tokens[index], types[index] = token, NORMAL
        if not byte_level and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            types[index] = BYTE
    for entry in description.get("added_tokens", []):
        if entry["id"] < rows:
            types[entry["id"]] = CONTROL if entry["special"] else USER_DEFINED
    for index in tokenizer.hidden & {*vocab.values()}:  # also turn markers, whatever their type
        types[index] = CONTROL
    if not byte_level and tokenizer.unk_id is not None:
        types[tokenizer.unk_id] = UNKNOWN
    keys: dict[str, Any] = {"tokenizer.ggml.model": "gpt2" if byte_level else "llama"}
    if byte_level:
        keys["tokenizer.ggml.pre"] = pre_tokenizer_name(description)
        if not keys["tokenizer.ggml.pre"]:
            keys["tokenizer.ggml.pre"] = "bloom"
            lines.append("llama.cpp has no name for how this tokenizer splits text: send it ids, not text")
        merges = (merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
        keys["tokenizer.ggml.merges"] = list(merges)
    else:
        splits, normalizer = (json.dumps(description.get(part)) for part in ("pre_tokenizer", "normalizer"))
        prefix = any(f'"prepend_scheme": "{scheme}"' in splits for scheme in ("first", "always"))
        prefix |= '"Prepend"' in normalizer
        keys |= {"tokenizer.ggml.pre": "default", "tokenizer.ggml.add_space_prefix": prefix}
        keys["tokenizer.ggml.scores"] = _scores(model, tokens)
        if not byte_fallback:
            lines.append(f"llama.cpp has no tokenizer of the kind {model['type']}: send it ids, not text")
    keys |= {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    ends = [index for index in tokenizer.stop_ids if index != tokenizer.eos_id]
    if len(ends) > 1:
        lines.append(f"the file keeps two ends of an answer, {tokenizer.eos_id} and {ends[0]}; also stop on {ends[1:]}")
    ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "unknown": tokenizer.unk_id, "padding": tokenizer.pad_id}
    ids["eot"] = ends[0] if ends else None
    if ids["bos"] is None:  # if absent, llama.cpp assumes id 11 (gpt2) or 1 (llama)
        ids["bos"] = tokenizer.eos_id
    keys |= {f"tokenizer.ggml.{role}_token_id": index for role, index in ids.items() if index is not None}
    whole = tokenizer.backend.encode("a", add_special_tokens=True).ids
    keys["tokenizer.ggml.add_bos_token"] = tokenizer.prefix == (tokenizer.bos_id,)
    keys["tokenizer.ggml.add_eos_token"] = whole[-1:] == [tokenizer.eos_id]
    if tokenizer.prefix and not keys["tokenizer.ggml.add_bos_token"]:
        raise DataError(f"{tokenizer.directory}: puts {list(tokenizer.prefix)} before a text, not the bos token")
    templates = _templates(tokenizer.directory)
    if "default" in templates:
        keys["tokenizer.chat_template"] = templates["default"]
    elif templates:
        lines.append("has chat templates, but none is named default: the file carries none")
    for line in lines:
        logging.warning("%s: %s", tokenizer.directory, line)
    return keys, lines


def _scores(model: Mapping[str, Any], tokens: list[str]) -> list[float]:
    """Returns a score per token: minus the index of the first merge that makes it; for Unigram the stored score."""
    if model["type"] == "Unigram":
        own = dict(model["vocab"])
        return [own.get(token, -1000.0) for token in tokens]
    first: dict[str, float] = {}
    for place, merge in enumerate(model.get("merges", [])):
        left, right = merge if not isinstance(merge, str) else merge.split(" ", 1)
        first.setdefault(left + right, -float(place))
    return [first.get(token, -1e6) for token in tokens]
