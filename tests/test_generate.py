import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from forked import Command
from xla_flags import fake_devices

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from ecomgpt_jax.decoding import resumable
from ecomgpt_jax.decoding.engine import generate_tokens
from ecomgpt_jax.model.content_hash import content_hash
from ecomgpt_jax.model.decoder import init_params
from ecomgpt_jax.model.hf_weights import load_hf, model_config_from_hf, save_hf

TEXTS = (
    "red cotton shirt, size M", "a phone case for {model}", "</s> is plain text here", "红色 连衣裙 夏季", "100% wool",
    "does it fit?", "the battery died after a week", "快递很快，质量不错", "a", "\ttabs and\nlines\u2028too",
)  # fmt: skip
MAX_NEW_TOKENS = 12
CACHE = tempfile.TemporaryDirectory()
ENVIRONMENT = {**os.environ, "XLA_FLAGS": fake_devices(1)}
GENERATE = (sys.executable, "-m", "ecomgpt_jax.generate", f"--cache_dir={CACHE.name}")


def generate(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command, environment = [*GENERATE, *map(str, arguments)], ENVIRONMENT | environment
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def write_lines(path: Path, values: list) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An HF directory with random weights that choose the end-of-sequence token now and then; its id is not BLOOM's."""
    directory = tmp_path_factory.mktemp("generate") / "hf"
    folder = train_tokenizer(TEXTS * 5, 320, directory.parent / "tokenizer").directory
    (folder / "generation_config.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<s>", "bos_token": "</s>", "pad_token": "<pad>"}')
    tokenizer = load_tokenizer(folder)
    tokenizer.save(folder)
    assert tokenizer.stop_ids == (1,)
    model = ModelConfig(
        size="custom", embed=32, layers=2, heads=4, vocab_size=384, compute_dtype="float32", initializer_range=0.4
    )
    params = init_params(model, jax.random.key(2))
    # The final norm's bias leans towards the end-of-sequence token.
    params["final_norm"]["bias"] += 2.0 * params["embedding"]["table"][tokenizer.eos_id]
    save_hf(params, model, directory, tokenizer_dir=tokenizer.directory)
    return directory


def expected(checkpoint: Path, num_beams: int = 1) -> tuple[Tokenizer, list[list[int]]]:
    model, tokenizer = model_config_from_hf(checkpoint), load_tokenizer(checkpoint)
    prompts = [tokenizer.encode(text) for text in TEXTS]
    return tokenizer, generate_tokens(
        load_hf(checkpoint, model), model, prompts, max_new_tokens=MAX_NEW_TOKENS, eos_ids=tokenizer.stop_ids,
        allowed_ids=tokenizer.ids, batch=8, num_beams=num_beams,
    )  # fmt: skip


def test_prompts_are_continued_in_order_and_an_interrupted_run_goes_on(checkpoint: Path, tmp_path: Path) -> None:
    rows = [{"prompt": text, **({} if i == 3 else {"id": f"p{i}"})} for i, text in enumerate(TEXTS)]
    arguments = ("--checkpoint", checkpoint, "--max_new_tokens", MAX_NEW_TOKENS)
    prompts, out = write_lines(tmp_path / "in.jsonl", rows), tmp_path / "new" / "out.jsonl"
    done = generate(*arguments, "--prompts", prompts, "--out", out)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "waiting for" not in line]  # a slow machine compiles for long
    assert said == [], "nothing to say where there is no terminal"
    assert done.stdout.startswith(f"weights: {checkpoint}, ")
    assert " in float32 (the checkpoint's own); 1 x " in done.stdout
    assert done.stdout.count("\n") == 1
    tokenizer, answers = expected(checkpoint)
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n") if line]
    assert found == [
        {"id": row.get("id", i), "prompt": row["prompt"], "completion": tokenizer.decode(tokens), "token_ids": tokens}
        for i, (row, tokens) in enumerate(zip(rows, answers, strict=True))
    ]
    lengths = [len(tokens) for tokens in answers]
    assert len(set(lengths)) > 2, lengths
    assert max(max(tokens, default=0) for tokens in answers) < tokenizer.size
    assert sorted(path.name for path in out.parent.iterdir()) == ["out.jsonl"]

    # A tampered answer that comes back shows that an interrupted run's answers are not decoded again, also where the
    # same weights lie at another place; answers of other weights in a file of the same size and time are not taken.
    model, weights = model_config_from_hf(checkpoint), load_hf(checkpoint)
    moved = Path(shutil.copytree(checkpoint, tmp_path / "moved"))
    weights["final_norm"]["bias"] = weights["final_norm"]["bias"].at[0].add(1e-3)
    others = content_hash(weights)
    hashed = content_hash(load_hf(moved))
    run = resumable._decided_by(hashed, MAX_NEW_TOKENS, tokenizer.stop_ids, tokenizer.ids, 1, model)
    kept = {"key": resumable._key(tokenizer.encode(TEXTS[2]), run), "tokens": [5, 6]}
    foreign = {"key": resumable._key(tokenizer.encode(TEXTS[1]), [others, *run[1:]]), "tokens": [7, 8]}
    write_lines(out.with_name("again.jsonl.partial"), [kept, foreign])
    arguments = ("--checkpoint", moved, "--max_new_tokens", MAX_NEW_TOKENS)
    done = generate(*arguments, "--prompts", prompts, "--out", out.with_name("again.jsonl"))
    assert done.returncode == 0, done.stderr
    again = [json.loads(line) for line in out.with_name("again.jsonl").read_text(encoding="utf-8").split("\n") if line]
    assert again[2]["token_ids"] == [5, 6]
    del again[2], found[2]
    assert again == found


def test_weights_are_used_in_the_dtype_and_on_the_mesh_that_are_asked_for(checkpoint: Path, tmp_path: Path) -> None:
    prompts = write_lines(tmp_path / "in.jsonl", [{"prompt": TEXTS[0]}])
    done = generate(
        "--checkpoint", checkpoint, "--prompts", prompts, "--out", tmp_path / "out.jsonl", "--max_new_tokens", 2,
        "--dtype", "bfloat16", "--mesh", "data=1,fsdp=2", XLA_FLAGS=fake_devices(2),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(" in bfloat16 (as asked for); 2 x cpu, mesh data=1 fsdp=2 tensor=1\n")
    assert (tmp_path / "out.jsonl").is_file()


@pytest.mark.slow
def test_more_beams_give_the_engine_s_answers(checkpoint: Path, tmp_path: Path) -> None:
    prompts, out = write_lines(tmp_path / "in.jsonl", [{"prompt": text} for text in TEXTS]), tmp_path / "out.jsonl"
    files = ("--checkpoint", checkpoint, "--prompts", prompts, "--out", out)
    done = generate(*files, "--max_new_tokens", MAX_NEW_TOKENS, "--num_beams", 3)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line)["token_ids"] for line in out.read_text(encoding="utf-8").split("\n") if line]
    assert found == expected(checkpoint, 3)[1]
    assert found != expected(checkpoint)[1]


def test_at_a_terminal_it_asks_and_answers(checkpoint: Path) -> None:
    command = [*GENERATE, "--checkpoint", str(checkpoint), "--max_new_tokens", "12"]
    ours, theirs = os.openpty()
    with subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True
    ) as process:
        os.close(theirs)
        asked = [TEXTS[0], "", TEXTS[9].replace("\n", "\\n").replace("\t", " ").replace("\u2028", " ")]
        os.write(ours, "".join(f"{line}\n" for line in asked).encode() + b"\x04")
        stdout, stderr = process.communicate(timeout=1800)
    os.close(ours)
    assert process.returncode == 0, stderr
    model, tokenizer = model_config_from_hf(checkpoint), load_tokenizer(checkpoint)
    prompts = [tokenizer.encode(text) for text in (asked[0], asked[2].replace("\\n", "\n"))]
    answers = generate_tokens(
        load_hf(checkpoint, model), model, prompts, max_new_tokens=MAX_NEW_TOKENS, eos_ids=tokenizer.stop_ids,
        allowed_ids=tokenizer.ids, batch=8,
    )  # fmt: skip
    first, second = map(tokenizer.decode, answers)
    described, asked_and_answered = stdout.split("\n", 1)
    assert described.startswith(f"weights: {checkpoint}, ")
    assert asked_and_answered == f"prompt> {first}\nprompt> prompt> {second}\nprompt> \n"


def test_without_a_terminal_prompts_must_be_given(checkpoint: Path) -> None:
    done = generate("--checkpoint", checkpoint)
    assert (done.returncode, "--prompts is missing" in done.stderr) == (2, True)


@pytest.fixture(scope="module")
def command() -> Iterator[Command]:
    with Command("ecomgpt_jax.generate", ENVIRONMENT) as command:
        yield command


def test_the_prompts_are_never_replaced(checkpoint: Path, tmp_path: Path, command: Command) -> None:
    prompts = write_lines(tmp_path / "in.jsonl", [{"prompt": "a"}])
    (tmp_path / "link.jsonl").symlink_to(prompts)
    done = command("--checkpoint", checkpoint, "--prompts", prompts, "--out", tmp_path / "link.jsonl")
    assert (done.returncode, "is the file of --prompts" in done.stderr) == (2, True), done.stderr
    assert json.loads(prompts.read_text(encoding="utf-8")) == {"prompt": "a"}


def test_fields_that_are_not_read_are_counted(tmp_path: Path, command: Command) -> None:
    message = {"role": "user", "content": "c"}
    rows = [
        {"prompt": "a", "max_new_tokens": 5},
        {"prompt": "b", "max_new_tokens": 6, "messages": [message]},
        {"instruction": "c", "input": "d", "output": "", "id": 1},
        {"messages": [message], "instruction": "d"},
    ]
    prompts = write_lines(tmp_path / "in.jsonl", rows)
    done = command("--checkpoint", "nowhere", "--prompts", prompts, "--out", tmp_path / "out.jsonl")
    unread = "'max_new_tokens' of 2 prompts, 'messages' of 1 prompts, 'instruction' of 1 prompts"
    assert done.stdout == f"{prompts}: not read: {unread}\n"


@pytest.mark.parametrize(
    ("lines", "flags", "code", "words"),
    [
        ('{"prompt": "a"}\n{"prompt": }', {}, 65, "in.jsonl:2:12: "),
        ('{"prompt": "a"}\n\n["a"]', {}, 65, "in.jsonl:3:1: a list, not an object"),
        ('{"prompt": 5}', {}, 65, "in.jsonl:1:1: the prompt is not text"),
        ('{"prompt": ""}', {}, 65, "in.jsonl:1:1: the prompt is empty"),
        ("\n", {}, 65, "in.jsonl: empty, no prompt in it"),
        ('{"prompt": "a\\u0000"}', {}, 65, "in.jsonl:1:1: the prompt holds the character U+0000 (NUL)"),
        ('{"prompt": "a"}\n{"id": [1e999], "prompt": "a"}', {}, 65, "in.jsonl:2:9: 1e999 is larger"),
        ('{"id": 1, "id": 2, "prompt": "a"}', {}, 65, "in.jsonl:1:11: the key 'id' occurs twice"),
        ('{"prompt": "a"}', {"--out": "/"}, 74, "a folder, not a file"),
        ('{"prompt": "a"}\n{"instruction": ""}', {}, 65, "in.jsonl:2:1: instruction is empty"),
        ('{"prompt": "a"}', {"--checkpoint": "nowhere"}, 66, "nowhere"),
        ('{"prompt": "a"}', {"--num_beams": 0}, 2, "--num_beams=0"),
        ('{"prompt": "a"}', {"--num_beams": 1000}, 2, "num_beams=1000 is more than half the vocabulary"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(
    checkpoint: Path, tmp_path: Path, command: Command, lines: str | None, flags: dict, code: int, words: str
) -> None:
    if lines is not None:
        (tmp_path / "in.jsonl").write_text(lines, encoding="utf-8")
    given = {"--checkpoint": checkpoint, "--prompts": tmp_path / "in.jsonl", "--out": tmp_path / "out.jsonl", **flags}
    done = command(f"--cache_dir={CACHE.name}", *(part for pair in given.items() for part in pair))
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert not list(tmp_path.glob("out.jsonl*"))
