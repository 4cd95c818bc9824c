"""Every setting of a run, as typed dataclass fields; `resolve` derives further values and checks all of them.

A config file defines `get_config(arg)`, which returns a `Config`; `--config.<a.b>=value` overrides one field. A
misspelt field is refused with the nearest name, in a file and on the command line, and so is a value without effect in
the run (`USES`). Defaults are the paper's recipe (arXiv 2308.06966, section 4.1) on bloomz-560m.

The file is longer than 350 lines because fields, their bounds and the runs in which they have an effect belong
together.
"""

import dataclasses
import difflib
import math
import operator
import re
import typing
from pathlib import Path

from ecomgpt_jax.errors import ConfigError

# Shapes of the released BLOOMZ checkpoints (their HF config.json files).
MODEL_SHAPES: dict[str, dict[str, int]] = {
    "560m": {"embed": 1024, "layers": 24, "heads": 16},
    "1b1": {"embed": 1536, "layers": 24, "heads": 16},
    "1b7": {"embed": 2048, "layers": 24, "heads": 16},
    "3b": {"embed": 2560, "layers": 30, "heads": 32},
    "7b1": {"embed": 4096, "layers": 30, "heads": 32},
}

DEFAULT_PROTOCOL = "greedy"  # the protocol of evaluation whose prompts never change
OPERATORS = ("base", "simplification", "reversal", "recombination", "pseudo_label")  # how a task was made
SLICE_ROWS = 16  # per task, for `eval.every`
_SOURCED = ("synthetic", "real", "all")  # mixtures made from sources
_DTYPES = ("float32", "bfloat16")
# Layers of a block, by family, that can have adapters.
_GATED = ("query", "key", "value", "attention_out", "mlp_gate", "mlp_up", "mlp_down")
LAYERS = {"bloom": ("qkv", "attention_out", "mlp_up", "mlp_down"), "llama": _GATED, "gemma": _GATED}


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """Returns ", did you mean 'x'?" for the closest of `known`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


def _field(default: typing.Any, **bounds: typing.Any) -> typing.Any:
    """Declares a field with `choices` (of a tuple: of each item), `above`, `least`, `below`, or `most`."""
    return dataclasses.field(default=default, metadata=bounds)


class _Strict:
    """Refuses attributes that are not declared fields, so that a config file cannot set an unused name."""

    def __setattr__(self, name: str, value: object) -> None:
        known = [field.name for field in dataclasses.fields(self)]
        if name not in known:
            raise ConfigError(f"config: {type(self).__name__} has no field {name!r}{nearest(name, known)}")
        object.__setattr__(self, name, value)


@dataclasses.dataclass
class ModelConfig(_Strict):
    """The network, its numerics and its initial weights."""

    # a released shape (560m 1b1 1b7 3b 7b1), or "custom" to use the three fields below as they are
    size: str = _field("560m", choices=(*MODEL_SHAPES, "custom"))
    embed: int = _field(0, least=0)  # hidden width; set from `size` unless that is "custom"
    layers: int = _field(0, least=0)  # number of blocks; likewise
    heads: int = _field(0, least=0)  # attention heads; likewise
    # rows of the embedding table; 0 = the tokenizer's size rounded up to a multiple of 128
    vocab_size: int = _field(250_880, least=0)
    layer_norm_epsilon: float = _field(1e-5, above=0)  # as in BLOOM
    initializer_range: float = _field(0.02, above=0)  # standard deviation of a fresh model's weights
    init_from: str = ""  # HF directory, checkpoint, or owner/name@revision on the Hub; empty = fresh weights
    tokenizer: str = ""  # directory of a tokenizer.json; empty = that of init_from, else one trained on the data
    # dtype of activations and matrix products; weights and Adam state are float32
    compute_dtype: str = _field("bfloat16", choices=_DTYPES)
    # auto (the platform's best) | reference | xla | cudnn (GPU, bfloat16) | splash (TPU, bfloat16)
    attention: str = _field("auto", choices=("auto", "reference", "xla", "cudnn", "splash"))
    # what the backward pass recomputes: none | dots (all but products) | selective (MLP) | full
    remat: str = _field("none", choices=("none", "dots", "selective", "full"))
    head_chunk: int = _field(2048, above=0)  # target positions whose logits exist at one time
    # The following fields are those of init_from, if it is set. bloom uses none of them.
    family: str = _field("bloom", choices=tuple(LAYERS))  # bloom | llama (Mistral, Qwen2, Qwen3 too) | gemma (Gemma 3)
    kv_heads: int = _field(0, least=0)  # heads of keys and values, each for a group of query heads; 0 = heads
    head_dim: int = _field(0, least=0)  # width of a head; 0 = embed / heads
    mlp: int = _field(0, least=0)  # hidden width of the MLP; 0 = 4 * embed
    biases: str = _field(
        "", choices=("", "qkv", "attention")
    )  # llama: qkv (of q, k and v, as in Qwen2) | attention (of the output too)
    qk_norm: bool = False  # llama: each head's queries and keys are normed (Qwen3; gemma always does)
    tied_head: bool = True  # llama: the head is the embedding; False = it has weights of its own
    rope_theta: float = _field(10_000.0, above=0)  # base of the rotary frequencies
    rope_scaling: str = ""  # of these: linear:FACTOR or llama3:FACTOR:LOW:HIGH:ORIGINAL_LENGTH; empty = none
    window: int = _field(0, least=0)  # tokens that a sliding layer attends to, its own included; 0 = no layer slides
    layer_kinds: str = ""  # a letter per layer, s (sliding) or f (full); empty = with a window all slide
    local_rope_theta: float = _field(10_000.0, above=0)  # gemma: base of the frequencies in sliding layers
    query_scale: float = _field(0.0, least=0)  # gemma: scores are scaled by this to the power -1/2; 0 = head_dim

    @property
    def key_heads(self) -> int:
        """Heads of keys and values."""
        return self.kv_heads or self.heads

    @property
    def head_width(self) -> int:
        """Width of a head."""
        return self.head_dim or self.embed // self.heads

    @property
    def mlp_width(self) -> int:
        """Hidden width of the MLP."""
        return self.mlp or 4 * self.embed

    @property
    def slides(self) -> tuple[bool, ...]:
        """Whether each layer attends only to the tokens of the window."""
        return tuple(kind == "s" for kind in self.layer_kinds) or (self.window > 0,) * self.layers


# Fields that a checkpoint sets.
SHAPE = (
    "family", "embed", "layers", "heads", "vocab_size", "kv_heads", "head_dim", "mlp", "biases", "qk_norm", "tied_head",
    "rope_theta", "rope_scaling", "window", "layer_kinds", "local_rope_theta", "query_scale",
)  # fmt: skip


@dataclasses.dataclass
class DataConfig(_Strict):
    """The training data, and how it is turned into rows of tokens."""

    # synthetic (embedded) | real (sources_dir) | all (both) | folder (tasks_dir) | files
    mixture: str = _field("synthetic", choices=("synthetic", "real", "all", "folder", "files"))
    files: tuple[str, ...] = ()  # your own .jsonl .csv .tsv .parquet or hub:owner/name@commit; joins any mixture
    tasks: tuple[str, ...] = ()  # patterns of the names of tasks to train on, "*" matches anything; empty = all
    sources: tuple[str, ...] = ()  # names of the sources to read; empty = all of the mixture
    licences: tuple[str, ...] = ()  # real sources: "redistributable", or how a licence begins; empty = all
    # base simplification reversal recombination pseudo_label; empty = all
    operators: tuple[str, ...] = _field((), choices=OPERATORS)
    leave_out_abilities: tuple[str, ...] = ()  # abilities whose tasks are left out; `build_data --stats` lists them
    strict_held_out: bool = False  # also leave out sources whose label set is similar to that of a held-out task
    sources_dir: str = ""  # folder of unpacked sources; empty = $ECOMGPT_SOURCES
    tasks_dir: str = ""  # mixture=folder: folder of task folders with a train.json each
    cache_dir: str = "~/.cache/ecomgpt_jax"  # built datasets, tokens and tokenizers, each under a hash of its inputs
    synthetic_records: int = _field(600, above=0)  # products in the embedded catalogue of each language
    languages: tuple[str, ...] = _field(("en", "zh"), choices=("en", "zh"))  # languages of the tasks to train on
    # language of the instruction wording: en | zh | native (the task's) | mixed
    prompt_language: str = _field("native", choices=("en", "zh", "native", "mixed"))
    chain_of_task: bool = True  # include the atomic tasks that the Chain-of-Task operators derive
    num_tasks: int = _field(0, least=0)  # train on this many tasks (a seeded, nested choice); 0 = all
    instances_per_task: int = _field(0, least=0)  # at most this many training instances per task; 0 = all
    # exactly this many training instances, divided among the tasks; 0 = all
    total_instances: int = _field(0, least=0)
    # with total_instances: a task's weight is its size ** (1 / temperature); 0 = equal
    temperature: float = _field(1.0, least=0)
    # with total_instances: annotation tasks and Chain-of-Task tasks of each family and language are a group, whose
    # weight is (sum of its tasks' weights) ** (1 / this); 0 = equal
    family_temperature: float = _field(1.0, least=0)
    # with total_instances: number of tasks not trained on; val/loss/unseen is the loss of their held-back instances
    unseen_tasks: int = _field(0, least=0)
    length: int = _field(1024, above=0)  # tokens in a row
    plain_text: bool = False  # train on the texts of the records themselves, without instructions (pretraining)
    # also rows that repeat one of at most this many source texts, to learn copying; 0 = no such rows
    copying: int = _field(0, least=0)
    # layout of prompts: released (EcomInstruct's) | chat (the checkpoint's chat template); with :letters half of the
    # rows of CLS tasks have letters as labels
    template: str = _field("released", choices=("released", "chat", "released:letters", "chat:letters"))
    loss_on_prompt: bool = False  # train on the tokens of the prompt too, not on the response alone
    # a target's loss has the weight (targets of its instance) ** -this: 0 = all tokens alike, 1 = all instances alike
    length_weighting: float = _field(0.0, least=0, most=1)
    packing: bool = True  # several instances share a row (True) or each has its own (False)
    workers: int = _field(1, least=0)  # processes that build the data, one source each at a time; 0 = one per core
    beam_options: tuple[str, ...] = ()  # builds the data on Apache Beam instead: --runner=DirectRunner, ...
    # size of a tokenizer trained here; 256 bytes and four special tokens are always part of it
    tokenizer_vocab: int = _field(8192, least=260)
    seed: int = _field(0, least=0)  # wording, candidates, sampling, packing order


@dataclasses.dataclass
class OptimizerConfig(_Strict):
    """AdamW with warm-up and cosine decay."""

    learning_rate: float = _field(2e-5, above=0)  # peak
    weight_decay: float = _field(0.0, least=0)
    # share of all steps with a linear warm-up
    warmup_fraction: float = _field(0.03, least=0, most=1)
    # share of all steps, at the end, with the cosine to zero; constant before it; 1 = all but the warm-up
    decay_fraction: float = _field(1.0, above=0, most=1)
    b2: float = _field(0.999, least=0, below=1)  # Adam's; its b1 is 0.9
    epsilon: float = _field(1e-8, above=0)
    max_grad_norm: float = _field(1.0, least=0)  # global norm that gradients are clipped to; 0 = no clipping
    # dtype of Adam's first moment; bfloat16 saves 2 bytes per weight
    moment_dtype: str = _field("float32", choices=_DTYPES)


@dataclasses.dataclass
class LoraConfig(_Strict):
    """Low-rank adapters: the only trained weights, float32, added to frozen weights in the compute dtype."""

    rank: int = _field(0, least=0)  # width of the adapters; 0 = train all weights instead
    alpha: float = _field(16.0, above=0)  # the adapters' product is scaled by alpha / rank
    targets: tuple[str, ...] = _field(
        LAYERS["bloom"], choices=tuple(dict.fromkeys(LAYERS["bloom"] + _GATED))
    )  # layers of a block that get adapters; the default is all of the family: LAYERS
    dropout: float = _field(0.0, least=0, below=1)  # share of an adapter's inputs that training drops


@dataclasses.dataclass
class TrainConfig(_Strict):
    """Length of training, batch size, logging and checkpoints."""

    epochs: int = _field(3, above=0)
    rows_per_device: int = _field(4, above=0)  # rows of a micro-batch on each data-parallel device
    accumulation: int = _field(8, above=0)  # micro-batches per optimizer step
    max_steps: int = _field(0, least=0)  # stop after this many optimizer steps; 0 = all epochs
    seed: int = _field(0, least=0, below=2**32)  # fresh weights
    log_every: int = _field(10, above=0)  # steps between lines of metrics.jsonl
    # steps to trace, from the third of this start on, into the workdir's `profile`; 0 = none
    profile_steps: int = _field(0, least=0)
    save_every: int = _field(200, above=0)  # steps between checkpoints; the last step is always saved
    keep: int = _field(3, above=0)  # newest checkpoints to keep
    validate_every: int = _field(200, least=0)  # steps between losses of the instances held back (val/loss); 0 = never
    best_metric: str = ""  # keep the checkpoint with the best value of this metric too (lowest of a loss, else highest)
    # steps in a row skipped for a loss or gradient that is not finite; one more ends the run
    skip_nonfinite: int = _field(3, least=0)
    final_evaluation: bool = True  # score the evaluation tasks with the untrained and with the trained weights


@dataclasses.dataclass
class MeshConfig(_Strict):
    """The layout of devices; the product of the three axes is the number of devices."""

    data: int = -1  # devices along the batch with replicated weights; -1 = all that are left
    fsdp: int = 1  # devices along the batch with sharded weights; -1 = all that are left, and data=-1 is then 1
    tensor: int = _field(1, above=0)  # devices that share heads, mlp and vocab


@dataclasses.dataclass
class EvalConfig(_Strict):
    """How held-out tasks are decoded and scored."""

    tasks_dir: str = (
        ""  # folder of evaluation tasks; empty = those held out of the synthetic mixture, else $ECOMGPT_EVAL
    )
    limit: int = _field(0, least=0)  # rows per task; 0 = all
    batch: int = _field(64, above=0)  # prompts decoded together
    # longer prompts are cut at the beginning (the released protocol) and counted
    max_prompt_tokens: int = _field(800, above=0)
    max_new_tokens: int = _field(164, above=0)  # longest answer
    num_beams: int = _field(1, above=0)  # beams of a prompt; 1 = greedy
    answer_loss: bool = False  # also the loss of the right answers, which distinguishes models that score nothing yet
    # greedy (fixed candidates) | released:SEED (drawn as the authors' code does) | constrained (answers keep to their
    # task's form) | likelihood (the likeliest candidate, in CLS); all but released also with :letters as labels of CLS
    protocol: str = DEFAULT_PROTOCOL
    every: int = _field(0, least=0)  # steps between evaluations of a small slice during training; 0 = none
    # dtype of decoding; empty = the checkpoint's own, during training compute_dtype
    dtype: str = _field("", choices=("", "float32", "bfloat16"))
    mesh: str = ""  # devices of decoding, such as data=1,fsdp=8; empty = all along data, in training those of `mesh`


@dataclasses.dataclass
class Config(_Strict):
    """A whole run."""

    name: str = "ecomgpt"  # names the run in the report and the default work folder
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)


def field_paths(config: object, prefix: str = "") -> dict[str, object]:
    """Returns every leaf of a config as {"a.b": value}, in order of declaration."""
    leaves: dict[str, object] = {}
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), f"{prefix}{field.name}"
        leaves.update(field_paths(value, f"{path}.") if dataclasses.is_dataclass(value) else {path: value})
    return leaves


def to_dict(config: Config) -> dict[str, typing.Any]:
    """Returns the config as nested plain dictionaries (what `config.json` holds)."""
    return dataclasses.asdict(config)


# Removed fields and their now fixed values, which older checkpoints may contain.
_REMOVED = {"model.head": "targets", "optimizer.b1": 0.9}


def from_dict(values: dict[str, typing.Any]) -> Config:
    """Rebuilds a config from `to_dict`.

    Raises:
      ConfigError: a key is not a field of the config, and not a removed field at its fixed value.
    """
    config = Config()
    for section, value in values.items():
        if isinstance(value, dict) and dataclasses.is_dataclass(getattr(config, section, None)):
            for name, leaf in value.items():
                if (f"{section}.{name}", leaf) not in _REMOVED.items():
                    setattr(getattr(config, section), name, tuple(leaf) if isinstance(leaf, list) else leaf)
        else:
            setattr(config, section, value)
    return config


def _split(text: str) -> list[str]:
    return text.split(",")


def split_paths(text: str) -> list[str]:
    """Splits a comma-separated list of files; of names with commas, the longest that exists is used."""
    pieces, names = text.split(","), []
    while pieces:
        heads = [",".join(pieces[: size + 1]) for size in range(len(pieces))]
        known = [head for head in heads if Path(head.strip()).expanduser().is_file()]
        name = known[-1] if known and "," in known[-1] else heads[0]
        names.append(name if Path(name).expanduser().is_file() else name.strip())
        del pieces[: name.count(",") + 1]
    return names


def parse_mesh(text: str, field: str = "eval.mesh") -> MeshConfig:
    """Parses a mesh such as `data=1,fsdp=8`; an axis that is not named has its default.

    Raises:
      ConfigError: an axis is unknown or repeated, or its size is not a whole number.
    """
    mesh, seen = MeshConfig(), set()
    for part in filter(None, text.split(",")):
        axis, _, size = part.partition("=")
        if axis not in ("data", "fsdp", "tensor") or axis in seen or not re.fullmatch(r"-1|[1-9]\d{0,5}", size):
            raise ConfigError(f"config: {field}={text!r}: {part!r} is not an axis; data=1,fsdp=8,tensor=1 is a mesh")
        seen.add(axis)
        setattr(mesh, axis, int(size))
    if mesh.tensor < 1:
        raise ConfigError(f"config: {field}={text!r}: tensor must be above 0")
    return mesh


def _check(path: str, value: typing.Any, field: dataclasses.Field) -> None:
    """Raises ConfigError where a value is not of its field's type or outside the bounds declared there."""
    kind = typing.get_origin(field.type) or field.type
    right = isinstance(value, kind) and not (kind is not bool and isinstance(value, bool))
    if kind is float:
        right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if kind is tuple:
        right = isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    if not right:
        raise ConfigError(f"config: {path} must be {getattr(kind, '__name__', kind)}, not {value!r}")
    bounds = field.metadata
    for item in (value if kind is tuple else (value,)) if "choices" in bounds else ():
        if item not in bounds["choices"]:
            said = f"{path} holds {item!r}," if kind is tuple else f"{path}={item!r} is"
            hint = nearest(str(item), bounds["choices"])
            raise ConfigError(f"config: {said} none of {', '.join(bounds['choices'])}{hint}")
    for name, (inside, words) in _BOUNDS.items():
        if name in bounds and not inside(value, bounds[name]):
            words = "not be negative" if (name, bounds[name]) == ("least", 0) else f"be {words} {bounds[name]}"
            raise ConfigError(f"config: {path} must {words}, not {value}")


_BOUNDS: dict[str, tuple[typing.Callable[[float, float], bool], str]] = {
    "above": (operator.gt, "above"),
    "least": (operator.ge, "at least"),
    "below": (operator.lt, "below"),
    "most": (operator.le, "at most"),
}


class _Use(typing.NamedTuple):
    """Fields that have an effect only in some runs: which runs, and whether they are an error in others."""

    fields: str
    used: typing.Callable[[Config], object]
    where: str
    refused: bool = False


# Every field that is not named here has an effect in every run (`tests/test_config.py` lists them). A setting that the
# run cannot apply is an error; one that a recipe may also set for other runs is a warning.
USES = (
    _Use("lora.alpha lora.targets lora.dropout", lambda c: c.lora.rank, "with lora.rank above 0", True),
    _Use(
        "data.tasks data.num_tasks", lambda c: c.data.mixture != "files",
        "on the tasks of a mixture, and data.mixture=files has none", True,
    ),
    _Use(
        "data.sources data.operators data.leave_out_abilities data.strict_held_out data.chain_of_task "
        "data.plain_text data.copying",
        lambda c: c.data.mixture in _SOURCED, "on sources: data.mixture=synthetic, real or all", True,
    ),
    _Use(
        "data.operators data.leave_out_abilities data.chain_of_task", lambda c: not c.data.plain_text,
        "on instructions, and data.plain_text makes none", True,
    ),
    _Use("data.licences", lambda c: c.data.mixture in ("real", "all"), "with data.mixture=real or all", True),
    _Use("data.tasks_dir", lambda c: c.data.mixture == "folder", "with data.mixture=folder", True),
    _Use(
        "data.temperature data.family_temperature", lambda c: c.data.total_instances,
        "with data.total_instances, which it shares out", True,
    ),
    _Use(
        "data.unseen_tasks", lambda c: c.data.total_instances and c.data.mixture != "files",
        "with data.total_instances, on the tasks of a mixture", True,
    ),
    _Use(
        "data.loss_on_prompt", lambda c: not c.data.plain_text or c.data.copying,
        "where there are prompts, and data.plain_text has none", True,
    ),
    _Use(
        "data.template", lambda c: not c.data.plain_text, "where there are prompts, and data.plain_text has none", True,
    ),
    _Use("data.sources_dir", lambda c: c.data.mixture in ("real", "all"), "with data.mixture=real or all"),
    _Use(
        "data.synthetic_records", lambda c: c.data.mixture in ("synthetic", "all"),
        "with data.mixture=synthetic or all",
    ),
    _Use(
        "data.prompt_language", lambda c: c.data.mixture in _SOURCED and not c.data.plain_text,
        "on instructions made from sources: data.mixture=synthetic, real or all",
    ),
    _Use("data.workers", lambda c: not c.data.beam_options, "without data.beam_options, which use other workers"),
    _Use(
        "data.tokenizer_vocab", lambda c: not (c.model.tokenizer or c.model.init_from),
        "on a tokenizer trained here, and model.tokenizer or model.init_from provides one",
    ),
    _Use(
        "model.kv_heads model.head_dim model.mlp model.rope_theta model.rope_scaling model.window model.layer_kinds",
        lambda c: c.model.family != "bloom", "with model.family=llama or gemma, or those of model.init_from", True,
    ),
    _Use(
        "model.biases model.qk_norm model.tied_head", lambda c: c.model.family == "llama", "with model.family=llama",
        True,
    ),
    _Use(
        "model.local_rope_theta model.query_scale", lambda c: c.model.family == "gemma", "with model.family=gemma", True
    ),
    _Use("train.seed", lambda c: not c.model.init_from or c.lora.rank, "on fresh weights, without model.init_from"),
    _Use(
        "eval.tasks_dir eval.batch eval.max_prompt_tokens eval.max_new_tokens eval.num_beams "
        "eval.protocol eval.dtype eval.mesh",
        lambda c: c.train.final_evaluation or c.eval.every, "with train.final_evaluation or eval.every",
    ),
    _Use(
        "eval.limit", lambda c: c.train.final_evaluation or (c.eval.every and c.eval.limit < SLICE_ROWS),
        f"with train.final_evaluation, or eval.every and fewer than the {SLICE_ROWS} rows a task of its slice",
    ),
    _Use("eval.answer_loss", lambda c: c.train.final_evaluation, "with train.final_evaluation"),
)  # fmt: skip


def unused(config: Config) -> list[str]:
    """Returns a line for each setting that differs from its default and has no effect in the config's run.

    Pass the config before `resolve`, which fills in the shape. Commands log the lines after all other checks, so that
    an error stays one line.

    Raises:
      ConfigError: the run cannot apply one of them.
    """
    values, defaults, lines = field_paths(config), field_paths(Config()), []
    for use in USES:
        idle = [path for path in use.fields.split() if values[path] != defaults[path]]
        if idle and not use.used(config):
            said = ", ".join(f"{path}={values[path]}" for path in idle)
            line = f"{said}: {'have' if len(idle) > 1 else 'has'} an effect only {use.where}"
            if use.refused:
                raise ConfigError(f"config: {line}")
            lines.append(line)
    for name, value in MODEL_SHAPES.get(config.model.size, {}).items():
        if (given := getattr(config.model, name)) not in (0, value):
            lines.append(f"model.{name}={given}: replaced by {value}, that of model.size={config.model.size}")
    return lines


def resolve(config: Config) -> Config:
    """Returns a checked copy with the model's shape filled in and comma lists split.

    Raises:
      ConfigError: a field has the wrong type, is out of range, contradicts another, or requests what the run cannot do.
    """
    config = from_dict(to_dict(config))
    for section in (None, *(f.name for f in dataclasses.fields(config) if dataclasses.is_dataclass(f.type))):
        part = config if section is None else getattr(config, section)
        for field in dataclasses.fields(part):
            if dataclasses.is_dataclass(field.type):
                continue
            value = getattr(part, field.name)
            if typing.get_origin(field.type) is tuple and isinstance(value, tuple | list):
                split = split_paths if field.name == "files" else _split
                value = tuple(name for item in value for name in split(str(item)) if name)
                setattr(part, field.name, value)
            _check(f"{section}.{field.name}" if section else field.name, value, field)
    unused(config)
    protocols = rf"({DEFAULT_PROTOCOL}|constrained|likelihood)(:letters)?|released:\d+"
    if not re.fullmatch(protocols, config.eval.protocol, re.ASCII):
        raise ConfigError(
            f"config: eval.protocol={config.eval.protocol!r} is none of {DEFAULT_PROTOCOL}, constrained, likelihood "
            "and released:SEED (:letters may follow the first three)"
        )
    warmup, decay = config.optimizer.warmup_fraction, config.optimizer.decay_fraction
    if decay < 1 < warmup + decay - 1e-9:
        raise ConfigError(
            f"config: optimizer.decay_fraction={decay} does not fit after optimizer.warmup_fraction={warmup}; their "
            "sum is at most 1, and a decay_fraction of 1 is all but the warm-up"
        )
    if not re.fullmatch(r"\w[\w. -]*", config.name):
        raise ConfigError(
            f"config: name={config.name!r} names the default work folder; use letters, digits, '.', '_' and '-'"
        )
    if config.eval.num_beams > 1 and config.eval.protocol.startswith("constrained"):
        raise ConfigError("config: eval.protocol=constrained decodes greedily; use eval.num_beams=1 with it")
    if not config.data.languages:
        raise ConfigError("config: data.languages is empty; name en, zh or both")
    if not config.data.chain_of_task and set(config.data.operators) - {"base"}:
        raise ConfigError(
            f"config: data.operators={','.join(config.data.operators)} selects Chain-of-Task tasks, and "
            "data.chain_of_task is off"
        )
    if config.data.mixture == "files" and not config.data.files:
        raise ConfigError("config: data.mixture=files needs data.files, for example --config.data.files=mine.jsonl")
    if config.data.mixture == "files" and config.data.template.endswith(":letters"):
        raise ConfigError(
            "config: data.template: the prompts of data.mixture=files are as you wrote them, without letters"
        )
    if config.lora.rank and not config.lora.targets:
        raise ConfigError("config: lora.rank is set but lora.targets is empty; name a layer or set lora.rank=0")
    for name in ("data", "fsdp"):
        if (size := getattr(config.mesh, name)) == 0 or size < -1:
            raise ConfigError(f"config: mesh.{name} must be -1 (all that are left) or above 0, not {size}")
    parse_mesh(config.eval.mesh)
    model = config.model
    if model.size != "custom":
        for name, value in MODEL_SHAPES[model.size].items():
            setattr(model, name, value)
    check_shape(model)
    fit_targets(config)
    if not model.init_from:  # otherwise the family is the checkpoint's
        check_targets(config)
    if model.heads % config.mesh.tensor:
        raise ConfigError(f"config: model.heads={model.heads} is not a multiple of mesh.tensor={config.mesh.tensor}")
    return config


def fit_targets(config: Config) -> None:
    """Sets `lora.targets`, if it has its default, to all layers of the model's family."""
    if config.lora.rank and config.lora.targets == LAYERS["bloom"]:
        config.lora.targets = LAYERS[config.model.family]


def check_targets(config: Config) -> None:
    """Raises ConfigError where `lora.targets` names a layer that the model's family does not have."""
    family = config.model.family
    unknown = [name for name in config.lora.targets if name not in LAYERS[family]]
    if config.lora.rank and unknown:
        raise ConfigError(
            f"config: lora.targets={','.join(unknown)}: a block of {family} has {', '.join(LAYERS[family])}"
        )


def _is_scaling(text: str) -> bool:
    number = r":\d+\.?\d*(e[+-]?\d+)?"
    if not re.fullmatch(rf"linear{number}|llama3({number}){{4}}", text, re.ASCII):
        return False
    kind, *numbers = text.split(":")
    values = [float(part) for part in numbers]
    in_order = kind == "linear" or values[1] < values[2]
    return in_order and min(values) > 0 and max(values) < math.inf


def check_shape(model: ModelConfig) -> None:
    """Checks that a network of its family can have the shape.

    Raises:
      ConfigError: a field is not filled in, or two do not fit together.
    """
    if model.family != "bloom" and model.size != "custom":
        raise ConfigError(f"config: model.size={model.size} is BLOOM's; model.family={model.family} needs custom")
    for name in ("embed", "layers", "heads"):
        if getattr(model, name) <= 0:
            raise ConfigError(f"config: model.{name} must be above 0 when model.size is 'custom'")
    if not model.head_dim and model.embed % model.heads:
        raise ConfigError(f"config: model.embed={model.embed} is not a multiple of model.heads={model.heads}")
    if model.heads % model.key_heads:
        raise ConfigError(f"config: model.heads={model.heads} is not a multiple of model.kv_heads={model.kv_heads}")
    if model.family != "bloom" and model.head_width % 2:
        raise ConfigError(f"config: heads of width {model.head_width} cannot be rotated by halves; make it even")
    if model.rope_scaling and not _is_scaling(model.rope_scaling):
        raise ConfigError(
            f"config: model.rope_scaling={model.rope_scaling!r} is neither linear:FACTOR nor "
            "llama3:FACTOR:LOW:HIGH:ORIGINAL_LENGTH, numbers above 0 with LOW below HIGH"
        )
    if model.layer_kinds and (len(model.layer_kinds) != model.layers or set(model.layer_kinds) - {"s", "f"}):
        raise ConfigError(
            f"config: model.layer_kinds={model.layer_kinds!r} must have a letter s or f for each of "
            f"{model.layers} layers"
        )
    if model.layer_kinds and ("s" in model.layer_kinds) != (model.window > 0):
        raise ConfigError(
            f"config: model.layer_kinds={model.layer_kinds!r} and model.window={model.window} do not fit: a window "
            "needs a sliding layer, and a sliding layer a window"
        )
