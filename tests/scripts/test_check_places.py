import importlib.util
import io
import subprocess
import zipfile
from pathlib import Path

import pytest

from ecomgpt_jax.fetch import digest_of
from ecomgpt_jax.instruct.sources.places import Collection, Wanted

ROOT = Path(__file__).parent.parent.parent
SPEC = importlib.util.spec_from_file_location("check_places", ROOT / "scripts" / "check_places.py")
check_places = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(check_places)


@pytest.fixture
def commit(tmp_path: Path) -> str:
    """Makes a repository `o/n` with a file and an archive and returns its commit."""
    repository = tmp_path / "o" / "n"
    repository.mkdir(parents=True)
    (repository / "a b.txt").write_bytes(b"one")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("in/c.txt", b"two")
    (repository / "x.zip").write_bytes(stream.getvalue())
    git = ["git", "-C", str(repository), "-c", "user.name=x", "-c", "user.email=x@y"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "m"]):
        subprocess.run([*git, *arguments], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize(
    ("path", "data", "options", "outcome"),
    [
        ("a b.txt", b"one", {}, "equal"),
        ("a b.txt", b"other", {}, "DIFFERS"),
        ("a b.txt", b"ONE", {"derive": bytes.upper}, "equal"),
        ("x.zip", b"two", {"member": "c.txt"}, "equal"),
        ("x.zip", b"two", {"member": "d.txt"}, "DIFFERS: "),
        ("nowhere.txt", b"one", {}, "DIFFERS: no such path at the commit"),
    ],
)
def test_each_outcome(path: str, data: bytes, options: dict, outcome: str, commit: str, tmp_path: Path) -> None:
    wanted = Wanted("sources/t/f", f"o/n/{commit}/{path}", digest_of(data, ""), **options)
    found = check_places.check(wanted, tmp_path, None)
    assert found.startswith(outcome)
    assert found == outcome or outcome.endswith(": ")


def test_blob_ids_and_what_is_missing(commit: str, tmp_path: Path) -> None:
    by_id = Wanted("sources/t/f", f"o/n/{commit}/a b.txt", digest_of(b"one", "0" * 40))
    gone = Wanted("sources/t/g", f"o/n/{'0' * 40}/a b.txt", "0" * 64)
    other = Wanted("sources/t/h", f"o/m/{commit}/a b.txt", "0" * 64)
    each = Collection("sources/t", "MIT", True, 3, (by_id, gone, other))
    line = check_places.table([each], tmp_path).splitlines()[-1]
    assert "1 equal by blob id, 1 commit not in the copy, 1 no copy of the repository" in line
