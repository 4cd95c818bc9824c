import json
import random
from pathlib import Path

import pytest
from etils import epath

from ecomgpt_jax.model import manifest


@pytest.fixture
def sealed(tmp_path: Path) -> epath.Path:
    (tmp_path / "step/params/d").mkdir(parents=True)
    (tmp_path / "step/meta").mkdir()
    (tmp_path / "step/params/d/0").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "step/params/tree").write_text("tree")
    (tmp_path / "step/meta/metadata").write_text("{}")
    manifest.seal(epath.Path(tmp_path / "step"))
    return epath.Path(tmp_path / "step")


def test_what_was_written_is_whole(sealed: epath.Path) -> None:
    assert manifest.find_damage(sealed) == ""
    assert sorted(json.loads((sealed / manifest.NAME).read_text())["files"]) == [
        "meta/metadata", "params/d/0", "params/tree",
    ]  # fmt: skip


def test_every_one_of_200_flipped_bits_is_seen(sealed: epath.Path) -> None:
    files = [Path(sealed / name) for name in ("params/d/0", "params/tree", "meta/metadata", manifest.NAME)]
    choose = random.Random(0)
    for number in range(200):
        file = files[number % len(files)]
        content = file.read_bytes()
        at, bit = choose.randrange(len(content)), choose.randrange(8)
        file.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
        assert manifest.find_damage(sealed), (file, at, bit)
        file.write_bytes(content)
    assert manifest.find_damage(sealed) == ""


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("params/d/0", b"", "params/d/0 is not what was written"),
        ("params/d/0", None, "params/d/0 is missing"),
        (manifest.NAME, None, f"no readable {manifest.NAME}"),
        (manifest.NAME, b"\xff", f"no readable {manifest.NAME}"),
        (manifest.NAME, b"[]", f"{manifest.NAME} is damaged"),
        (manifest.NAME, b'{"files": {}, "sha256": ""}', f"{manifest.NAME} is damaged"),
    ],
)
def test_damage_is_named(sealed: epath.Path, name: str, content: bytes | None, words: str) -> None:
    if content is None:
        (sealed / name).unlink()
    else:
        (sealed / name).write_bytes(content)
    assert words in manifest.find_damage(sealed)


def test_only_the_items_asked_for_are_checked(sealed: epath.Path) -> None:
    (sealed / "params/tree").write_text("bush")
    assert manifest.find_damage(sealed, ("meta",)) == ""
    assert manifest.find_damage(sealed, ("meta", "params"))


def test_a_file_that_came_later_does_no_harm(sealed: epath.Path) -> None:
    (sealed / "notes.txt").write_text("mine")
    assert manifest.find_damage(sealed) == ""
