"""Every setting of a run, as typed dataclass fields; `resolve` derives what follows from them and checks the whole.

A config file holds `get_config(arg)` returning a `Config`; `--config.<a.b>=value` overrides one field. A misspelt field
is refused with the nearest name, in a file and on the command line alike. Defaults are the paper's recipe
(arXiv 2308.06966, section 4.1) on bloomz-560m.
"""

import dataclasses
import difflib
import re
import typing

from ecomgpt_jax.errors import ConfigError

# Shapes of the released BLOOMZ checkpoints (their HF config.json files).
MODEL_SHAPES: dict[str, dict[str, int]] = {
    "560m": {"embed": 1024, "layers": 24, "heads": 16},
    "1b1": {"embed": 1536, "layers": 24, "heads": 16},
    "1b7": {"embed": 2048, "layers": 24, "heads": 16},
    "3b": {"embed": 2560, "layers": 30, "heads": 32},
    "7b1": {"embed": 4096, "layers": 30, "heads": 32},
}

FROZEN = "greedy"  # the protocol of evaluation whose prompts never change
OPERATORS = ("base", "simplification", "reversal", "recombination", "pseudo_label")  # what a task came about by


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """Returns ", did you mean 'x'?" for the closest of `known`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


class _Strict:
    """Refuses attributes that are no declared field, so that a config file cannot set what nothing reads."""

    def __setattr__(self, name: str, value: object) -> None:
        known = [field.name for field in dataclasses.fields(self)]
        if name not in known:
            raise ConfigError(f"config: {type(self).__name__} has no field {name!r}{nearest(name, known)}")
        object.__setattr__(self, name, value)


@dataclasses.dataclass
class ModelConfig(_Strict):
    """The network, its numerics and where its weights start."""

    size: str = "560m"  # a released shape (560m 1b1 1b7 3b 7b1), or "custom" to use the three fields below as they are
    embed: int = 0  # hidden width; set from `size` unless that is "custom"
    layers: int = 0  # number of blocks; likewise
    heads: int = 0  # attention heads; likewise
    vocab_size: int = 250_880  # rows of the embedding table; 0 = the tokenizer's size rounded up to a multiple of 128
    layer_norm_epsilon: float = 1e-5  # as in BLOOM
    initializer_range: float = 0.02  # standard deviation of a fresh model's weights
    init_from: str = ""  # HF directory, checkpoint, or owner/name@revision on the Hub; empty = fresh weights
    tokenizer: str = ""  # directory of a tokenizer.json; empty = that of init_from, else one trained on the data
    compute_dtype: str = "bfloat16"  # dtype of activations and matrix products; weights and Adam state are float32
    attention: str = (
        "auto"  # auto (the platform's best) | reference | xla | cudnn (GPU, bfloat16) | splash (TPU, bfloat16)
    )
    remat: str = "none"  # what the backward pass recomputes: none | dots (all but products) | selective (MLP) | full
    head: str = "targets"  # targets (logits only where a target is) | full (logits at every position; the oracle)
    head_chunk: int = 2048  # target positions whose logits exist at one time


@dataclasses.dataclass
class DataConfig(_Strict):
    """What is trained on, and how it becomes rows of tokens."""

    mixture: str = "synthetic"  # synthetic (embedded) | real (sources_dir) | all (both) | folder (tasks_dir) | files
    files: tuple[str, ...] = ()  # your own .jsonl .csv .parquet or hub:owner/name@commit; joins any mixture
    tasks: tuple[str, ...] = ()  # patterns of the names of tasks to train on, "*" stands for anything; empty = all
    sources: tuple[str, ...] = ()  # names of the sources to read; empty = all of the mixture
    licences: tuple[str, ...] = ()  # real sources: "redistributable", or how a licence begins; empty = all
    operators: tuple[str, ...] = ()  # base simplification reversal recombination pseudo_label; empty = all
    leave_out_abilities: tuple[str, ...] = ()  # abilities whose tasks are left out; `build_data --stats` lists them
    strict_held_out: bool = False  # also leave out sources whose label set is near that of a held-out task
    sources_dir: str = ""  # folder of unpacked sources; empty = $ECOMGPT_SOURCES
    tasks_dir: str = ""  # mixture=folder: folder of task folders with a train.json each
    cache_dir: str = "~/.cache/ecomgpt_jax"  # built datasets, tokens and tokenizers, each under a hash of what made it
    synthetic_records: int = 600  # products in the embedded catalogue of each language
    languages: tuple[str, ...] = ("en", "zh")  # languages of the tasks to train on
    prompt_language: str = "native"  # language of the instruction wording: en | zh | native (the task's) | mixed
    chain_of_task: bool = True  # include the atomic tasks that the Chain-of-Task operators derive
    num_tasks: int = 0  # train on this many tasks (a seeded, nested choice); 0 = all
    instances_per_task: int = 0  # at most this many training instances a task; 0 = all
    total_instances: int = 0  # exactly this many training instances, shared out among the tasks; 0 = all
    temperature: float = 1.0  # with total_instances: a task's weight is its size ** (1 / temperature); 0 = equal
    length: int = 1024  # tokens in a row
    plain_text: bool = False  # train on the texts of the records themselves, without instructions (pretraining)
    copying: int = 0  # also rows that repeat one of up to so many texts of the sources, to learn copying from
    loss_on_prompt: bool = False  # train on the tokens of the prompt too, not on the response alone
    packing: bool = True  # several instances share a row (True) or each has its own (False)
    workers: int = 1  # processes that make the data, a source each at a time; 0 = one a core
    beam_options: tuple[str, ...] = ()  # makes the data on Apache Beam instead: --runner=DirectRunner, ...
    tokenizer_vocab: int = 8192  # size of the tokenizer trained when there is none to load
    seed: int = 0  # wording, candidates, sampling, packing order


@dataclasses.dataclass
class OptimizerConfig(_Strict):
    """AdamW with a cosine schedule."""

    learning_rate: float = 2e-5  # peak
    weight_decay: float = 0.0
    warmup_fraction: float = 0.03  # share of all steps with a linear warm-up; cosine to zero follows
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0  # global norm that gradients are clipped to; 0 = no clipping
    moment_dtype: str = "float32"  # dtype of Adam's first moment; bfloat16 saves 2 bytes a weight


@dataclasses.dataclass
class LoraConfig(_Strict):
    """Low-rank adapters: trained alone, in float32, beside weights that stay as they are in the compute dtype."""

    rank: int = 0  # width of the adapters; 0 = train all weights instead
    alpha: float = 16.0  # the adapters' product is scaled by alpha / rank
    targets: tuple[str, ...] = ("qkv", "attention_out", "mlp_up", "mlp_down")  # layers of a block that get adapters
    dropout: float = 0.0  # share of an adapter's inputs that training drops


@dataclasses.dataclass
class TrainConfig(_Strict):
    """How long, how much at a time, and what is kept."""

    epochs: int = 3
    rows_per_device: int = 4  # rows of a micro-batch on each data-parallel device
    accumulation: int = 8  # micro-batches an optimizer step sums over
    max_steps: int = 0  # stop after this many optimizer steps; 0 = all epochs
    seed: int = 0  # fresh weights
    log_every: int = 10  # steps between lines of metrics.jsonl
    profile_steps: int = 0  # steps to trace, from the third of this start on, into the workdir's `profile`; 0 = none
    save_every: int = 200  # steps between checkpoints; the last step is always saved
    keep: int = 3  # newest checkpoints to keep
    best_metric: str = ""  # keep the checkpoint with the best value of this metric too (lowest of a loss, else highest)
    skip_nonfinite: int = 3  # steps in a row skipped for a loss or gradient that is not finite; one more ends the run
    final_evaluation: bool = True  # score the evaluation tasks with the untrained and with the trained weights


@dataclasses.dataclass
class MeshConfig(_Strict):
    """How devices are laid out; the product of the three axes is the number of devices."""

    data: int = -1  # devices along the batch with replicated weights; -1 = all that are left
    fsdp: int = 1  # devices along the batch with sharded weights; -1 = all that are left, and data=-1 is then 1
    tensor: int = 1  # devices that share heads, mlp and vocab


@dataclasses.dataclass
class EvalConfig(_Strict):
    """How held-out tasks are decoded and scored."""

    tasks_dir: str = (
        ""  # folder of evaluation tasks; empty = those held out of the synthetic mixture, else $ECOMGPT_EVAL
    )
    limit: int = 0  # rows a task; 0 = all
    batch: int = 64  # prompts decoded together
    max_prompt_tokens: int = 800  # longer prompts lose their beginning (the released protocol); each one is counted
    max_new_tokens: int = 164  # longest answer
    num_beams: int = 1  # beams of a prompt; 1 = greedy
    answer_loss: bool = False  # also the loss of the right answers, which tells models apart that score nothing yet
    protocol: str = FROZEN  # greedy (candidates are fixed) | released:SEED (drawn as the authors' code draws them)
    every: int = 0  # steps between evaluations of a small slice during training; 0 = none


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


_CHOICES = {
    "model.size": (*MODEL_SHAPES, "custom"),
    "model.compute_dtype": ("float32", "bfloat16"),
    "model.attention": ("auto", "reference", "xla", "cudnn", "splash"),
    "model.remat": ("none", "dots", "selective", "full"),
    "model.head": ("targets", "full"),
    "optimizer.moment_dtype": ("float32", "bfloat16"),
    "data.mixture": ("synthetic", "real", "all", "folder", "files"),
    "data.prompt_language": ("en", "zh", "native", "mixed"),
}
_POSITIVE = (
    "model.head_chunk", "data.synthetic_records", "data.length", "data.tokenizer_vocab",
    "optimizer.learning_rate", "optimizer.epsilon", "lora.alpha",
    "train.epochs", "train.rows_per_device", "train.accumulation",
    "train.log_every", "train.save_every", "train.keep", "mesh.tensor", "eval.batch",
    "eval.max_prompt_tokens", "eval.max_new_tokens", "eval.num_beams",
)  # fmt: skip
_NOT_NEGATIVE = (
    "model.vocab_size", "data.num_tasks", "data.instances_per_task", "data.total_instances", "data.temperature",
    "data.workers", "data.copying", "optimizer.weight_decay", "optimizer.warmup_fraction", "optimizer.max_grad_norm",
    "train.max_steps", "train.skip_nonfinite", "train.profile_steps", "eval.limit",
    "eval.every",
    "lora.rank", "lora.dropout",
)  # fmt: skip


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


def from_dict(values: dict[str, typing.Any]) -> Config:
    """Rebuilds a config from `to_dict`.

    Raises:
      ConfigError: a key is no field of the config.
    """
    config = Config()
    for section, value in values.items():
        if isinstance(value, dict) and dataclasses.is_dataclass(getattr(config, section, None)):
            for name, leaf in value.items():
                setattr(getattr(config, section), name, tuple(leaf) if isinstance(leaf, list) else leaf)
        else:
            setattr(config, section, value)
    return config


def _check_type(path: str, value: object, hint: typing.Any) -> None:
    kind = typing.get_origin(hint) or hint
    right = isinstance(value, kind) and not (kind is not bool and isinstance(value, bool))
    if kind is float:
        right = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is tuple:
        right = isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    if not right:
        raise ConfigError(f"config: {path} must be {getattr(kind, '__name__', kind)}, not {value!r}")


def resolve(config: Config) -> Config:
    """Returns a checked copy with the model's shape filled in and comma lists split.

    Raises:
      ConfigError: a field has the wrong type, is out of range, or contradicts another.
    """
    config = from_dict(to_dict(config))
    for section in (None, *(f.name for f in dataclasses.fields(config) if dataclasses.is_dataclass(f.type))):
        part = config if section is None else getattr(config, section)
        for field in dataclasses.fields(part):
            if dataclasses.is_dataclass(field.type):
                continue
            value = getattr(part, field.name)
            if typing.get_origin(field.type) is tuple and isinstance(value, tuple | list):
                value = tuple(name for item in value for name in str(item).split(",") if name)
                setattr(part, field.name, value)
            _check_type(f"{section}.{field.name}" if section else field.name, value, field.type)
    leaves = field_paths(config)
    for path, choices in _CHOICES.items():
        if leaves[path] not in choices:
            hint = nearest(str(leaves[path]), choices)
            raise ConfigError(f"config: {path}={leaves[path]!r} is none of {', '.join(choices)}{hint}")
    for path in _POSITIVE:
        if leaves[path] <= 0:
            raise ConfigError(f"config: {path} must be above 0, not {leaves[path]}")
    for path in _NOT_NEGATIVE:
        if leaves[path] < 0:
            raise ConfigError(f"config: {path} must not be negative, not {leaves[path]}")
    for language in config.data.languages:
        if language not in ("en", "zh"):
            raise ConfigError(f"config: data.languages holds {language!r}; languages are en and zh")
    if not re.fullmatch(rf"{FROZEN}|released:\d+", config.eval.protocol, re.ASCII):
        raise ConfigError(f"config: eval.protocol={config.eval.protocol!r} is neither {FROZEN} nor released:SEED")
    for operator in config.data.operators:
        if operator not in OPERATORS:
            hint = nearest(operator, OPERATORS)
            raise ConfigError(f"config: data.operators holds {operator!r}, none of {', '.join(OPERATORS)}{hint}")
    if config.data.licences and config.data.mixture not in ("real", "all"):
        raise ConfigError("config: data.licences chooses among the real sources; set data.mixture=real or all")
    if config.data.temperature != 1 and not config.data.total_instances:
        raise ConfigError("config: data.temperature shares out data.total_instances; set that too")
    if config.data.copying and config.data.mixture in ("folder", "files"):
        raise ConfigError("config: data.copying takes the texts of sources; set data.mixture=synthetic, real or all")
    if config.data.mixture == "files" and not config.data.files:
        raise ConfigError("config: data.mixture=files needs data.files, for example --config.data.files=mine.jsonl")
    adaptable = LoraConfig().targets
    for name in config.lora.targets:
        if name not in adaptable:
            hint = nearest(name, adaptable)
            raise ConfigError(f"config: lora.targets holds {name!r}; layers are {', '.join(adaptable)}{hint}")
    if config.lora.rank and not config.lora.targets:
        raise ConfigError("config: lora.rank is set but lora.targets is empty; name a layer or set lora.rank=0")
    if config.lora.dropout >= 1:
        raise ConfigError(f"config: lora.dropout must be below 1, not {config.lora.dropout}")
    if config.optimizer.warmup_fraction > 1:
        raise ConfigError(
            f"config: optimizer.warmup_fraction must be at most 1, not {config.optimizer.warmup_fraction}"
        )
    for name in ("data", "fsdp"):
        if (size := getattr(config.mesh, name)) == 0 or size < -1:
            raise ConfigError(f"config: mesh.{name} must be -1 (all that are left) or above 0, not {size}")
    model = config.model
    if model.size != "custom":
        for name, value in MODEL_SHAPES[model.size].items():
            setattr(model, name, value)
    for name in ("embed", "layers", "heads"):
        if getattr(model, name) <= 0:
            raise ConfigError(f"config: model.{name} must be above 0 when model.size is 'custom'")
    if model.embed % model.heads:
        raise ConfigError(f"config: model.embed={model.embed} is not a multiple of model.heads={model.heads}")
    if model.heads % config.mesh.tensor:
        raise ConfigError(f"config: model.heads={model.heads} is not a multiple of mesh.tensor={config.mesh.tensor}")
    return config
