"""Tokenizers: a Hugging Face directory's `tokenizer.json`, or one trained on the built data.

What is trained is BLOOM's scheme (bigscience/bloom, tokenizer.json: byte-level BPE after one split pattern, no prefix
space, no normalisation, `<unk> <s> </s> <pad>` at ids 0 to 3) with another pattern: each Chinese character and each run
of punctuation stands alone, so that a span has the same tokens in a title, in a list of labels and as an answer, and a
small model has less to learn before it can copy one. BLOOM merges "品牌:" and whole Chinese phrases, and knows enough
text to see through it. Text never turns into a special token here: "</s>" inside a product review is four ordinary
characters, and the end-of-sequence token is added by id.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import tokenizers
import transformers

from ecomgpt_jax.config import DataConfig
from ecomgpt_jax.errors import DataError, MissingInputError
from ecomgpt_jax.files import copy_tokenizer_files, new_directory
from ecomgpt_jax.instruct import choose

SPLIT_PATTERN = r"\p{Han}|[\p{P}\p{S}]+| ?[^\s\p{Han}\p{P}\p{S}]+|\s"
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>")
_SAMPLE = 100_000  # instances that a tokenizer is trained on, evenly spaced


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Encodes text as data (specials stay plain text) and decodes ids.

    Attributes:
      directory: where its files are, to be copied beside exported weights.
      backend: the compiled tokenizer.
      eos_id: end-of-sequence id, which closes every response.
      pad_id: id of padding.
      size: number of ids it can produce; a model's vocabulary may be larger, never smaller.
      fingerprint: sha256 of `tokenizer.json`.
    """

    directory: Path
    backend: tokenizers.Tokenizer
    eos_id: int
    pad_id: int
    size: int
    fingerprint: str

    def encode(self, text: str) -> list[int]:
        """Returns the ids of one text, no special token among them."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text, encoded on all cores."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of `ids`; special tokens are left out."""
        return self.backend.decode(list(ids), skip_special_tokens=True)


def load_tokenizer(directory: str | os.PathLike[str]) -> Tokenizer:
    """Loads the tokenizer of a Hugging Face directory.

    Raises:
      MissingInputError: the directory or its `tokenizer.json` is not there.
      DataError: the files cannot be read as a tokenizer, or name no end-of-sequence token.
    """
    directory = Path(directory)
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise MissingInputError(f"{path}: no tokenizer there; point model.tokenizer at a directory that has one")
    content = path.read_bytes()
    try:
        backend = tokenizers.Tokenizer.from_buffer(content)
        loaded = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        eos_id, pad_id = loaded.eos_token_id, loaded.pad_token_id
    except Exception as error:  # the compiled library raises bare Exception
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not a readable tokenizer ({reason})") from error
    if eos_id is None:
        eos_id = backend.token_to_id("</s>")
    if eos_id is None:
        raise DataError(f"{path}: no end-of-sequence token; name it as eos_token in tokenizer_config.json")
    backend.encode_special_tokens = True
    return Tokenizer(
        directory=directory,
        backend=backend,
        eos_id=eos_id,
        pad_id=eos_id if pad_id is None else pad_id,
        size=backend.get_vocab_size(with_added_tokens=True),
        fingerprint=hashlib.sha256(content).hexdigest(),
    )


def train_tokenizer(texts: Iterable[str], vocab_size: int, directory: str | os.PathLike[str]) -> Tokenizer:
    """Trains a tokenizer in the module's scheme, writes it to `directory` and loads it back.

    The same texts give the same file. An existing directory is used as it is, so `directory` should be named after
    what the tokenizer is trained on.
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
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        padding_side="left",
    )  # fmt: skip
    with new_directory(directory, shared=True) as scratch:
        wrapped.save_pretrained(scratch)
    return load_tokenizer(directory)


def find_tokenizer(
    directory: str | os.PathLike[str], instances: Sequence[Mapping[str, str]], fingerprint: str, data: DataConfig
) -> Tokenizer:
    """Returns the tokenizer of `directory`, or where that is empty the one trained on the instances, now or earlier.

    Args:
      directory: of a `tokenizer.json`, or "".
      instances: {"prompt", "response"} each, read by slices.
      fingerprint: of the instances.
      data: names size and cache of a tokenizer that is trained.

    Raises:
      EcomError: `directory` holds no tokenizer.
    """
    if directory:
        return load_tokenizer(directory)
    stride = max(1, len(instances) // _SAMPLE)
    slices = (instances[i : i + 1024 * stride : stride] for i in range(0, len(instances), 1024 * stride))
    rows = itertools.chain.from_iterable(slices)
    # Texts are learned first and instructions later with the same tokenizer; ten times they weigh about as much.
    wordings = choose.wordings(data) * 10 if data.plain_text else []
    texts = itertools.chain((row[part] for row in rows for part in ("prompt", "response")), wordings)
    known = hashlib.sha256("\0".join(wordings).encode()).hexdigest()
    key = hashlib.sha256(f"2:{fingerprint}:{data.tokenizer_vocab}:{known}".encode()).hexdigest()[:16]
    return train_tokenizer(texts, data.tokenizer_vocab, Path(data.cache_dir).expanduser() / f"tokenizer-{key}")


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Refuses a tokenizer that can produce ids past the embedding table (jax would clamp them silently).

    Raises:
      DataError: naming both sizes.
    """
    if tokenizer.size > vocab_size:
        raise DataError(
            f"{tokenizer.directory}: the tokenizer has {tokenizer.size:,} ids, the model only {vocab_size:,} "
            "embeddings; use the tokenizer that belongs to the weights, or set model.vocab_size=0 for a fresh model"
        )


def copy_tokenizer(tokenizer: Tokenizer, directory: str | os.PathLike[str]) -> None:
    """Copies the tokenizer's files to `directory` (created if needed)."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    copy_tokenizer_files(tokenizer.directory, directory)
    if not (directory / "tokenizer_config.json").is_file():
        config = {"tokenizer_class": "PreTrainedTokenizerFast"}
        for key, index in (("eos_token", tokenizer.eos_id), ("pad_token", tokenizer.pad_id)):
            config[key] = tokenizer.backend.id_to_token(index)
        (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
