"""Serves a checkpoint over HTTP: `python -m ecomgpt_jax.serve --checkpoint C`.

OpenAI's `/v1/completions`, `/v1/chat/completions` and `/v1/models`; `/health`, `/metrics`; a page to try tasks at `/`.
All requests share one batch. It listens on 127.0.0.1 unless `--host` is given; there is no encryption and no API key,
so use a proxy where others can reach it. After SIGTERM running requests finish and the exit code is 0.
"""

from pathlib import Path

import jax
from absl import flags

from ecomgpt_jax import cli
from ecomgpt_jax.config import DataConfig, EvalConfig, parse_mesh
from ecomgpt_jax.data.tokenizer import check_vocabulary, load_tokenizer
from ecomgpt_jax.decoding.continuous import SlotBatch
from ecomgpt_jax.errors import ConfigError
from ecomgpt_jax.model import loading
from ecomgpt_jax.parallel.mesh import make_mesh
from ecomgpt_jax.parallel.processes import enable_compilation_cache

_LONGEST = 2048  # default maximum of the context, since the cache of every slot has this length

_CHECKPOINT = flags.DEFINE_string("checkpoint", "", "workdir, step or Hugging Face directory, or owner/name@revision")
_HOST = flags.DEFINE_string("host", "127.0.0.1", "address to listen on; 0.0.0.0 for all")
_PORT = flags.DEFINE_integer("port", 8000, "port to listen on; 0 takes a free one", lower_bound=0, upper_bound=65535)
_ALLOWED_HOSTS = flags.DEFINE_list("allowed_hosts", [], "host names that clients may use, besides --host and loopback")
_MODEL_NAME = flags.DEFINE_string("model_name", "", "name of the model in requests; default the checkpoint's last part")
_BATCH = flags.DEFINE_integer("batch", 16, "prompts decoded together", lower_bound=1)
_CONTEXT = flags.DEFINE_integer(
    "context", 0, f"tokens of a prompt and its answer; default that of training, at most {_LONGEST}", lower_bound=0
)
_QUEUE = flags.DEFINE_integer("queue", 256, "prompts that may wait for a slot", lower_bound=1)
_REQUEST_SECONDS = flags.DEFINE_float("request_seconds", 600, "longest time for a request", lower_bound=0.1)
_DRAIN_SECONDS = flags.DEFINE_float("drain_seconds", 30, "time to finish after SIGTERM", lower_bound=0)
_CACHE_DIR = flags.DEFINE_string("cache_dir", DataConfig.cache_dir, "folder for compiled programs")
_DTYPE = flags.DEFINE_string("dtype", EvalConfig.dtype, "float32 or bfloat16; default the checkpoint's own")
_MESH = flags.DEFINE_string("mesh", EvalConfig.mesh, "devices, such as data=1,fsdp=8; default all along data")


def main(arguments: list[str]) -> None:
    """Runs the command; see the module's docstring."""
    cli.check_usage("serve --checkpoint C", arguments, _CHECKPOINT)
    try:
        from ecomgpt_jax.serving import app, chat, scheduler, server
    except ModuleNotFoundError as error:
        raise ConfigError(f"serve needs {error.name}; install the extra: pip install -e '.[serve]'") from None
    listening = server.bind(_HOST.value, _PORT.value)
    mesh = make_mesh(parse_mesh(_MESH.value, "--mesh"))
    if jax.process_count() > 1:
        raise ConfigError("serve runs in one process; use the devices of one host")
    enable_compilation_cache(Path(_CACHE_DIR.value).expanduser() / "compiled")
    found = loading.find_checkpoint(_CHECKPOINT.value, _DTYPE.value)
    tokenizer = load_tokenizer(loading.tokenizer_directory(found.directory))
    check_vocabulary(tokenizer, found.model.vocab_size)
    render, layout = chat.load_chat(tokenizer)
    print(loading.describe(found, mesh), flush=True)
    context = _CONTEXT.value or min(loading.trained_length(found) or _LONGEST, _LONGEST)
    params = loading.load_params(found, mesh)
    try:
        engine = SlotBatch(
            params, found.model, slots=_BATCH.value, context=context, eos_ids=tokenizer.stop_ids,
            allowed_ids=tokenizer.ids, mesh=mesh,
        )  # fmt: skip
        engine.warm_up()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        problem = f"out of device memory with --batch={_BATCH.value} and --context={context}; lower one of them"
        raise ConfigError(problem) from None
    model = _MODEL_NAME.value or Path(_CHECKPOINT.value.split("@")[0]).absolute().name
    runs = scheduler.Scheduler(engine, _QUEUE.value)
    service = app.Service(
        runs, tokenizer, render, model=model, vocab_size=found.model.vocab_size,
        bounds=app.Bounds(request_seconds=_REQUEST_SECONDS.value),
    )  # fmt: skip
    host, port = listening.getsockname()[:2]
    where = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def ready() -> None:
        print(f"serving {model} at {where}; context {context}, {len(engine.free)} slots, chats by {layout}", flush=True)

    application = app.make_app(service, [_HOST.value, *_ALLOWED_HOSTS.value])
    server.run(application, service.state, runs, listening, _DRAIN_SECONDS.value, ready)


if __name__ == "__main__":
    cli.run(main)
