"""Converts a checkpoint into the other format.

`python -m ecomgpt_jax.convert --from DIR|FILE.gguf --to DIR --format hf|orbax|peft|gguf --dtype float32|bfloat16`
`python -m ecomgpt_jax.convert --interpolate BASE:TUNED:0.5 --to DIR`
`python -m ecomgpt_jax.convert --check DIR [--dtype q8_0]`

Reads a training workdir (its newest step), an orbax step directory, an HF directory, adapters of `peft` or a GGUF file,
and writes another format, with the tokenizer of the checkpoint. Adapters are merged into their base for `hf`, `orbax`
and `gguf`, and written without it for `peft`; `--base` names their base. It runs on the CPU.
"""

import contextlib
import itertools
import logging
import sys
import tempfile
from pathlib import Path

import jax
from absl import flags
from etils import epath

from ecomgpt_jax import cli
from ecomgpt_jax.config import MeshConfig
from ecomgpt_jax.data.gguf_tokenizer import chat_template, vocabulary, write_tokenizer
from ecomgpt_jax.data.tokenizer import check_vocabulary, declared_ids, export_tokenizer, load_tokenizer
from ecomgpt_jax.decoding.export_check import check_dtype, check_export
from ecomgpt_jax.errors import ConfigError, DataError, MissingInputError
from ecomgpt_jax.evaluation.protocol import first_rows
from ecomgpt_jax.files import new_directory, read_json, read_text, write_json, write_text
from ecomgpt_jax.model.gguf_adapter import modelfile, write_adapter
from ecomgpt_jax.model.gguf_read import GgufFile, write_hf
from ecomgpt_jax.model.gguf_write import TYPES, write_gguf
from ecomgpt_jax.model.hf_weights import hf_config, save_hf
from ecomgpt_jax.model.interpolation import write_average
from ecomgpt_jax.model.loading import (
    BASE,
    find_checkpoint,
    load_adapters,
    load_params,
    load_unmerged,
    tokenizer_directory,
    trained_length,
)
from ecomgpt_jax.model.model_card import adapter_card, merged_card
from ecomgpt_jax.model.peft_files import is_other_base, is_peft, read_config, read_peft, save_peft
from ecomgpt_jax.model.step_files import read_meta
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.training.saving import save_orbax_params

_FROM = flags.DEFINE_string("from", None, "Training workdir, orbax step directory, HF directory or GGUF file.")
_TO = flags.DEFINE_string("to", None, "Directory to write; must not exist or be empty.")
_FORMAT = flags.DEFINE_enum("format", None, ["hf", "orbax", "peft", "gguf"], "Format to write.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", [*TYPES], "Stored type of the weights; float16 and q8_0 in GGUF alone.")
_ADAPTER = flags.DEFINE_bool("adapter", False, "With --format=gguf: the adapters of a LoRA run alone.")
_BASE = flags.DEFINE_string("base", "", "Base of adapters: the one to read, or the name in --format=peft.")
_CHECK = flags.DEFINE_string(
    "check",
    "",
    "HF directory to check before it is served; with --dtype also a GGUF file of it. Writes nothing.",
)
_INTERPOLATE = flags.DEFINE_string("interpolate", "", "BASE:TUNED:0.5, or A:B:C for their mean; written as hf.")
_CHECK_ROWS = 4  # of each evaluation task


def _new_path(target: str) -> Path:
    path = Path(target).expanduser().absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"--to {target}: exists already; choose another place or remove it")
    return path


def convert_gguf(source: str, target: str, dtype: str) -> None:
    """Writes the model and tokenizer of a GGUF file as an HF directory, completely or not at all.

    Args:
      source: the file; `gguf_read.TYPES` lists the types of tensors that are dequantised.
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


def convert(source: str, target: str, layout: str, dtype: str, base: str = "") -> None:
    """Writes the checkpoint at `source` to `target` in another layout, completely or not at all.

    Args:
      source: training workdir, orbax step directory, HF directory, or `owner/name@revision` on the Hub.
      target: directory that does not exist or is empty.
      layout: `hf`, `orbax`, or for a LoRA run `peft`.
      dtype: `float32` or `bfloat16`.
      base: with `peft`, the name of the base instead of `model.init_from`, such as its name on the Hub.

    Raises:
      ConfigError: `target` is in use.
      MissingInputError: there is no checkpoint at `source`.
      DataError: it or its tokenizer is damaged, or the tokenizer has more ids than the model.
    """
    target_path = _new_path(target)
    words = _write(source, target_path, layout, dtype, base)
    print(f"wrote {target_path} ({layout}, {dtype}, {words})")


def _write(source: str, target_path: Path, layout: str, dtype: str, base: str = "") -> str:
    """Writes the checkpoint as `convert` describes; returns a note on the tokenizer."""
    checkpoint, mesh = find_checkpoint(source, dtype), make_mesh(MeshConfig(), jax.devices("cpu")[:1])
    try:
        tokenizer = load_tokenizer(tokenizer_directory(checkpoint.directory))
        check_vocabulary(tokenizer, checkpoint.model.vocab_size)
    except MissingInputError:
        tokenizer = None
    length, card = trained_length(checkpoint), epath.Path(source).expanduser() / "hf" / "README.md"
    text = read_text(card) if card.is_file() else ""
    if layout == "hf":
        params, adapters = load_unmerged(checkpoint, mesh)
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
                base = base or config.model.init_from
                base_hash = read_meta(checkpoint.directory).get(BASE, "")
                save_peft(adapters, config.model, config.lora, scratch, base, dtype, base_hash)
                if text:
                    write_text(scratch / "README.md", adapter_card(text, config.model.init_from, base))
            else:
                save_orbax_params(load_params(checkpoint, mesh, layered=False), checkpoint.model, scratch, length)
                beside = scratch / "tokenizer"
            if tokenizer is not None:
                tokenizer.save(beside)
    return "with its tokenizer" if tokenizer is not None else "weights only: no tokenizer found next to the source"


def merge_peft(source: str, target: str, dtype: str, base: str = "") -> None:
    """Merges the adapters of a PEFT directory into their base in float32 and writes a Hugging Face directory.

    Args:
      source: the PEFT directory; its tokenizer is copied, or without one that of the base.
      target: directory that does not exist or is empty.
      dtype: `float32` or `bfloat16`, of the stored weights.
      base: checkpoint under the adapters, see `convert`; empty: the one that they name. It is read in its own dtype.

    Raises:
      ConfigError, MissingInputError: as `convert`; also if the base is missing.
      DataError: the adapters do not fit this base's network, see `read_peft`.
    """
    target_path, named = _new_path(target), base or str(read_config(source).get("base_model_name_or_path", ""))
    try:
        checkpoint = find_checkpoint(named)
    except MissingInputError as error:
        raise MissingInputError(f"{source}: base of the adapters: {error}; --base names it") from error
    mesh, adapters, beside = make_mesh(MeshConfig(), jax.devices("cpu")[:1]), read_peft(source, checkpoint.model), None
    for place in (checkpoint.directory, source):
        with contextlib.suppress(MissingInputError):
            beside = tokenizer_directory(place)
    ids, card = declared_ids(Path(checkpoint.directory)), Path(source).expanduser() / "README.md"
    with tempfile.TemporaryDirectory() as folder:
        if beside:
            check_vocabulary(export_tokenizer(beside, Path(folder), ids), checkpoint.model.vocab_size)
        params = load_params(checkpoint, mesh, layered=False)
        if is_other_base(source, params):
            logging.warning("%s: trained on other weights than those of %s; answers will differ", source, named)
        text, length = merged_card(read_text(card)) if card.is_file() else "", trained_length(checkpoint)
        save_hf(
            params, checkpoint.model, target_path, dtype, folder if beside else None, card=text, adapters=adapters,
            token_ids=ids, seq_length=length,
        )  # fmt: skip
    print(f"wrote {target_path} (hf, {dtype}, {source} on {named}{'' if beside else '; weights only, no tokenizer'})")


def _hf_directory(source: str, scratch: Path) -> Path:
    """Returns an HF directory of a checkpoint: itself, or a float32 copy in `scratch`, adapters merged."""
    found = Path(source).expanduser()
    if (found / "config.json").is_file() and (found / "tokenizer.json").is_file():
        return found
    _write(source, scratch / "hf", "hf", "float32")
    return scratch / "hf"


def export_gguf(source: str, target: str, dtype: str, adapter: bool = False) -> None:
    """Writes `model.gguf`, or with `adapter` the adapters of a LoRA run as `adapter.gguf`, and a Modelfile for Ollama.

    Args:
      source: a checkpoint, see `convert`; a temporary HF directory next to the target is made of it.
      target: directory that does not exist or is empty.
      dtype: of the kernels, a key of `gguf_write.TYPES`; adapters are float32.
      adapter: write the adapters alone.

    Raises:
      ConfigError: `target` is in use, or adapters are requested of a run without adapters.
      MissingInputError: no checkpoint or no tokenizer at `source`, or no `gguf` package.
      DataError: see `gguf_write`.
    """
    target_path, name = _new_path(target), Path(source).expanduser().resolve().name
    with new_directory(target_path) as scratch, tempfile.TemporaryDirectory(dir=target_path.parent) as beside:
        if adapter:
            adapters, config = load_adapters(source, make_mesh(MeshConfig(), jax.devices("cpu")[:1]))
            tokenizer = load_tokenizer(tokenizer_directory(find_checkpoint(source).directory))
            save_peft(adapters, config.model, config.lora, beside, config.model.init_from)
            values = hf_config(config.model, "float32", seq_length=config.data.length)
            write_adapter(beside, values, scratch / "adapter.gguf")
            base, beside_base = "./base.gguf", "./adapter.gguf"
            named = config.model.init_from or "the base"
            lines = [f"the Modelfile takes the GGUF file of {named} as base.gguf next to it"]
        else:
            directory = _hf_directory(source, Path(beside))
            values, tokenizer = read_json(directory / "config.json"), load_tokenizer(directory)
            keys, lines = vocabulary(tokenizer, values["vocab_size"])
            lines += write_gguf(directory, scratch / "model.gguf", dtype, keys, name)
            base, beside_base = "./model.gguf", ""
        stops = [tokenizer.backend.id_to_token(index) for index in tokenizer.stop_ids]
        context = values.get("max_position_embeddings") or values.get("seq_length") or 2048
        has_template = bool(chat_template(tokenizer.directory))
        write_text(scratch / "Modelfile", modelfile(base, beside_base, stops, context, has_template))
    for line in lines:
        print(f"{source}: {line}")
    print(f"wrote {target_path} (gguf, {'float32 adapters' if adapter else dtype}, with a Modelfile)")


def interpolate(sources: str, target: str, dtype: str) -> None:
    """Writes an HF directory whose weights lie between two checkpoints, or are the mean of several.

    Args:
      sources: `BASE:TUNED:0.3`, 0 is BASE and 1 is TUNED; or `A:B:C`, the mean.
      target: directory that does not exist or is empty.
      dtype: `float32` or `bfloat16`.

    Raises:
      ConfigError: `target` is in use, or `sources` has another form.
      MissingInputError: a checkpoint is missing.
      DataError: they are not checkpoints of one model with one tokenizer.
    """
    target_path, parts = _new_path(target), sources.split(":")
    try:
        at = float(parts[-1])
    except ValueError:
        weights = [1 / len(parts)] * len(parts)
    else:
        weights, parts = [1 - at, at], parts[:-1]
        if not 0 <= at <= 1:
            raise ConfigError(f"--interpolate {sources}: {at} is not between 0 and 1")
    if len(parts) < 2 or len(parts) != len(weights):
        raise ConfigError(f"--interpolate {sources}: give BASE:TUNED:WEIGHT, or two or more checkpoints for their mean")
    with contextlib.ExitStack() as folders:
        scratch = folders.enter_context(new_directory(target_path))
        made = [folders.enter_context(tempfile.TemporaryDirectory(dir=target_path.parent)) for _ in parts]
        directories = [_hf_directory(part, Path(folder)) for part, folder in zip(parts, made, strict=True)]
        tokenizers = [load_tokenizer(directory) for directory in directories]
        if len({tokenizer.fingerprint for tokenizer in tokenizers}) > 1:
            raise DataError(f"--interpolate {sources}: the checkpoints have different tokenizers")
        write_average(directories, weights, scratch, dtype)
        tokenizers[-1].save(scratch)
        config = read_json(directories[-1] / "config.json")
        write_json(
            scratch / "config.json", config | {"torch_dtype": dtype} | ({"dtype": dtype} if "dtype" in config else {})
        )
    mix = " + ".join(f"{weight:.4g} x {part}" for weight, part in zip(weights, parts, strict=True))
    print(f"wrote {target_path} (hf, {dtype}, {mix})")


def check(directory: str, dtype: str = "") -> int:
    """Prints one line per check of an HF directory (`export_check`); returns 1 if one failed, else 0.

    Args:
      directory: to check.
      dtype: a key of `gguf_write.TYPES`, to compare a GGUF file of it on rows of the evaluation tasks; "": none.

    Raises:
      MissingInputError: no such directory, no tokenizer in it, or with `dtype` no evaluation tasks.
      DataError: its tokenizer is damaged.
    """
    path = Path(directory).expanduser()
    tokenizer = load_tokenizer(path)
    rows = read_json(path / "config.json").get("vocab_size", 0) if (path / "config.json").is_file() else 0
    keys = vocabulary(tokenizer, rows)[0] if isinstance(rows, int) and rows >= tokenizer.rows else None
    official = first_rows(tokenizer, _CHECK_ROWS) if dtype else ()
    further = (check_dtype(path, tokenizer, keys, kind, *official) for kind in (dtype,) if kind)
    failed = 0
    for outcome in itertools.chain(check_export(path, tokenizer, keys), further):
        print(f"{'FAILED' if outcome.failed else 'ok'} {outcome.name}: {outcome.words}", flush=True)
        failed |= outcome.failed
    return int(failed)


def main(arguments: list[str]) -> None:
    """Runs the command.

    Raises:
      ConfigError: a flag is missing, has no effect, or an argument is left over.
    """
    cli.check_usage("convert --from A --to B --format hf", arguments)
    layout = _FORMAT.value
    if _CHECK.value:
        cli.refuse_idle("with --check, which keeps nothing", _FROM, _TO, _FORMAT, _ADAPTER, _BASE, _INTERPOLATE)
        sys.exit(check(_CHECK.value, _DTYPE.value if flags.FLAGS["dtype"].present else ""))
    if _INTERPOLATE.value:
        cli.refuse_idle("with --interpolate, which names its sources and writes hf", _FROM, _FORMAT)
        layout = "hf"
    for flag in (_TO,) if _INTERPOLATE.value else (_FROM, _TO, _FORMAT):
        if not flag.value:
            raise ConfigError(f"--{flag.name} is required")
    separate = bool(_FROM.value) and is_peft(_FROM.value)
    if layout != "peft" and not separate:
        cli.refuse_idle("without adapters of peft, in --format or --from", _BASE)
    if layout != "gguf":
        cli.refuse_idle("without --format=gguf", _ADAPTER)
        if _DTYPE.value not in ("float32", "bfloat16"):
            raise ConfigError(f"--dtype={_DTYPE.value} is of --format=gguf alone; here float32 or bfloat16")
    if _ADAPTER.value:
        cli.refuse_idle("with --adapter: adapters are float32", _DTYPE)
    if _INTERPOLATE.value:
        interpolate(_INTERPOLATE.value, _TO.value, _DTYPE.value)
    elif _FROM.value.endswith(".gguf"):
        if layout != "hf":
            raise ConfigError(f"--format={layout}: a GGUF file is converted to hf first, and that to others")
        convert_gguf(_FROM.value, _TO.value, _DTYPE.value)
    elif separate:
        if layout != "hf":
            raise ConfigError(f"--format={layout}: adapters of peft are merged to hf first, and that to others")
        merge_peft(_FROM.value, _TO.value, _DTYPE.value, _BASE.value)
    elif layout == "gguf":
        export_gguf(_FROM.value, _TO.value, _DTYPE.value, _ADAPTER.value)
    else:
        convert(_FROM.value, _TO.value, layout, _DTYPE.value, _BASE.value)


if __name__ == "__main__":
    cli.run(main)
