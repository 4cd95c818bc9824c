"""Converts a checkpoint into the other format.

`python -m ecomgpt_jax.convert --from DIR|FILE.gguf --to DIR --format hf|orbax|peft --dtype float32|bfloat16`

Reads a training workdir (its newest step), an orbax step directory, an HF directory or a GGUF file, and writes the
other format, with the tokenizer that belongs to it. Of a LoRA run, `hf` and `orbax` are base and adapters merged,
`peft` the adapters alone, float32. It runs on the host's CPU, so it needs no accelerator.
"""

import tempfile
from pathlib import Path

import jax
from absl import flags
from etils import epath

from ecomgpt_jax import cli
from ecomgpt_jax.config import MeshConfig
from ecomgpt_jax.data.gguf_tokenizer import write_tokenizer
from ecomgpt_jax.data.tokenizer import check_vocabulary, declared_ids, load_tokenizer
from ecomgpt_jax.errors import ConfigError, MissingInputError
from ecomgpt_jax.files import new_directory, read_text
from ecomgpt_jax.model.gguf_read import GgufFile, write_hf
from ecomgpt_jax.model.hf_weights import save_hf
from ecomgpt_jax.model.loading import (
    find_checkpoint,
    load_adapters,
    load_params,
    load_unmerged,
    tokenizer_directory,
    trained_length,
)
from ecomgpt_jax.model.lora import save_peft
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training.saving import save_orbax_params

_FROM = flags.DEFINE_string("from", None, "Training workdir, orbax step directory, HF directory or GGUF file.")
_TO = flags.DEFINE_string("to", None, "Directory to write; must not exist or be empty.")
_FORMAT = flags.DEFINE_enum("format", None, ["hf", "orbax", "peft"], "Format to write.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Stored type of the weights.")


def _new_path(target: str) -> Path:
    path = Path(target).expanduser().absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"--to {target}: exists already; choose another place or remove it")
    return path


def convert_gguf(source: str, target: str, dtype: str) -> None:
    """Writes the model and tokenizer of a GGUF file as an HF directory, whole or not at all.

    Args:
      source: the file; `gguf_read.TYPES` says which types of tensors are dequantised.
      target: directory that does not exist or is empty.
      dtype: `float32` or `bfloat16`.

    Raises:
      ConfigError: `target` is in use.
      MissingInputError: no such file, or no `gguf` package.
      DataError: the file is damaged or incomplete, or of a kind that is not read (see `gguf_read`, `gguf_tokenizer`).
    """
    target_path, file = _new_path(target), GgufFile(Path(source).expanduser())
    with new_directory(target_path) as scratch, tempfile.TemporaryDirectory() as beside:
        tokenizer = write_tokenizer(file.values, Path(beside), source)
        tokenizer.save(scratch)
        for line in write_hf(file, scratch, dtype, tokenizer.token_ids):
            print(f"{source}: {line}")
    print(f"wrote {target_path} (hf, {dtype}, {file.family.name}, {len(tokenizer.ids):,} tokens)")


def convert(source: str, target: str, layout: str, dtype: str) -> None:
    """Writes the checkpoint at `source` to `target` in another layout, whole or not at all.

    Args:
      source: training workdir, orbax step directory, HF directory, or `owner/name@revision` on the Hub.
      target: directory that does not exist or is empty.
      layout: `hf`, `orbax`, or for a LoRA run `peft`.
      dtype: `float32` or `bfloat16`.

    Raises:
      ConfigError: `target` is in use.
      MissingInputError: there is no checkpoint at `source`.
      DataError: it or its tokenizer is damaged, or the tokenizer has more ids than the model.
    """
    target_path = _new_path(target)
    checkpoint, mesh = find_checkpoint(source, dtype), make_mesh(MeshConfig(), jax.devices("cpu")[:1])
    try:
        tokenizer = load_tokenizer(tokenizer_directory(checkpoint.directory))
        check_vocabulary(tokenizer, checkpoint.model.vocab_size)
    except MissingInputError:
        tokenizer = None
    length = trained_length(checkpoint)
    if layout == "hf":
        params, adapters = load_unmerged(checkpoint, mesh)
        card = epath.Path(source).expanduser() / "hf" / "README.md"
        text = read_text(card) if card.is_file() else ""
        with tempfile.TemporaryDirectory() as beside:
            if tokenizer is not None:
                tokenizer.save(beside)
            save_hf(
                params, checkpoint.model, target_path, dtype, beside if tokenizer else None, card=text,
                adapters=adapters, token_ids=declared_ids(Path(checkpoint.directory)), seq_length=length,
            )  # fmt: skip
    else:
        with new_directory(target_path) as scratch:
            beside = scratch
            if layout == "peft":
                adapters, config = load_adapters(source, mesh)
                save_peft(adapters, config.model, config.lora, scratch, config.model.init_from)
            else:
                save_orbax_params(load_params(checkpoint, mesh, layered=False), checkpoint.model, scratch, length)
                beside = scratch / "tokenizer"
            if tokenizer is not None:
                tokenizer.save(beside)
    words = "with its tokenizer" if tokenizer is not None else "weights only: no tokenizer found beside the source"
    print(f"wrote {target_path} ({layout}, {dtype}, {words})")


def main(arguments: list[str]) -> None:
    """Runs the command.

    Raises:
      ConfigError: a flag is missing or an argument is left over.
    """
    if arguments:
        raise ConfigError(f"convert takes no argument {arguments[0]!r}; use --from and --to")
    for flag in (_FROM, _TO, _FORMAT):
        if not flag.value:
            raise ConfigError(f"--{flag.name} is required")
    if _FORMAT.value == "peft":
        cli.refuse_idle("with --format=peft: adapters are kept as they were trained", _DTYPE)
    if _FROM.value.endswith(".gguf"):
        if _FORMAT.value != "hf":
            raise ConfigError(f"--format={_FORMAT.value}: a GGUF file is converted to hf first, and that to others")
        convert_gguf(_FROM.value, _TO.value, _DTYPE.value)
        return
    convert(_FROM.value, _TO.value, _FORMAT.value, _DTYPE.value)


if __name__ == "__main__":
    cli.run(main)
