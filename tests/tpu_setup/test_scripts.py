"""Every script: shellcheck, exact commands under --dry-run, names that are refused, what each asks the cloud."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fake_cloud import HERE, REPOSITORY, SCRIPTS, SETTINGS, Cloud

ALL = sorted(SCRIPTS.glob("*.sh"))
USER_SCRIPTS = ("create", "delete", "launch", "babysit", "status", "logs", "cost", "doctor", "xpk")
AFTER_OPTIONS = {"launch": ["--", "--config", "configs/bloomz_7b1.py", "--config.name=it's; a $(test)"],
                 "xpk": ["--", "--config", "configs/bloomz_7b1.py"], "cost": ["--hours", "3"]}  # fmt: skip
HOSTILE = ("a;rm -rf x", "$(touch x)", "`id`", "a b", "A", "-a", "9a", "a\nb", "a" * 63, "../x", "a'b", "ä")


def golden(name: str) -> str:
    """Returns golden commands with this checkout's path in them, quoted as the shell does (it may hold anything)."""

    def place(word: re.Match[str]) -> str:
        path = word[0].replace("REPOSITORY", str(REPOSITORY))
        return subprocess.run(
            ["bash", "-c", 'printf %q "$1"', "-", path], capture_output=True, text=True, env={"LC_ALL": "C"}
        ).stdout

    return re.sub(r"\S*REPOSITORY\S*", place, (HERE / "golden" / f"{name}.txt").read_text())


def unquoted(line: str) -> str:
    """Returns the words of a line as `printf %q` quoted them, joined by blanks."""

    def decoded(part: re.Match[str]) -> str:
        return part[1].encode().decode("unicode_escape").encode("latin-1").decode() if part[1] else part[2]

    return re.sub(r"\$'((?:[^'\\]|\\.)*)'|\\(.)", decoded, line)


def test_unquoting() -> None:
    for word in ("plain", "a b", "it's; $(x)", "中", "a\tb 中"):
        for locale in ("C", "C.UTF-8"):
            quoted = subprocess.run(
                ["bash", "-c", 'printf %q "$1"', "-", word], capture_output=True, text=True, env={"LC_ALL": locale}
            ).stdout
            assert unquoted(quoted) == word, (quoted, locale)


def test_shellcheck_finds_nothing(shellcheck: str) -> None:
    files = [*ALL, *(HERE / "bin").iterdir()]
    result = subprocess.run([shellcheck, *map(str, files)], capture_output=True, text=True)
    assert result.stdout == ""


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_scripts_stop_at_the_first_failure(path: Path) -> None:
    text = path.read_text()
    assert "set -euo pipefail" in text or 'lib.sh"\n' in text
    assert os.access(path, os.X_OK) == (path.name != "lib.sh")


@pytest.mark.parametrize("script", USER_SCRIPTS)
def test_dry_run_prints_the_golden_commands_and_calls_nothing(cloud: Cloud, script: str) -> None:
    sections = []
    for api in ("tpu", "compute"):
        for spot in ((), ("--spot",)):
            for tpu_type in ("v6e-4", "v6e-16"):
                arguments = ["--api", api, *spot, "--dry-run", *AFTER_OPTIONS.get(script, [])]
                result = cloud.run(f"{script}.sh", *arguments, TPU_TYPE=tpu_type, PRICE="2.5")
                assert result.returncode == 0, result.stderr
                sections.append(f"# TPU_TYPE={tpu_type} {script}.sh {' '.join(arguments)}\n{result.stdout}")
    text = "\n".join(sections)
    if os.environ.get("UPDATE_GOLDEN"):  # in a checkout whose path needs no quotes
        (HERE / "golden" / f"{script}.txt").write_text(text.replace(str(REPOSITORY), "REPOSITORY"))
    assert text == golden(script)
    assert cloud.calls() == []


def test_bootstrap_prints_its_golden_commands() -> None:
    result = subprocess.run(["bash", str(SCRIPTS / "bootstrap.sh"), "--dry-run"], capture_output=True, text=True)
    if os.environ.get("UPDATE_GOLDEN"):
        (HERE / "golden" / "bootstrap.txt").write_text(result.stdout)
    assert result.stdout == golden("bootstrap")


@pytest.mark.parametrize("script", USER_SCRIPTS)
def test_dry_run_lines_survive_the_shell(cloud: Cloud, script: str) -> None:
    """What is printed can be pasted: the fake receives the same words that a real run would send."""
    printed = cloud.run(f"{script}.sh", "--dry-run", *AFTER_OPTIONS.get(script, [])).stdout
    lines = [line for line in printed.splitlines() if line.startswith("gcloud compute")]
    environment = os.environ | {"CLOUD": str(cloud.folder), "PATH": f"{HERE / 'bin'}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", "\n".join(lines)], env=environment, capture_output=True)
    for line, call in zip(lines, cloud.calls(), strict=True):
        assert unquoted(line) == f"gcloud {call}"


@pytest.mark.parametrize("script", USER_SCRIPTS)
def test_hostile_names_exit_2_and_reach_no_cloud(cloud: Cloud, script: str) -> None:
    for index, name in enumerate(HOSTILE):
        variable = list(SETTINGS)[index % len(SETTINGS)]
        for mode in ((), ("--dry-run",)):
            result = cloud.run(f"{script}.sh", *mode, *AFTER_OPTIONS.get(script, []), **{variable: name})
            assert (result.returncode, cloud.calls()) == (2, []), (variable, name, result.stderr)
            assert result.stderr.startswith("error: ")
            assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "arguments", "settings", "message"),
    [
        ("create.sh", ["--api", "gke"], {}, "--api gke"),
        ("create.sh", ["--spit"], {}, "--spit"),
        ("create.sh", [], {"ZONE": ""}, "ZONE is not set"),
        ("create.sh", ["--api", "compute"], {"TPU_TYPE": "v9x-12"}, "v9x-12"),
        ("create.sh", [], {"RUNTIME_VERSION": "x y"}, "RUNTIME_VERSION"),
        ("babysit.sh", ["--interval", "1s"], {}, "--interval"),
        ("babysit.sh", ["--max-tries"], {}, "--max-tries"),
        ("launch.sh", ["--", "--workdir=x"], {}, "--workdir"),
        ("logs.sh", ["--lines", "1;id"], {}, "--lines"),
        ("cost.sh", ["--hours", "1e9"], {}, "--hours"),
        ("cost.sh", ["--spot", "--hours", "1"], {}, "PRICE"),
        ("cost.sh", ["--hours", "1"], {"PRICE": "x"}, "PRICE"),
        ("xpk.sh", [], {}, "say what to train"),
    ],
)
def test_wrong_arguments_exit_2_in_one_line(
    cloud: Cloud, script: str, arguments: list[str], settings: dict[str, str], message: str
) -> None:
    result = cloud.run(script, *arguments, **settings)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert cloud.calls() == []


def test_help_is_the_comment_at_the_top(cloud: Cloud) -> None:
    for script in USER_SCRIPTS:
        text = cloud.run(f"{script}.sh", "--help").stdout
        assert f"Usage: {script}.sh" in text
        assert "--dry-run" in text


def test_bucket_may_be_written_as_an_address(cloud: Cloud) -> None:
    plain, address = (cloud.run("launch.sh", "--dry-run", BUCKET=name).stdout for name in ("b1", "gs://b1"))
    assert plain == address


@pytest.mark.parametrize(
    ("tpu_type", "machine", "topology", "hosts"),
    [
        ("v6e-1", "ct6e-standard-1t", None, 1),
        ("v6e-8", "ct6e-standard-8t", None, 1),
        ("v6e-32", "ct6e-standard-4t", "4x8", 8),
        ("v5litepod-16", "ct5lp-hightpu-4t", "4x4", 4),
        ("v5p-8", "ct5p-hightpu-4t", None, 1),
        ("v5p-16", "ct5p-hightpu-4t", "2x2x2", 2),
        ("tpu7x-128", "tpu7x-standard-4t", "4x4x4", 16),
    ],
)
def test_compute_engine_gets_machine_and_topology(
    cloud: Cloud, tpu_type: str, machine: str, topology: str | None, hosts: int
) -> None:
    text = cloud.run("create.sh", "--api", "compute", "--dry-run", TPU_TYPE=tpu_type).stdout
    assert f"--machine-type={machine} " in text
    assert (f"--accelerator-topology={topology} " in text) == (hosts > 1)
    assert (f"--size={hosts} " in text) == (hosts > 1)


def test_delete_asks(cloud: Cloud) -> None:
    assert cloud.run("delete.sh").returncode == 2
    assert cloud.calls() == []
    assert cloud.run("delete.sh", "--yes").returncode == 0
    assert len(cloud.calls("delete my-tpu")) == 1


def test_delete_goes_on_where_a_part_is_missing(cloud: Cloud, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "gcloud"
    fake.write_text('#!/bin/sh\necho "$*" >>"$CLOUD/log"\ncase "$*" in *managed*) exit 1;; esac\n')
    fake.chmod(0o755)
    result = cloud.run("delete.sh", "--api", "compute", "--yes", PATH=f"{fake.parent}:{os.environ['PATH']}")
    assert result.returncode == 74
    assert len(cloud.calls()) == 3


def test_same_code_and_arguments_give_the_same_bundle(cloud: Cloud) -> None:
    bundle = cloud.folder / "buckets" / "my-bucket" / "my-run" / "code.tar.gz"
    contents = []
    for name in ("a", "a", "b"):
        assert cloud.run("launch.sh", "--", f"--config.name={name}").returncode == 0
        contents.append(bundle.read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_cost_and_status_and_doctor(cloud: Cloud) -> None:
    assert "$43.20 an hour\n3.00 hours: $129.60" in cloud.run("cost.sh", "--hours", "3").stdout
    cloud.states("ACTIVE")
    (cloud.folder / "answer").write_text("worker 0: running\n")
    status = cloud.run("status.sh").stdout
    assert status.splitlines() == ["tpu my-tpu (v6e-16): ready", "worker 0: running", "run my-run: not done"]
    healthy = "code abc", "storage scope ok", "bucket write ok", "port h:8476 ok", "chips 4"
    for change, wrong in (({}, None), ({0: "code xyz"}, "same code"), ({1: "storage scope missing"}, "storage"),
                          ({3: "port h:8476 blocked"}, "port"), ({4: "chips 0"}, "chips")):  # fmt: skip
        second = [change.get(index, line) for index, line in enumerate(healthy)]
        lines = [f"worker 0: {line}" for line in healthy] + [f"worker 1: {line}" for line in second]
        (cloud.folder / "answer").write_text("\n".join(lines) + "\n")
        found = [line for line in cloud.run("doctor.sh").stdout.splitlines() if line.startswith("WRONG")]
        found = [line for line in found if "signed in" not in line and "enabled" not in line]
        assert [wrong in line for line in found] == ([] if wrong is None else [True]), found


def test_these_tests_pass_in_a_checkout_whose_path_needs_quotes(tmp_path: Path) -> None:
    """One of each kind: golden commands, pasted lines, the wrapped fake of babysit's tests."""
    root = tmp_path / "it's a b 中"
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in (SCRIPTS, HERE):
        shutil.copytree(folder, root / folder.relative_to(REPOSITORY), ignore=ignored)
    chosen = "(golden or survive) and (create or bootstrap) or finished_one"
    files = [f"tests/tpu_setup/test_{name}.py" for name in ("scripts", "babysit")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=.", "-k", chosen, *files]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout
