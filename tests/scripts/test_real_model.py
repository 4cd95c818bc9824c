"""The script's own errors, and its stages on a tiny base: also where the training was stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import tiny_tasks
from xla_flags import fake_devices

from ecomgpt_jax.config import ModelConfig
from ecomgpt_jax.data.tokenizer import train_tokenizer
from ecomgpt_jax.evaluation.protocol import build_prompts
from ecomgpt_jax.instruct.task_folder import load_tasks
from ecomgpt_jax.model.decoder import init_params
from ecomgpt_jax.model.hf_weights import save_hf
from ecomgpt_jax.model.peft_files import read_peft
from ecomgpt_jax.waiting import file_lock

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "scripts" / "real_model.sh"


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        ([], {}), (["gemma3-270m"], {}), (["gpt5", "d"], {}), (["gemma3-270m", "d"], {"ROWS": "few"}),
        (["gemma3-270m", "d"], {"STEPS": "50 40"}), (["gemma3-270m", "d"], {"STEPS": "51"}),
        (["gemma3-270m", "d"], {"STEPS": "-5"}), (["gemma3-270m", "d"], {"STEPS": "15 50"}),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line(arguments: list[str], variables: dict[str, str], tmp_path: Path) -> None:
    environment = os.environ | variables
    done = subprocess.run(
        [SCRIPT, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("\n"), list(tmp_path.iterdir())) == (2, 1, [])


def test_the_script_is_clean(shellcheck: str) -> None:
    assert subprocess.run([shellcheck, "-x", "-P", "SCRIPTDIR", SCRIPT], check=False).returncode == 0


def this_environment(folder: Path) -> Path:
    """A folder that scripts/env.sh takes for an environment it has made, with this interpreter."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / "bin" / "python").chmod(0o755)
    checksum = subprocess.check_output(["cksum"], stdin=(ROOT / "setup.py").open(), text=True).split()[0]
    (folder / f".made-for-{checksum}-_dev_").touch()
    return folder


# Keeps what `train` would have kept of its checkpoints; ends the script at its first answers.
PRETEND = """
import sys
from pathlib import Path
if sys.argv[1] == "-c":
    exec(sys.argv[2])
elif sys.argv[2] == "ecomgpt_jax.evaluate":
    print("answers in", sys.argv[sys.argv.index("--dtype") + 1], file=sys.stderr)
    sys.exit(99)
elif sys.argv[2] == "ecomgpt_jax.build_data":
    Path(sys.argv[sys.argv.index("--unseen") + 1]).mkdir()
elif sys.argv[2] == "ecomgpt_jax.train":
    given = dict(argument.partition("=")[::2] for argument in sys.argv)
    steps, every, keep = (int(given[f"--config.train.{name}"]) for name in ("max_steps", "save_every", "keep"))
    folder = Path(sys.argv[sys.argv.index("--workdir") + 1]) / "checkpoints"
    found = {int(path.name) for path in folder.glob("*")}
    print("from", max(found, default=0), "every", every, flush=True)
    found |= {step for step in range(max(found, default=0) + 1, steps + 1) if step % every == 0 or step == steps}
    for step in sorted(found)[-keep:]:
        (folder / str(step)).mkdir(parents=True, exist_ok=True)
"""


def pretended(tmp_path: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the script in `tmp_path`/run with a base, and `PRETEND` in place of Python."""
    python = this_environment(tmp_path / "venv") / "bin" / "python"
    (tmp_path / "pretend.py").write_text(PRETEND)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{tmp_path}/pretend.py" "$@"\n')
    (tmp_path / "run" / "base").mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [SCRIPT, "smollm2-135m", tmp_path / "run", *arguments], capture_output=True, text=True, check=False,
        env={**os.environ, "ECOMGPT_VENV": str(tmp_path / "venv"), **variables},
    )  # fmt: skip


def test_each_length_goes_on_from_four_fifths_of_the_one_before(tmp_path: Path) -> None:
    done = pretended(tmp_path, STEPS="20 50 200 215 800 4000 8000")
    assert done.returncode == 99, done.stderr
    lines = ["from 0 every 4", "from 16 every 10", "from 40 every 40", "from 160 every 43", "from 172 every 40"]
    assert done.stdout.splitlines() == [*lines, "from 640 every 40", "from 3200 every 40"]


def test_settings_of_the_call_come_after_its_own(tmp_path: Path) -> None:
    assert "from 0 every 2" in pretended(tmp_path, "--config.train.save_every=2", STEPS="20").stdout


@pytest.mark.parametrize(("given", "used"), [([], "float32"), (["--config.model.compute_dtype=bfloat16"], "bfloat16")])
def test_answers_come_in_the_dtype_of_training(given: list[str], used: str, tmp_path: Path) -> None:
    assert f"answers in {used}\n" in pretended(tmp_path, *given, STEPS="20").stderr


def test_a_second_script_in_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with file_lock(tmp_path / "run/.lock", "the first"):
        second = pretended(tmp_path)
    words = f"error: {tmp_path / 'run'}: another real_model.sh runs here; wait for it, or use another DIR\n"
    assert (second.returncode, second.stderr, second.stdout) == (74, words, "")


@pytest.mark.slow
def test_the_stages_on_a_tiny_base(tmp_path: Path) -> None:
    parts = tiny_tasks.write_tiny_tasks(tmp_path / "tasks")
    base = tmp_path / "run" / "base"
    texts = [text for task, _ in parts for text in build_prompts(task).prompts]
    tokenizer = train_tokenizer(texts, 400, tmp_path / "tokenizer")
    model = ModelConfig(
        size="custom", family="llama", embed=32, layers=1, heads=4, kv_heads=2, mlp=64,
        vocab_size=-(-tokenizer.size // 128) * 128, compute_dtype="float32",
    )  # fmt: skip
    save_hf(init_params(model, jax.random.key(0)), model, base, tokenizer_dir=tmp_path / "tokenizer")
    environment = {
        **os.environ, "ECOMGPT_EVAL": str(tmp_path / "tasks"), "ECOMGPT_VENV": str(this_environment(tmp_path / "venv")),
        "ROWS": "2", "STEPS": "20 40", "PYTHONPATH": str(ROOT), "XLA_FLAGS": fake_devices(1),
    }  # fmt: skip
    small = [
        "mixture=synthetic", "licences=()", "synthetic_records=40", "total_instances=200", "unseen_tasks=2",
        "num_tasks=8", "workers=1", "length=256", f"cache_dir={tmp_path / 'cache'}",
    ]  # fmt: skip
    settings = ["--config.model.vocab_size=0"]
    settings += [*(f"--config.data.{setting}" for setting in small)]
    settings += [f"--config.train.{field}=1" for field in ("validate_every", "log_every")]

    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        command = [SCRIPT, "smollm2-135m", tmp_path / "run", *settings]
        return subprocess.run(command, env=environment | variables, capture_output=True, text=True, check=False)

    stopped = run(ECOMGPT_TESTING="1", ECOMGPT_FAULT="term@step2")
    assert stopped.returncode == 75, stopped.stderr[-2000:]
    assert not (tmp_path / "run" / "scores").exists()
    done = run()
    assert done.returncode == 0, done.stderr[-2000:]
    short, long = (
        [json.loads(line) for line in (tmp_path / f"run/run-{count}/metrics.jsonl").read_text().splitlines()]
        for count in (20, 40)
    )
    assert [line["step"] for line in short] == [*range(1, 21)]
    assert [line["step"] for line in long] == [*range(17, 41)], "the longer run goes on from step 16"
    rates = [line["train/learning_rate"] for line in long if "train/learning_rate" in line]
    assert rates[0] == max(rates) > rates[-1], "and decays at its own end"
    assert "val/loss/unseen" in long[-1]
    described = json.loads((tmp_path / "run/adapter-40/adapter_config.json").read_text())
    assert described["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert len(read_peft(tmp_path / "run/adapter-40", model).layers) == len(described["target_modules"]) == 7
    unseen = {task.name for task in load_tasks(tmp_path / "run" / "unseen")}
    assert unseen
    assert unseen.isdisjoint(json.loads((tmp_path / "run/run-40/trained_on.json").read_text()))
    choice = tmp_path / "run" / "choice"
    assert sorted(path.parent.name for path in choice.glob("*/scores.json")) == ["constrained", "free", "likelihood"]
    best, found = (choice / "answers.txt").read_text().splitlines()
    averages = {
        mode: json.loads((choice / mode / "scores.json").read_text())["averages"]["All tasks"]["corrected"]["score"]
        for mode in ("constrained", "free", "likelihood")
    }
    assert averages[best] == max(averages.values())
    assert str(averages[best]) in found
    assert sorted(path.name for path in (tmp_path / "run" / "curve").iterdir()) == ["0", "20", "40"]
    assert "Loss of the right answers" in (tmp_path / "run" / "curve.md").read_text()
    scores = tmp_path / "run" / "scores"
    modes = [f"{which}-{answers}" for which in ("base", "tuned") for answers in ("constrained", "free", "likelihood")]
    compared = [f"against-{other}.md" for other in ("base", "majority", "random", "copy")]
    assert sorted(path.name for path in scores.iterdir()) == sorted([*modes, *compared])
    assert f"tuned-{best}" in (scores / "against-base.md").read_text()
    assert all((scores / mode / "report.html").is_file() for mode in modes)
    predicted = [path.stem for path in scores.glob("*/predictions/*.jsonl")]
    assert len(predicted) == 6 * sum(task.name.startswith("EN-") for task, _ in parts) < 6 * len(parts)
