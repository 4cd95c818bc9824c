"""Continues prompts: `python -m ecomgpt_jax.generate --checkpoint C --prompts IN.jsonl --out OUT.jsonl`.

Each line of IN.jsonl is {"prompt": "...", "id": anything}; the id is optional (default: the row's number from 0).
A prompt is raw text: no template is added, it is never cut, and "</s>" in it is four characters. A line in the
instruction or messages form of `data.files` is rendered as in training. OUT.jsonl gets one {"id", "prompt",
"completion", "token_ids"} per prompt in the same order, written at the end; `token_ids` are the new tokens without the
end-of-sequence token. Until then finished answers are in OUT.jsonl.partial, from which the same command continues.

Without --prompts, at a terminal, it reads a prompt, prints the answer, and repeats; "\\n" in a line is a new line, and
Ctrl-D ends.
"""

import collections
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from absl import flags

from ecomgpt_jax import cli
from ecomgpt_jax.config import DataConfig, EvalConfig, parse_mesh
from ecomgpt_jax.data.tokenizer import check_vocabulary, load_tokenizer
from ecomgpt_jax.decoding.engine import generate_tokens
from ecomgpt_jax.decoding.resumable import decode_prompts
from ecomgpt_jax.errors import ConfigError, DataError
from ecomgpt_jax.files import check_output, read_json_lines, write_json_lines
from ecomgpt_jax.instruct import own_data
from ecomgpt_jax.model import loading
from ecomgpt_jax.model.content_hash import content_hash
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.parallel.processes import enable_compilation_cache

_CHECKPOINT = flags.DEFINE_string("checkpoint", "", "workdir, step or Hugging Face directory, or owner/name@revision")
_PROMPTS = flags.DEFINE_string("prompts", "", 'JSON lines, {"prompt": "..."} each')
_OUT = flags.DEFINE_string("out", "", "file to write")
_MAX_NEW_TOKENS = flags.DEFINE_integer("max_new_tokens", EvalConfig.max_new_tokens, "longest answer", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", EvalConfig.batch, "prompts decoded together", lower_bound=1)
_CACHE_DIR = flags.DEFINE_string("cache_dir", DataConfig.cache_dir, "folder for compiled programs")
_NUM_BEAMS = flags.DEFINE_integer("num_beams", EvalConfig.num_beams, "beams; 1 = greedy", lower_bound=1)
_DTYPE = flags.DEFINE_string("dtype", EvalConfig.dtype, "float32 or bfloat16; default the checkpoint's own")
_MESH = flags.DEFINE_string("mesh", EvalConfig.mesh, "devices, such as data=1,fsdp=8; default all along data")


def main(arguments: list[str]) -> None:
    """Runs the command; see the module's docstring."""
    interactive = not (_PROMPTS.value or _OUT.value) and sys.stdin.isatty()
    if interactive:
        cli.refuse_idle("at a terminal, where prompts are entered one by one", _BATCH)
    required = (_CHECKPOINT,) if interactive else (_CHECKPOINT, _PROMPTS, _OUT)
    cli.check_usage("generate --checkpoint C --prompts IN.jsonl --out OUT.jsonl", arguments, *required)
    rows = [] if interactive else read_prompts(_PROMPTS.value)
    if rows and Path(_OUT.value).resolve() == Path(_PROMPTS.value).resolve():
        raise ConfigError(f"--out {_OUT.value} is the file of --prompts and would replace it; name another file")
    mesh = make_mesh(parse_mesh(_MESH.value, "--mesh"))
    enable_compilation_cache(Path(_CACHE_DIR.value).expanduser() / "compiled")
    found = loading.find_checkpoint(_CHECKPOINT.value, _DTYPE.value)
    tokenizer = load_tokenizer(loading.tokenizer_directory(found.directory))
    check_vocabulary(tokenizer, found.model.vocab_size)
    if not interactive and jax.process_index() == 0:
        check_output(_OUT.value)
    print(loading.describe(found, mesh), flush=True)
    params, model = loading.load_params(found, mesh), found.model
    settings: dict[str, Any] = {
        "max_new_tokens": _MAX_NEW_TOKENS.value,
        "eos_ids": tokenizer.stop_ids,
        "allowed_ids": tokenizer.ids,
        "batch": _BATCH.value,
        "num_beams": _NUM_BEAMS.value,
        "mesh": mesh,
    }
    if interactive:

        def answer(prompt: str) -> str:
            return tokenizer.decode(generate_tokens(params, model, tokenizer.encode_prompts([prompt]), **settings)[0])

        _converse(answer)
        return
    log = Path(f"{_OUT.value}.partial")
    prompts = tokenizer.encode_prompts([row["prompt"] for row in rows])
    weights = content_hash(params)
    answers = decode_prompts(params, model, prompts, **settings, log=log, weights=weights, title="generate")
    if jax.process_index() == 0:
        results = (
            {**row, "completion": tokenizer.decode(tokens), "token_ids": tokens}
            for row, tokens in zip(rows, answers, strict=True)
        )
        write_json_lines(_OUT.value, results)
        log.unlink(missing_ok=True)


def _converse(answer: Callable[[str], str]) -> None:
    """Reads prompts from the terminal and prints answers until the input ends."""
    while True:
        try:
            prompt = input("prompt> ").replace("\\n", "\n")
        except EOFError:
            print()
            return
        if prompt:
            print(answer(prompt), flush=True)


def read_prompts(path: str) -> list[dict[str, Any]]:
    """Reads {"id", "prompt"} of each line that is not blank; prints the fields that are not read, with their counts.

    Raises:
      MissingInputError: the file does not exist.
      DataError: a line is not a JSON object, or its prompt is missing, empty or not text (names file and line), or
        the file has no line.
    """
    rows, unread = [], collections.Counter()
    for line, value in read_json_lines(path):
        prompt, fields = value.get("prompt"), ["id", "prompt"]
        if prompt is None and ("instruction" in value or "messages" in value):
            fields = ["id", "messages"] if "messages" in value else ["id", "instruction", "input"]
            try:
                prompt = own_data.prompt_of(value)
            except DataError as error:
                raise DataError(f"{path}:{line}:1: {error}") from None
        if not isinstance(prompt, str):
            problem = "no prompt" if prompt is None else "the prompt is not text"
            raise DataError(f'{path}:{line}:1: {problem}; each line is {{"prompt": "..."}}')
        if "\0" in prompt:
            raise DataError(f"{path}:{line}:1: the prompt holds the character U+0000 (NUL)")
        if not prompt:
            raise DataError(f"{path}:{line}:1: the prompt is empty: there is nothing to continue")
        rows.append({"id": value.get("id", len(rows)), "prompt": prompt})
        unread.update(name for name, given in value.items() if name not in fields and not own_data.is_blank(given))
    if unread:
        print(f"{path}: not read: {', '.join(f'{name!r} of {count:,} prompts' for name, count in unread.items())}")
    if not rows:
        raise DataError(f"{path}: empty, no prompt in it")
    return rows


if __name__ == "__main__":
    cli.run(main)
