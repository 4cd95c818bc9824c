"""Tokenizers: a Hugging Face directory's `tokenizer.json`, or one trained on the built data.

A trained tokenizer has BLOOM's scheme (bigscience/bloom, tokenizer.json: byte-level BPE after one split pattern, no
prefix space, no normalisation, `<unk> <s> </s> <pad>` at ids 0 to 3) with another pattern: each Chinese character and
each run of punctuation is separate, so a span has the same tokens in a title, in a list of labels and as an answer,
which simplifies copying for a small model. BLOOM merges "品牌:" and whole Chinese phrases.

The ids of special tokens come from the tokenizer's files, or if these name none, from generation_config.json and
config.json. Text is never encoded as a control token: "</s>" inside a product review is four ordinary characters, and
the end-of-sequence token is added by id.

The file is longer than 350 lines because roles, control tokens and the layout of prompts are read from the same files.
"""

import dataclasses
import hashlib
import itertools
import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import transformers

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.data.chat import Turn, read_turn
from ecomgpt_jax.errors import DataError, MissingInputError
from ecomgpt_jax.files import copy_tokenizer_files, new_directory, read_json, write_json
from ecomgpt_jax.instruct import choose

SPLIT_PATTERN = r"\p{Han}|[\p{P}\p{S}]+| ?[^\s\p{Han}\p{P}\p{S}]+|\s"
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>")
_ROLES = ("bos", "eos", "pad", "unk")
_CLASSES_OF_5 = ("TokenizersBackend", "PythonBackend", "SentencePieceBackend")  # unknown to transformers 4
_TEMPLATE = "ecomgpt_template"  # key of tokenizer_config.json
_SAMPLE = 100_000  # instances for training a tokenizer, evenly spaced


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Encodes text as data (control tokens stay plain text) and decodes ids.

    Control tokens are those with a role (bos, eos, pad, unk and the like), those that end an answer, those marked
    special, and those that look like markup and occur in a chat template. Other added tokens are ordinary words.

    Attributes:
      directory: folder of its files, which are copied to exported weights.
      backend: the compiled tokenizer.
      eos_id: end-of-sequence id, which closes every response.
      stop_ids: ids that end an answer: `eos_id`, and others listed in generation_config.json.
      pad_id: id of padding; `eos_id` if the files name none, as in HF's `generate`.
      bos_id: id of the beginning of a sequence; None if there is none.
      unk_id: id of unknown text; None if there is none.
      prefix: ids that the tokenizer's post-processor puts before a text; none for BLOOM.
      ids: [number of tokens] int32, all ids, ascending, possibly with gaps.
      respelled: {id of a control token that plain text can encode to: other ids that spell it}.
      fingerprint: sha256 of everything that determines the ids of a text and of its end.
      control: {id: token} of the control tokens.
      hidden: ids of the control tokens that decoding omits: all but tags of an answer's parts, such as `<think>` and
        `</think>`, if no file marks them special.
      turn: layout of a prompt by the chat template, with `data.template=chat`; None: a prompt is a text.
    """

    directory: Path
    backend: tokenizers.Tokenizer
    eos_id: int
    stop_ids: tuple[int, ...]
    pad_id: int
    bos_id: int | None
    unk_id: int | None
    prefix: tuple[int, ...]
    ids: np.ndarray
    respelled: dict[int, list[int]]
    fingerprint: str
    control: dict[int, str]
    hidden: frozenset[int]
    turn: Turn | None = None

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return int(self.ids[-1]) + 1

    @property
    def rows(self) -> int:
        """Rows that a model's embedding must have: `size`, without unused control tokens at the end.

        The text-only checkpoints of Gemma 3 have an image token without a row.
        """
        written = {self.bos_id, self.pad_id, *self.stop_ids, *self.prefix}
        own = (index for index in self.ids.tolist() if index in written or index not in self.control)
        return 1 + max((*self.prefix, *own))

    @property
    def token_ids(self) -> dict[str, int | list[int] | None]:
        """The ids by their names in HF's config.json and generation_config.json."""
        ends = self.eos_id if len(self.stop_ids) == 1 else list(self.stop_ids)
        ids = (self.bos_id, ends, self.pad_id, self.unk_id)
        return {f"{role}_token_id": value for role, value in zip(_ROLES, ids, strict=True)}

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, as HF's `encode(text, add_special_tokens=False)`, without control tokens."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text, encoded on all cores."""
        found = [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        for place, ids in enumerate(found if self.respelled else ()):
            if not self.respelled.keys().isdisjoint(ids):
                found[place] = self._respell(texts[place])
        return found

    def encode_prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text at the beginning of a sequence: `prefix` and its own, or the whole `turn`."""
        if self.turn:
            return self.turn.encode(list(texts), self.encode_batch)
        return [[*self.prefix, *ids] for ids in self.encode_batch(texts)]

    def cut(self, prompt: list[int], limit: int) -> list[int]:
        """Returns a prompt's ids, at most `limit`: of a longer one `prefix` and its end."""
        keep = len(self.prefix)
        return prompt if len(prompt) <= limit else [*prompt[:keep], *prompt[len(prompt) - max(0, limit - keep) :]]

    def _respell(self, text: str) -> list[int]:
        encoding, ids = self.backend.encode(text, add_special_tokens=False), []
        for index, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            # The unknown token also replaces text other than its own name, where it is kept.
            written = index != self.unk_id or text[start:end].strip() == self.backend.id_to_token(index)
            ids += self.respelled.get(index, [index]) if written else [index]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of `ids` without those of `hidden`."""
        return self.backend.decode([index for index in ids if index not in self.hidden], skip_special_tokens=False)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Copies the tokenizer's files to `directory` (created if needed), in a form that transformers 4 and 5 read.

        Special tokens and class are named in tokenizer_config.json, the ids in generation_config.json.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        copy_tokenizer_files(self.directory, directory)
        path = directory / "tokenizer_config.json"
        config = read_json(path) if path.is_file() else {}
        added = (
            self.backend.get_added_tokens_decoder()
        )  # HF would add a token for any other name, and omit it in decoding
        for role, index in zip(_ROLES, (self.bos_id, self.eos_id, self.pad_id, self.unk_id), strict=True):
            if index in added and not config.get(f"{role}_token") and (role, index) != ("pad", self.eos_id):
                config[f"{role}_token"] = added[index].content
        own_code = config.pop("auto_map", None)  # which is not copied; tokenizer.json is complete without it
        if own_code or config.get("tokenizer_class", _CLASSES_OF_5[0]) in _CLASSES_OF_5:
            config["tokenizer_class"] = "PreTrainedTokenizerFast"
        if isinstance(config.get("extra_special_tokens"), list):  # in transformers 4 a dictionary has this name
            config["additional_special_tokens"] = config.pop("extra_special_tokens")
        config.pop("backend", None)
        config.pop(_TEMPLATE, None)
        if self.turn:
            config[_TEMPLATE] = "chat"
        write_json(path, config)
        write_json(directory / "generation_config.json", self.token_ids)


def load_tokenizer(directory: str | os.PathLike[str], template: str | None = None) -> Tokenizer:
    """Loads the tokenizer of a Hugging Face directory.

    Truncation, padding and dropout in tokenizer.json are switched off.

    Args:
      directory: its files.
      template: layout of prompts, `released` or `chat`; None: the layout of training, which `save` records in
        tokenizer_config.json.

    Raises:
      MissingInputError: the directory or its `tokenizer.json` does not exist.
      DataError: the tokenizer cannot be read, or its files name no end-of-sequence token, or one that is ordinary text;
        for `chat`, there is no chat template, or `read_turn` does not support it.
    """
    directory = Path(directory)
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise MissingInputError(f"{path}: no tokenizer there; point model.tokenizer at a directory that has one")
    content = path.read_bytes()
    try:
        # This class reads any tokenizer.json unchanged; others rebuild parts of it.
        loaded = transformers.PreTrainedTokenizerFast.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # the compiled library raises bare Exception
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not a readable tokenizer ({reason})") from error
    backend = loaded.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    if getattr(backend.model, "dropout", None):
        backend.model.dropout = None
    numbers = backend.get_vocab(with_added_tokens=True).values()
    if (largest := max(numbers, default=0)) >= 2**31:
        raise DataError(f"{path}: its ids go up to {largest:,}, which no embedding table has")
    ids = np.unique(np.fromiter(numbers, np.int32))
    roles, stop_ids = _roles(directory, loaded, set(ids.tolist()))
    if roles["eos"] is None:
        raise DataError(f"{path}: no end-of-sequence token; name it as eos_token in tokenizer_config.json")
    control, hidden = _control_tokens(loaded, {*stop_ids, *roles.values()}, roles["eos"])
    backend.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in control.values()])
    backend.encode_special_tokens = True
    respelled = _respellings(backend, control, roles["unk"])
    if respelled.get(roles["eos"]) == []:
        end = backend.id_to_token(roles["eos"])
        raise DataError(f"{path}: {end!r} ends a sequence, but is also ordinary text; name another eos_token")
    prefix = _prefix(backend)
    decisive = (sorted(control.items()), roles["eos"], prefix)
    found = Tokenizer(
        directory=directory,
        backend=backend,
        eos_id=roles["eos"],
        stop_ids=stop_ids,
        pad_id=roles["eos"] if roles["pad"] is None else roles["pad"],
        bos_id=roles["bos"],
        unk_id=roles["unk"],
        prefix=prefix,
        ids=ids,
        respelled={index: spelling for index, spelling in respelled.items() if spelling},
        fingerprint=hashlib.sha256(content + repr(decisive).encode()).hexdigest(),
        control=control,
        hidden=hidden,
    )
    config = directory / "tokenizer_config.json"
    noted = config.is_file() and read_json(config).get(_TEMPLATE) == "chat"
    return _with_chat(found, loaded) if (template or ("chat" if noted else "released")) == "chat" else found


def export_tokenizer(source: Path, target: Path, declared: Mapping[str, Any]) -> Tokenizer:
    """Writes a tokenizer's files to an existing directory as `Tokenizer.save` does, and returns the tokenizer.

    Args:
      source: its files; trainers write them without generation_config.json and config.json.
      target: the directory.
      declared: ids of the weights (`declared_ids`), used if `source` has none.
    """
    copy_tokenizer_files(source, target)
    own = declared_ids(source)
    write_json(target / "generation_config.json", own or dict(declared))
    tokenizer = load_tokenizer(target)
    tokenizer.save(target)
    return tokenizer


def _with_chat(tokenizer: Tokenizer, loaded: transformers.PreTrainedTokenizerFast) -> Tokenizer:
    """Returns a tokenizer whose prompts have the layout of its chat template, which `read_turn` reads from `loaded`."""
    turn = read_turn(loaded, tokenizer.encode_batch, tokenizer.control, tokenizer.directory / "tokenizer.json")
    return dataclasses.replace(
        tokenizer,
        turn=turn,
        eos_id=turn.end_id,
        stop_ids=tuple(dict.fromkeys([turn.end_id, *tokenizer.stop_ids])),
        hidden=tokenizer.hidden | {turn.end_id},
        prefix=(*turn.head, *tokenizer.encode(turn.before)),
        fingerprint=hashlib.sha256(f"{tokenizer.fingerprint}:{turn}".encode()).hexdigest(),
    )


def declared_ids(directory: Path) -> dict[str, Any]:
    """Returns the ids of bos, eos, pad and unk in generation_config.json, or else in config.json.

    Raises:
      DataError: a file is damaged, or an id is neither an id nor a list of ids.
    """
    found: dict[str, Any] = {}
    for path in (directory / "config.json", directory / "generation_config.json"):
        values = read_json(path) if path.is_file() else {}
        for key in (f"{role}_token_id" for role in _ROLES):
            value = values.get(key) if isinstance(values, dict) else None
            listed = value if isinstance(value, list) else [value]
            if value is not None and not all(type(index) is int and index >= 0 for index in listed):
                raise DataError(f"{path}: {key} is {value!r}; it must be an id, or a list of ids")
            if value not in (None, []):
                found[key] = value
    return found


def _roles(
    directory: Path, loaded: transformers.PreTrainedTokenizerFast, ids: Set[int]
) -> tuple[dict[str, int | None], tuple[int, ...]]:
    """Returns {role: id} and the ids that end an answer; where files disagree, those of the tokenizer, with a
    warning."""
    declared, roles, stop_ids = declared_ids(directory), {}, ()
    for role in _ROLES:
        value, own = declared.get(f"{role}_token_id"), getattr(loaded, f"{role}_token_id")
        listed = value if isinstance(value, list) else [] if value is None else [value]
        known = [index for index in dict.fromkeys(listed) if index in ids]
        roles[role] = own if own is not None else next(iter(known), None)
        if own is not None and listed and own not in listed:
            logging.warning(
                "%s: %s_token_id is %s in its config, but %r is %d in its tokenizer, which counts",
                directory, role, value, loaded.convert_ids_to_tokens(own), own,
            )  # fmt: skip
            known = [own]
        if role == "eos" and roles["eos"] is not None:
            stop_ids = tuple(dict.fromkeys([roles["eos"], *known]))
    return roles, stop_ids


def _control_tokens(
    loaded: transformers.PreTrainedTokenizerFast, with_role: Set[int | None], eos_id: int
) -> tuple[dict[int, str], frozenset[int]]:
    """Returns the tokens that text must never encode to, {id: token}, and the ids of those that decoding omits."""
    templates = loaded.chat_template or ""
    text = templates if isinstance(templates, str) else "\n".join(templates.values())
    named = set(loaded.all_special_tokens)
    chosen, tags = {eos_id: loaded.convert_ids_to_tokens(eos_id)}, {}
    for index, token in loaded.added_tokens_decoder.items():
        markup = re.search(r"[^\w\s]", token.content) and token.content in text  # "<|user|>", but not the word "user"
        marked = token.special or index in with_role or token.content in named
        if marked or markup:
            chosen[index] = token.content
        if markup and not marked and (tag := re.fullmatch(r"</?([\w-]+)>", token.content)):
            tags[index] = tag[1]
    names = list(tags.values())
    paired = {index for index, name in tags.items() if names.count(name) == 2}  # "<x>" and "</x>"
    return chosen, frozenset(chosen.keys() - paired)


def _respellings(backend: tokenizers.Tokenizer, control: Mapping[int, str], unk_id: int | None) -> dict[int, list[int]]:
    """Returns other ids for each control token that plain text can encode to; [] if there are none.

    Unigram and word vocabularies match any of their entries in text, BPE those that its merges produce.
    """

    def pieces(text: str) -> list[int]:
        try:
            return [token.id for token in backend.model.tokenize(text)]
        except Exception:  # text that the vocabulary cannot encode, and no unknown token
            return []

    found: dict[int, list[int]] = {}
    for index, token in control.items():
        if index in pieces(token):
            halves = ((pieces(token[:at]), pieces(token[at:])) for at in range(1, len(token)))
            spellings = [[*left, *right] for left, right in halves if left and right]
            allowed = [ids for ids in spellings if not (control.keys() - {unk_id} | {index}) & set(ids)]
            found[index] = min(allowed, key=lambda ids: unk_id in ids, default=[])
    return found


def _prefix(backend: tokenizers.Tokenizer) -> tuple[int, ...]:
    plain, whole = (backend.encode("a", add_special_tokens=wanted).ids for wanted in (False, True))
    starts = [at for at in range(len(whole)) if plain and whole[at : at + len(plain)] == plain]
    return tuple(whole[: starts[0]]) if starts else ()


def train_tokenizer(texts: Iterable[str], vocab_size: int, directory: str | os.PathLike[str]) -> Tokenizer:
    """Trains a tokenizer in the module's scheme, writes it to `directory` and loads it back.

    The same texts give the same file. An existing directory is used unchanged, so the name of `directory` should depend
    on the training texts.
    """
    directory = Path(directory)
    if (directory / "tokenizer.json").is_file():
        return load_tokenizer(directory)
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(SPLIT_PATTERN), behavior="isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=sys.stderr.isatty(),
    )
    backend.train_from_iterator(texts, trainer)
    roles = {f"{role}_token": token for role, token in zip(("unk", "bos", "eos", "pad"), SPECIAL_TOKENS, strict=True)}
    with new_directory(directory, shared=True) as scratch:
        backend.save(str(scratch / "tokenizer.json"))
        write_json(scratch / "tokenizer_config.json", {**roles, "padding_side": "left"})
        load_tokenizer(scratch).save(scratch)
    return load_tokenizer(directory)


def find_tokenizer(
    directory: str | os.PathLike[str], instances: Sequence[Mapping[str, str]], fingerprint: str, data: DataConfig
) -> Tokenizer:
    """Returns the tokenizer in `directory`, or if that is empty one trained on the instances, now or earlier.

    Args:
      directory: of a `tokenizer.json`, or "".
      instances: {"prompt", "response"} each, read by slices.
      fingerprint: of the instances.
      data: size and cache of a trained tokenizer.

    Raises:
      EcomError: `directory` contains no tokenizer.
    """
    layout = data.template.partition(":")[0]
    if directory:
        return load_tokenizer(directory, layout)
    if layout == "chat":
        raise DataError("data.template=chat: a tokenizer trained here has no chat template; set model.init_from")
    stride = max(1, len(instances) // _SAMPLE)
    slices = (instances[i : i + 1024 * stride : stride] for i in range(0, len(instances), 1024 * stride))
    rows = itertools.chain.from_iterable(slices)
    # Texts of pretraining and instructions share the tokenizer; ten repeats give both about the same weight.
    wordings = choose.wordings(data) * 10 if data.plain_text else []
    texts = itertools.chain((row[part] for row in rows for part in ("prompt", "response")), wordings)
    known = hashlib.sha256("\0".join(wordings).encode()).hexdigest()
    key = hashlib.sha256(f"2:{fingerprint}:{data.tokenizer_vocab}:{known}".encode()).hexdigest()[:16]
    return train_tokenizer(texts, data.tokenizer_vocab, Path(data.cache_dir).expanduser() / f"tokenizer-{key}")


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Checks that a tokenizer produces no ids past the embedding table (jax would clamp them silently).

    Raises:
      DataError: it does; names the largest id and the rows.
    """
    if tokenizer.rows > vocab_size:
        raise DataError(
            f"{tokenizer.directory}: its ids go up to {tokenizer.rows - 1:,}, the model has only {vocab_size:,} "
            "embeddings; use the tokenizer that belongs to the weights, or set model.vocab_size=0 for a fresh model"
        )
