"""The rooms and who may import whom (README, architecture)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ecomgpt_jax"
BASE = {"config", "download", "errors", "experiment", "files", "recipes", "redaction", "strict_json", "waiting"}
COMMANDS = {path.stem for path in PACKAGE.glob("*.py")} - BASE - {"__init__", "cli"}
MAY_IMPORT = {
    "errors": set(),
    "strict_json": set(),
    "files": {"errors", "strict_json"},
    "download": {"errors"},
    "waiting": {"errors"},
    "redaction": set(),
    "config": {"errors"},
    "experiment": {"config", "errors"},
    "recipes": {"config", "errors"},
    "cli": BASE,
    "parallel": BASE,
    "model": BASE | {"parallel"},
    "instruct": BASE,
    "data": BASE | {"instruct"},
    "training": BASE | {"parallel", "model", "data"},
    "decoding": BASE | {"parallel", "model"},
    "evaluation": BASE | {"instruct", "data", "decoding"},
    "serving": BASE | {"instruct", "data", "decoding"},
}
NO_JAX = ("instruct", "data/packing.py", "evaluation/official_scores.py", "evaluation/corrected_scores.py")
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def imported(tree: ast.AST) -> set[str]:
    """Returns the dotted names that a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def problems(relative: str, source: str) -> list[str]:
    """Returns what a file of the package imports or calls against the rules."""
    tree, found = ast.parse(source), []
    names, room = imported(tree), relative.split("/")[0].removesuffix(".py")
    for name in names:
        parts = name.split(".")
        if parts[0] == "ecomgpt_jax" and len(parts) > 1:
            if parts[1] in COMMANDS and room != "__main__":
                found.append(f"imports the command {parts[1]}")
            if room in MAY_IMPORT and parts[1] in set(MAY_IMPORT) - MAY_IMPORT[room] - {room}:
                found.append(f"{room} imports {parts[1]}")
        if parts[0] == "jax" and relative.startswith(NO_JAX):
            found.append("imports jax")
        if parts[0] == "absl" and room not in COMMANDS | {"cli"}:
            found.append("imports absl outside a command")
        if parts[0] in {"tensorflow", "pickle"} or (parts[0] == "torch" and relative != "model/hf_files.py"):
            found.append(f"imports {parts[0]}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
                found.append(f"calls {node.func.id}")
            if any(k.arg in {"shell", "allow_pickle", "trust_remote_code"} and getattr(k.value, "value", 1) is not False
                   for k in node.keywords):  # fmt: skip
                found.append("passes shell, allow_pickle or trust_remote_code")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_import_only_what_they_may(path: Path) -> None:
    assert problems(path.relative_to(PACKAGE).as_posix(), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("relative", "source"),
    [
        ("model/decoder.py", "from ecomgpt_jax.training import loop"),
        ("model/decoder.py", "import torch"),
        ("instruct/records.py", "import jax.numpy as jnp"),
        ("data/packing.py", "from jax import numpy"),
        ("training/loop.py", "from ecomgpt_jax import train"),
        ("training/loop.py", "from ecomgpt_jax.instruct import records"),
        ("config.py", "import ecomgpt_jax.model.decoder"),
        ("evaluation/report.py", "from absl import flags"),
        ("serving/app.py", "from ecomgpt_jax.training import loop"),
        ("decoding/continuous.py", "from ecomgpt_jax.serving import scheduler"),
        ("model/hf_weights.py", "import numpy as np\nnp.load('x', allow_pickle=True)"),
        ("instruct/records.py", "eval('1')"),
    ],
)
def test_a_breach_is_seen(relative: str, source: str) -> None:
    assert problems(relative, source)


def has_test(source: str) -> bool:
    """Returns whether a test file holds a test function that does more than pass."""
    return any(
        isinstance(node, ast.FunctionDef)
        and node.name.startswith("test_")
        and not all(
            isinstance(line, ast.Pass) or isinstance(getattr(line, "value", 0), ast.Constant) for line in node.body
        )
        for node in ast.walk(ast.parse(source))
    )


@pytest.mark.parametrize(
    "empty", ["", "import os", "def test_x():\n    pass", 'def test_x():\n    """Says."""\n    ...']
)
def test_an_empty_test_file_is_seen(empty: str) -> None:
    assert not has_test(empty)
    assert has_test(empty + "\n\ndef test_y():\n    assert 1")


def test_every_module_has_its_test() -> None:
    """Tests mirror files one to one; packages of data and thin entry points aside."""
    missing = []
    for path in SOURCES:
        relative = path.relative_to(PACKAGE)
        if relative.name in {"__init__.py", "__main__.py"}:
            continue
        test = ROOT / "tests" / relative.with_name(f"test_{relative.name}")
        if not (test.is_file() and has_test(test.read_text(encoding="utf-8"))):
            missing.append(str(relative))
    assert missing == []


def test_no_file_is_too_long() -> None:
    """Over 350 lines a file is split, or says in its docstring why not ("longer than 350 lines because ...")."""
    for path in SOURCES:
        source = path.read_text(encoding="utf-8")
        if len(source.splitlines()) > 350:
            assert "longer than 350 lines because" in (ast.get_docstring(ast.parse(source)) or "").replace("\n", " "), (
                path
            )


def import_depth(sources: dict[str, str]) -> tuple[int, list[str]]:
    """Returns the longest chain of imports among modules, in steps, and the modules that import in a circle."""
    graph = {name: (imported(ast.parse(source)) & sources.keys()) - {name} for name, source in sources.items()}
    depth: dict[str, int] = {}
    while ready := [name for name in graph if name not in depth and graph[name] <= depth.keys()]:
        depth |= {name: 1 + max((depth[other] for other in graph[name]), default=-1) for name in ready}
    return max(depth.values(), default=0), sorted(graph.keys() - depth.keys())


def test_imports_of_the_data_room_run_one_way_and_are_shallow() -> None:
    """From records to `ecom_instruct`, at most seven steps, so that a reader can follow a record to a row."""
    room = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text(encoding="utf-8")
        for path in (PACKAGE / "instruct").rglob("*.py")
        if path.name != "__init__.py"
    }
    depth, circle = import_depth(room)
    assert circle == []
    assert depth <= 7


def test_a_deep_chain_and_a_circle_are_seen() -> None:
    chain = {"p.m0": ""} | {f"p.m{i}": f"from p import m{i - 1}" for i in range(1, 9)}
    assert import_depth(chain) == (8, [])
    assert import_depth(chain | {"p.m0": "def f():\n    import p.m1"})[1] == sorted(chain)
