import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
TINY = {
    "size": "custom", "embed": 64, "layers": 1, "heads": 4, "vocab_size": 512, "compute_dtype": "float32",
    "head_chunk": 16,
}  # fmt: skip


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, SCRIPTS / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


benchmark, work = load("benchmark.py"), load("benchmarks/work.py")


def test_a_bar_is_met_or_not() -> None:
    assert benchmark.at_least("a", 1, 2, 2.0, 2, "s")["met"] is True
    assert benchmark.at_least("a", 1, 2, 1.99, 2, "s")["met"] is False
    assert benchmark.at_least("a", 1, 2, float("nan"), 2, "s")["met"] is False
    assert benchmark.at_least("a", 1, 2, 0.5, None, "s")["met"] is None
    assert benchmark.at_most("a", float("nan"), 1, "s")["met"] is False
    assert benchmark.faster("a", [{"seconds": 2.0}, {"seconds": 6.0}], 3, "s")["ratio"] == 3


@pytest.mark.parametrize(("ratio", "code"), [(2.0, 0), (1.0, 1)])
def test_exit_code_table_and_file(
    ratio: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [benchmark.at_least("speed", 3.0, 6.0, ratio, 1.5, "s"), benchmark.at_least("memory", 1, 2, 2, None, "MiB")]
    monkeypatch.setattr(benchmark, "run_cpu", lambda repeats, folder: rows)
    files = [str(tmp_path / name) for name in ("out.json", "out.svg")]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--suite", "cpu", "--json", files[0], "--plot", files[1]])
    assert benchmark.main() == code
    assert ("NO" in capsys.readouterr().out) == bool(code)
    written = json.loads(Path(files[0]).read_text())
    assert (written["rows"], written["complete"]) == (rows, True)
    assert Path(files[1]).read_text().count("<rect") == 2


def test_a_run_that_is_cut_off_leaves_its_rows(tmp_path: Path) -> None:
    file, row = tmp_path / "new" / "out.json", benchmark.at_least("speed", 3.0, 6.0, 2.0, 1.5, "s")

    def rows(seen: list[dict]) -> Iterator[dict]:
        seen.append(json.loads(file.read_text()))
        yield row
        seen.append(json.loads(file.read_text()))
        raise KeyboardInterrupt

    seen: list[dict] = []
    file.parent.mkdir()
    file.write_text('{"complete": true}')  # of an older run
    with pytest.raises(KeyboardInterrupt):
        benchmark.record(rows(seen), {"suite": "cpu"}, file)
    assert seen == [{"suite": "cpu", "complete": False, "rows": rows} for rows in ([], [row])]
    assert json.loads(file.read_text()) == seen[1]


@pytest.mark.parametrize(
    ("body", "limit", "message"),
    [
        ("def kind(case): raise RuntimeError('out of memory\\nmore')", 60, "side.py x: RuntimeError: out of memory"),
        ("def kind(case): return lambda: 1 / 0, {}", 60, "side.py x: ZeroDivisionError: division by zero"),
        ("def kind(case): import os; os._exit(3)", 60, "side.py x: ended with code 3; its message is above"),
        ("def kind(case): import time; time.sleep(60)", 1, "side.py x: killed after 1 s"),
    ],
)
def test_a_side_that_fails(body: str, limit: float, message: str, tmp_path: Path) -> None:
    script, folder = tmp_path / "side.py", str(SCRIPTS / "benchmarks")
    script.write_text(f"import sys\nsys.path.insert(0, {folder!r})\nimport work\n{body}\nwork.serve(kind)\n")
    with pytest.raises(benchmark.SideError, match=re.escape(message) + "$"):
        benchmark.take_turns({"kind": "x"}, 1, "cpu", (os.path.relpath(script, folder),), limit)


def test_the_work_is_what_is_said() -> None:
    batch = work.full_batch(8, 256, 32_000, 0.15)
    assert batch["loss_mask"].mean() == pytest.approx(0.15, abs=0.02)
    assert not batch["loss_mask"][:, -1].any()
    np.testing.assert_array_equal(batch["inputs"][:, 1:], batch["targets"][:, :-1])
    lengths = np.array(work.task_lengths(500))
    assert lengths.shape == (6000, 2)
    assert lengths.mean(0) == pytest.approx([189, 18.3], rel=0.03)
    prompts, answers = work.counting_prompts(16, 32_000)
    assert [prompt[-1] - work.EOS - 1 for prompt in prompts] == answers
    assert max(answers) + work.EOS + 1 < work.FIRST_TOKEN


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XLA_FLAGS", re.sub(r"--xla_force\S+", "", os.environ.get("XLA_FLAGS", "")))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    benchmark._write_weights(TINY, tmp_path)
    return tmp_path


@pytest.mark.slow
def test_both_sides_do_the_same(weights: Path) -> None:
    pytest.importorskip("torch")
    case = {"kind": "train", "model": TINY, "weights": str(weights / "random"), "rows": 2, "length": 32, "share": 0.3}
    sides = benchmark.take_turns(case, 1, "cpu")
    assert benchmark.difference(sides) < 1e-5
    assert sides[0]["useful"] == sides[1]["useful"] == 64
    other = benchmark.take_turns({**case, "share": 0.6}, 1, "cpu", ("peer.py",))
    assert benchmark.difference([sides[0], *other]) > 1e-5
    case = {"kind": "generate", "model": TINY, "weights": str(weights / "countdown"), "rows": 8}
    sides = benchmark.take_turns({**case, "task_rows": 1, "slots": 8, "shrink": 8}, 1, "cpu")
    assert sides[0]["tokens"] == sides[1]["tokens"]
    assert len(sides[0]["tokens"]) == 12


@pytest.mark.slow
def test_the_family_suite_on_a_tiny_gemma(weights: Path) -> None:
    pytest.importorskip("peft")
    gemma = TINY | {"family": "gemma", "kv_heads": 1, "mlp": 96, "window": 16, "layer_kinds": "s"}
    benchmark._write_weights(gemma, weights / "gemma")
    (weights / "base").symlink_to(weights / "gemma" / "random")
    rows = list(benchmark.run_family(1, weights))
    assert [row["name"].strip().split(",")[0] for row in rows] == [
        "adapters: difference of the first loss", "adapters", "greedy", "answers that are equal",
    ]  # fmt: skip
    assert rows[0]["met"] is True
    assert rows[3]["ratio"] == 1
