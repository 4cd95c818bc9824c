"""Instances tokenised once and stored: flat token ids, offsets, prompt lengths. Later runs memory-map the files."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tqdm

from ecomgpt_jax.data.tokenizer import Tokenizer
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.files import new_directory, read_json, write_json

FORMAT = 2
_CHUNK = 4096  # instances per call of the tokenizer


@dataclasses.dataclass(frozen=True)
class TokenStore:
    """Tokenised instances; instance i is `tokens[offsets[i]:offsets[i + 1]]`, prompt first, then response and eos.

    Attributes:
      tokens: [all tokens] int32, mapped from disk.
      offsets: [instances + 1] int64.
      prompt_lengths: [instances] int32, tokens of the prompt.
      fingerprint: identifies instances, tokenizer and length limit.
      cut_prompts: instances whose prompt is cut at its beginning to fit a row.
      cut_answers: instances whose answer is longer than a row, so that its end and eos are missing.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    prompt_lengths: np.ndarray
    fingerprint: str
    cut_prompts: int
    cut_answers: int

    def __len__(self) -> int:
        return len(self.prompt_lengths)

    @property
    def positions(self) -> np.ndarray:
        """[instances] positions of each in a row: every token but the last is an input."""
        return np.diff(self.offsets) - 1

    def take(self, instances: Sequence[int]) -> "TokenStore":
        """Returns a store of some of the instances, in memory, with zero counts of cut texts."""
        tokens = [self.tokens[self.offsets[i] : self.offsets[i + 1]] for i in instances]
        return dataclasses.replace(
            self,
            tokens=np.concatenate(tokens),
            offsets=np.cumsum([0, *map(len, tokens)]),
            prompt_lengths=self.prompt_lengths[list(instances)],
            cut_prompts=0,
            cut_answers=0,
        )


def _fit(tokenizer: Tokenizer, prompt: list[int], answer: list[int], limit: int) -> tuple[list[int], list[int]]:
    """Cuts an instance to `limit` tokens: the prompt's beginning first, keeping at least one token of it."""
    answer = answer[: limit - 1 - len(tokenizer.prefix)]
    return tokenizer.cut(prompt, limit - len(answer)), answer


def tokenize(
    instances: Sequence[Mapping[str, str]], fingerprint: str, tokenizer: Tokenizer, length: int, cache_dir: Path
) -> TokenStore:
    """Returns the token store of `instances`, created now or memory-mapped from an earlier run.

    Args:
      instances: {"prompt", "response"} each, read by slices.
      fingerprint: of the instances.
      tokenizer: encodes prompt and response separately, so a prompt has the same ids here and in evaluation.
      length: positions in a row; an instance may have length + 1 tokens.
      cache_dir: the store is a folder in it, named after its fingerprint.

    Raises:
      ConfigError: what each prompt begins with fills a row, so that no answer would have a token.
    """
    if length <= len(tokenizer.prefix):
        raise ConfigError(
            f"config: data.length={length} has no room for an answer: with this tokenizer or chat template each prompt "
            f"begins with the same {len(tokenizer.prefix)} tokens; make it longer"
        )
    key = hashlib.sha256(f"{FORMAT}:{fingerprint}:{tokenizer.fingerprint}:{length}".encode()).hexdigest()
    directory = Path(cache_dir).expanduser() / f"tokens-{key[:16]}"
    if not (directory / "store.json").is_file():
        _write(instances, tokenizer, length + 1, directory)
    counts = read_json(directory / "store.json")
    return TokenStore(
        tokens=np.memmap(directory / "tokens.int32", np.int32, "r", shape=(counts["tokens"],)),
        offsets=np.load(directory / "offsets.npy"),
        prompt_lengths=np.load(directory / "prompt_lengths.npy"),
        fingerprint=key,
        cut_prompts=counts["cut_prompts"],
        cut_answers=counts["cut_answers"],
    )


def _write(instances: Sequence[Mapping[str, str]], tokenizer: Tokenizer, limit: int, directory: Path) -> None:
    sizes, prompt_lengths = np.zeros(len(instances), np.int64), np.zeros(len(instances), np.int32)
    cut_prompts = cut_answers = 0
    with new_directory(directory, shared=True) as scratch:
        with (
            open(scratch / "tokens.int32", "wb") as file,
            tqdm.tqdm(total=len(instances), desc="tokenise", unit="instance", disable=None, delay=2) as bar,
        ):
            for start in range(0, len(instances), _CHUNK):
                rows = instances[start : start + _CHUNK]  # reading them one by one would take as long as tokenising
                prompts = tokenizer.encode_prompts([row["prompt"] for row in rows])
                answers = tokenizer.encode_batch([row["response"] for row in rows])
                chunk: list[int] = []
                for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True), start):
                    full_prompt, full_answer = len(prompt), len(answer) + 1
                    prompt, answer = _fit(tokenizer, prompt, [*answer, tokenizer.eos_id], limit)
                    cut_prompts += len(prompt) < full_prompt
                    cut_answers += len(answer) < full_answer
                    sizes[index], prompt_lengths[index] = len(prompt) + len(answer), len(prompt)
                    chunk += prompt
                    chunk += answer
                file.write(np.asarray(chunk, np.int32).tobytes())
                bar.update(len(rows))
        np.save(scratch / "offsets.npy", np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]))
        np.save(scratch / "prompt_lengths.npy", prompt_lengths)
        write_json(
            scratch / "store.json",
            {"tokens": int(sizes.sum()), "cut_prompts": cut_prompts, "cut_answers": cut_answers},
        )
