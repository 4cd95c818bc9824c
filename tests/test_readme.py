"""What the READMEs tell people to type exists: commands, flags, settings, files, and the errors they explain."""

import re
from pathlib import Path

import pytest

from ecomgpt_jax.config import Config, field_paths

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "tpu_setup/README.md")
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
    assert len(lines) > 5
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


def test_every_link_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8")):
            assert (ROOT / page).parent.joinpath(target).exists(), target
