"""The commands, flags, settings, files and errors in the READMEs exist."""

import re
from pathlib import Path

import pytest

from ecomgpt_jax.config import Config, field_paths

ROOT = Path(__file__).parent.parent
PAGES = (
    "README.md",
    "configs/README.md",
    "ecomgpt_jax/README.md",
    "ecomgpt_jax/evaluation/README.md",
    "ecomgpt_jax/instruct/README.md",
    "ecomgpt_jax/instruct/sources/README.md",
    "ecomgpt_jax/serving/README.md",
    "ecomgpt_jax/model/README.md",
    "scripts/benchmarks/README.md",
    "scripts/results/README.md",
    "tests/README.md",
    "tpu_setup/README.md",
)
LONGEST = {"README.md": 250}  # lines; 300 for a guide
FOLDERS = ("configs", "ecomgpt_jax", "scripts", "tests", "tpu_setup")
SOURCE = "\n".join(
    path.read_text(encoding="utf-8") for folder in ("ecomgpt_jax", "tpu_setup") for path in (ROOT / folder).rglob("*.*")
    if path.suffix in (".py", ".sh")
)  # fmt: skip


def commands(page: str) -> list[str]:
    """Returns every line of a bash block and every inline code that starts a command, continuations joined."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    rest = re.sub(r"```.*?```", "", text, flags=re.S)
    inline = re.findall(r"`((?:python -m|tpu_setup/|\./scripts/)[^`]*)`", rest)
    return [line.split("  #")[0].strip() for line in lines + inline if line.strip()]


def faults(command: str) -> list[str]:
    """Returns what in a command does not exist."""
    found = []
    command = command.replace("\\|", "|")
    module = re.search(r"-m ecomgpt_jax(?:\.(\w+))?", command)
    script = re.search(r"(?:tpu_setup|scripts)/\w+\.sh", command)
    known: set[str] = set()
    if module and module[1]:
        path = ROOT / "ecomgpt_jax" / f"{module[1]}.py"
        if not path.exists():
            return [f"no command {module[1]}"]
        known = set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', path.read_text())) | {"help"}
    elif script and (ROOT / script[0]).exists():
        shell = (ROOT / script[0]).read_text() + (ROOT / "tpu_setup" / "lib.sh").read_text()
        known = {word[2:] for word in re.findall(r"--[a-z][a-z-]*", shell)}
    ours = command.split(" -- ")
    for word in re.findall(r"(?<![\w-])--([a-zA-Z][\w.-]*)", ours[0]) if known else []:
        name = word.removeprefix("no") if word.removeprefix("no") in known else word
        if word.startswith("config."):
            if word.removeprefix("config.") not in field_paths(Config()):
                found.append(f"no setting {word}")
        elif name not in known:
            found.append(f"no flag --{word}")
    for part in ours[1:]:
        found += faults(f"-m ecomgpt_jax.train {part}")
    for path in re.findall(r"(?<![\w/@-])((?:configs|scripts|tpu_setup|tests)/[\w./-]*\w)", command):
        if not (ROOT / path).exists() and path != "tpu_setup/env":
            found.append(f"no file {path}")
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_command_exists_with_its_flags_settings_and_files(page: str) -> None:
    lines = commands(page)
    assert lines
    assert {line: faults(line) for line in lines if faults(line)} == {}


@pytest.mark.parametrize(
    "command",
    [
        "python -m ecomgpt_jax.trian --config configs/demo.py",
        "python -m ecomgpt_jax.train --confg configs/demo.py",
        "python -m ecomgpt_jax.train --config configs/demos.py",
        "python -m ecomgpt_jax.train --config.lora.rnk=3",
        "tpu_setup/create.sh --spit",
        "tpu_setup/launch.sh -- --config.lora.rnk=3",
        "tpu_setup/creat.sh",
    ],
)
def test_a_wrong_command_would_be_found(command: str) -> None:
    assert faults(command)


def test_every_explained_message_is_one_that_the_program_says() -> None:
    section = (
        (ROOT / "README.md").read_text(encoding="utf-8").split("## When something goes wrong")[1].split("\n## ")[0]
    )
    messages = re.findall(r"^\| `([^`]+)`", section, re.M)
    assert len(messages) > 8
    assert [message for message in messages if message not in SOURCE] == []


def headings(page: Path) -> set[str]:
    """Returns the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    for target, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", (ROOT / page).read_text(encoding="utf-8")):
        found = (ROOT / page).parent.joinpath(target) if target else ROOT / page
        assert found.exists(), target
        assert not anchor or anchor in headings(found), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_every_path_exists(page: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.S)
    paths = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)(?::[\w,]+)?`", text)
    dated = re.findall(r"`([\w./-]*20\d\d-\d\d-\d\d[\w./-]*)`", text)
    assert [path for path in paths if not (ROOT / path).exists() and path != "tpu_setup/env"] == []
    assert [path for path in dated if not ((ROOT / page).parent / path).exists() and not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_no_page_is_too_long_and_each_guide_opens_with_its_question(page: str) -> None:
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LONGEST.get(page, 300)
    assert page == "README.md" or (lines[0].startswith("# ") and lines[0].endswith("?"))


def test_every_guide_is_checked() -> None:
    pages = (path for path in ROOT.rglob("README.md") if not list(path.parent.glob("*.safetensors")))  # cards are none
    found = {path.relative_to(ROOT).as_posix() for path in pages}
    kept = {page for page in found if page.split("/")[0] in {"README.md", *FOLDERS}}
    assert kept == set(PAGES)
