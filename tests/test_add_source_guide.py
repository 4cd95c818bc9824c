"""The worked example of the data guide adds a source: a copy of the package is changed as it says, and builds it."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

from ecomgpt_jax.instruct.records import LabelledText
from ecomgpt_jax.instruct.tasks import classification
from ecomgpt_jax.instruct.tasks.task import Dataset, bind

ROOT = Path(__file__).parent.parent
LINES, FILES = 15, 2  # what a source of titles and categories may cost


def guide(title: str = "Add a source", there: str = " ") -> list[tuple[str, str, str]]:
    """Returns (file, lines that are there, lines to add after or instead of them) of each diff of a section."""
    page = (ROOT / "ecomgpt_jax" / "instruct" / "README.md").read_text(encoding="utf-8")
    section = page.split(f"## {title}\n")[1].split("\n## ")[0]
    steps = []
    for block in re.findall(r"```diff\n(.*?)   ```", section, re.S):
        first, *lines = [line[3:] for line in block.splitlines()]
        old, added = ("".join(f"{line[1:]}\n" for line in lines if line[:1] == mark) for mark in (there, "+"))
        steps.append((first.removeprefix("+++ "), old, added))
    return steps


def test_the_guides_source_is_declared_pinned_and_built(tmp_path: Path) -> None:
    steps = guide()
    assert len({file for file, *_ in steps}) == len(steps) == FILES
    assert sum(text.count("\n") for *_, text in steps) <= LINES

    data = tmp_path / "data"
    shutil.copytree(ROOT / "ecomgpt_jax", tmp_path / "ecomgpt_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for file, there, added in steps:
        text = (tmp_path / file).read_text(encoding="utf-8")
        assert text.count(there) == 1
        added = re.sub(" *place=.*\n", "", added)  # a local source, as the guide allows
        (tmp_path / file).write_text(text.replace(there, there + added), encoding="utf-8")
    (data / "sources" / "en_shop").mkdir(parents=True)
    kinds = ("Mugs", "Lamps", "Chairs")
    rows = [f"{maker} {kind[:-1].lower()} {n},{kind},9" for n, maker in enumerate(range(100, 140)) for kind in kinds]
    text = "\n".join(["title,category,price", *rows, ",Mugs,1"])
    (data / "sources" / "en_shop" / "items.csv").write_text(text, encoding="utf-8")

    def command(*arguments: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(tmp_path), "ECOMGPT_SOURCES": str(data / "sources")}
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    changed = [str(tmp_path / file) for file, *_ in steps]
    command("ruff", "format", "--check", "--config", str(ROOT / "pyproject.toml"), *changed)
    pinned = command("ecomgpt_jax.fetch", "--pin", "sources/en_shop", "--dir", str(data))
    assert f"export ECOMGPT_SOURCES={data / 'sources'}\n" in pinned
    assert "local, never fetched" in command("ecomgpt_jax.fetch", "sources", "en_shop", "--dir", str(data))
    settings = {"sources": "en_shop", "cache_dir": str(tmp_path / "cache"), "instances_per_task": "20"}
    flags = [f"--config.data.{name}={value}" for name, value in settings.items()]
    config = str(ROOT / "configs" / "ecominstruct.py")
    stats = tmp_path / "stats.json"
    command("ecomgpt_jax.build_data", "--config", config, *flags, "--stats", str(stats))
    found = json.loads(stats.read_text(encoding="utf-8"))
    made = {name: task["train"] for name, task in found["tasks"].items()}
    assert made.pop("EN-Shop_Titles-CLS-classification") == 20
    assert {name.rsplit("-", 1)[1] for name in made} >= {"two_options", "label_check", "text_writing"}
    assert all(made.values())
    entry = found["sources"]["en_shop"]
    assert (entry["read"], entry["records"], entry["skipped"]) == (121, 120, {"no title": 1})


def test_the_guides_task_makes_rows_and_is_added_to_its_operator() -> None:
    (_, _, form), (file, old, new) = guide("Add a task", "-")
    assert (ROOT / file).read_text(encoding="utf-8").count(old) == 1
    names = dict(vars(classification))
    exec(form, names)
    assert set(re.findall(r"classification\.\w+", new)) - set(re.findall(r"classification\.\w+", old)) == {
        "classification.WRONG_LABEL"
    }
    task = bind(names["WRONG_LABEL"], Dataset("Shop_Titles", "en_shop", kind="category"), parent="EN-Shop_Titles-CLS-x")
    assert (task.name, task.operator) == ("EN-Shop_Titles-CLS-wrong_label", "simplification")
    records = [
        LabelledText(id=str(n), group=str(n), language="en", text=text, labels={"category": (label,)})
        for n, (text, label) in enumerate((("a mug", "Mugs"), ("a lamp", "Lamps")))
    ]
    made = list(task.examples(records, task.label_set(records), random.Random(0)))
    assert [(each.answer, sorted(each.candidates)) for each in made] == [
        ("Lamps", ["Lamps", "Mugs"]),
        ("Mugs", ["Lamps", "Mugs"]),
    ]
