# %% [markdown]
# # A tour: data, training curve, scores
# Open it cell by cell (VS Code, or Jupyter with jupytext), or run it as
# `python scripts/tour.py [--out=DIR] [--config.<a.b>=value]`. Output goes to `runs/tour` or DIR. By default it
# trains a tiny model for minutes; for better scores set more steps, for example `--config.train.max_steps=400`.

# %%
"""Shows the data, trains a tiny model on it, draws the loss and prints the scores; see the first cell."""

import json
import subprocess
import sys
from pathlib import Path

from matplotlib.figure import Figure

from ecomgpt_jax.config import Config
from ecomgpt_jax.evaluation.terminal import score_table
from ecomgpt_jax.files import read_json, write_json_lines
from ecomgpt_jax.instruct import ecom_instruct
from ecomgpt_jax.training.progress import read_metrics

ROOT = Path(__file__).resolve().parent.parent
EXTRA = [word for word in sys.argv[1:] if word.startswith("--config.")]  # Jupyter adds its own arguments
OUT = Path(next((word[6:] for word in sys.argv[1:] if word.startswith("--out=")), ROOT / "runs" / "tour"))


def run(command: str, *arguments: str) -> None:
    """Runs a command of the package, as in a terminal."""
    subprocess.run([sys.executable, "-m", f"ecomgpt_jax.{command}", *arguments], cwd=ROOT, check=True)


# %% [markdown]
# ## 1. Data
# The embedded catalogue is generated now. Each product becomes instances of many tasks, in English and Chinese;
# Chain-of-Task operators derive smaller tasks from them.

# %%
config = Config()
config.data.synthetic_records = 60
config.data.cache_dir = str(OUT / "cache")
built = ecom_instruct.build(config.data)
totals = built.stats["totals"]
print(f"{len(built.stats['tasks'])} tasks, {totals['train']:,} training instances")
rows = ecom_instruct.open_split(built.directory, "train")
for index in (0, len(rows) // 2):
    print(f"\n--- {rows[index]['task']}\n{rows[index]['prompt']}\n>>> {rows[index]['response']}")

# %% [markdown]
# ## 2. Training
# One command: tokeniser, packing, scores before, training, scores after, report.

# %%
ARGUMENTS = [
    "--config=configs/demo.py",
    "--config.data.synthetic_records=60",
    f"--config.data.cache_dir={OUT / 'cache'}",
    "--config.train.max_steps=60",
    "--config.train.log_every=2",
    "--config.eval.limit=10",
]
run("train", *ARGUMENTS, *EXTRA, f"--workdir={OUT / 'run'}")

# %%
metrics = read_metrics(OUT / "run" / "metrics.jsonl")
figure = Figure(figsize=(7, 3), layout="constrained")
axes = figure.subplots()
axes.plot([line["step"] for line in metrics], [line["train/loss"] for line in metrics])
axes.set(xlabel="step", ylabel="loss of the response tokens")
figure.savefig(OUT / "loss.svg")
print(f"loss {metrics[0]['train/loss']:.2f} -> {metrics[-1]['train/loss']:.2f}: {OUT / 'loss.svg'}")
figure  # noqa: B018 - shown by a notebook

# %% [markdown]
# ## 3. Scores
# Held-out tasks, from which no training row comes, before and after training; and the baselines.

# %%
before, after = (read_json(OUT / "run" / "evaluation" / name / "scores.json") for name in ("before", "after"))
print(score_table(after, before))

# %% [markdown]
# ## 4. Your own prompts

# %%
write_json_lines(OUT / "prompts.jsonl", [{"prompt": rows[0]["prompt"]}])
run(
    "generate", f"--checkpoint={OUT / 'run'}", f"--prompts={OUT / 'prompts.jsonl'}", f"--out={OUT / 'answers.jsonl'}",
    "--max_new_tokens=16",
)  # fmt: skip
print(json.loads((OUT / "answers.jsonl").read_text(encoding="utf-8").splitlines()[0])["completion"])
