"""The command against a server on the loopback address: made files, and the real ones where they are at hand."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import upstream_server
from upstream_server import serve
from xla_flags import fake_devices

from ecomgpt_jax import fetch
from ecomgpt_jax.errors import DataError, MissingInputError, StorageError
from ecomgpt_jax.instruct.sources import checksums
from ecomgpt_jax.instruct.sources.places import COLLECTIONS, Collection, Wanted
from ecomgpt_jax.waiting import file_lock

ROOT = Path(__file__).parent.parent
PLAIN = {f"file {i}.txt": b"%d " % i * 30_000 for i in range(6)}


def archive(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in members.items():
            out.writestr(name, data)
    return stream.getvalue()


def wanted(name: str, data: bytes, remote: str = "", **options: Any) -> Wanted:
    return Wanted(
        f"sources/toy/{name}", remote or f"o/n/c/{name}", fetch.digest_of(data, options.pop("like", "")), **options
    )


FILES = [
    *(wanted(name, data) for name, data in PLAIN.items()),
    wanted("a.csv", b"A", "o/n/c/x.zip", member="a.csv"),
    wanted("b.csv", b"bb", "o/n/c/x.zip", member="b.csv", like="0" * 40),
    wanted("upper.txt", b"LOWER", "o/n/c/lower.txt", derive=bytes.upper),
]
REMOTE = {f"o/n/c/{name}": data for name, data in PLAIN.items()} | {
    "o/n/c/x.zip": archive({"in/a.csv": b"A", "in/b.csv": b"bb"}),
    "o/n/c/lower.txt": b"lower",
}
TOY = [Collection("sources/toy", "MIT", True, sum(map(len, PLAIN.values())), tuple(FILES))]


def run(directory: Path, base: str) -> None:
    fetch.fetch(fetch.missing_files(TOY, directory), directory, base)


def assert_whole(directory: Path) -> None:
    """Asserts that all files are there and right, and nothing else is."""
    assert fetch.missing_files(TOY, directory) == {}
    found = {path.name for path in directory.rglob("*") if path.is_file()} - {".lock"}
    assert found == {Path(file.target).name for file in FILES}


def half_written(directory: Path) -> list[str]:
    """Returns the files in place that have other bytes than they should; parts lie elsewhere."""
    right = {file.target: file for file in FILES}
    found = [path for path in directory.rglob("*") if path.is_file() and fetch.PARTS not in path.parts]
    names = [path.relative_to(directory).as_posix() for path in found if path.name != ".lock"]
    return [name for name in names if name not in right or not fetch.is_right(directory / name, right[name])]


def test_all_kinds_of_files_arrive_once(tmp_path: Path) -> None:
    with serve(REMOTE) as (base, requests):
        run(tmp_path, base)
        assert_whole(tmp_path)
        assert sorted(path for path, _ in requests) == sorted(REMOTE)  # the archive of two files once
        (tmp_path / "sources/toy/b.csv").write_bytes(b"spoilt")
        run(tmp_path, base)
        assert_whole(tmp_path)
        assert len(requests) == len(REMOTE) + 1
        run(tmp_path, base)
    assert len(requests) == len(REMOTE) + 1


def test_no_more_than_four_connections(tmp_path: Path) -> None:
    open_now, most, lock, four = 0, 0, threading.Lock(), threading.Barrier(4)

    def count(handler: Any, data: bytes) -> bool:
        nonlocal open_now, most
        with lock:
            open_now += 1
            most = max(most, open_now)
            first = len(requests) <= 4
        if first:
            four.wait(timeout=1800)  # four do come at one time
        with lock:
            open_now -= 1
        return False

    with serve(REMOTE, count) as (base, requests):
        run(tmp_path, base)
    assert most == 4


def driver(directory: Path, base: str) -> subprocess.Popen:
    """Starts the toy fetch in a process of its own."""
    code = "import sys, test_fetch; from pathlib import Path; test_fetch.run(Path(sys.argv[1]), sys.argv[2])"
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    return subprocess.Popen(
        [sys.executable, "-c", code, directory, base],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.slow
def test_killed_at_ten_moments_and_started_again(tmp_path: Path) -> None:
    """The server kills its client with SIGKILL after so many bytes of all bodies together."""
    total = sum(map(len, REMOTE.values()))
    sent, limit, process = 0, 0, None
    lock = threading.Lock()

    def send(handler: Any, data: bytes) -> bool:
        nonlocal sent
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        if start >= len(data):
            return False
        span = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        handler.answer(206 if start else 200, b"", {"Content-Length": str(len(data) - start), **span})
        for at in range(start, len(data), 10_000):
            with lock:
                sent += len(data[at : at + 10_000])
                if sent > limit and process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
            try:
                handler.wfile.write(data[at : at + 10_000])
                handler.wfile.flush()
            except OSError:
                handler.close_connection = True
                return True
        return True

    with serve(REMOTE, send) as (base, _):
        for moment in range(10):
            sent, limit = 0, total * moment // 25
            process = driver(tmp_path, base)
            process.wait(timeout=1800)
            assert process.returncode == -signal.SIGKILL or not fetch.missing_files(TOY, tmp_path)
            assert half_written(tmp_path) == []
        limit = float("inf")
        process = driver(tmp_path, base)
        assert process.wait(timeout=1800) == 0
    assert_whole(tmp_path)


def test_a_missing_file_leaves_the_others_their_turn(tmp_path: Path) -> None:
    remote = {name: data for name, data in REMOTE.items() if "file 0" not in name}
    with serve(remote) as (base, _), pytest.raises(MissingInputError, match=r"file%200.txt.*404"):
        run(tmp_path, base)
    assert list(fetch.missing_files(TOY, tmp_path)) == ["o/n/c/file 0.txt"]
    with serve(REMOTE) as (base, requests):
        run(tmp_path, base)
    assert_whole(tmp_path)
    assert len(requests) == 1


def test_other_bytes_are_not_kept(tmp_path: Path) -> None:
    flipped = bytearray(PLAIN["file 3.txt"])
    flipped[77] ^= 1
    with serve(REMOTE | {"o/n/c/file 3.txt": bytes(flipped)}) as (base, _), pytest.raises(DataError) as error:
        run(tmp_path, base)
    right = fetch.digest_of(PLAIN["file 3.txt"], "")
    assert all(part in str(error.value) for part in ("file 3.txt", right, fetch.digest_of(bytes(flipped), "")))
    assert half_written(tmp_path) == []
    assert not (tmp_path / "sources/toy/file 3.txt").exists()
    with serve(REMOTE) as (base, _):
        run(tmp_path, base)
    assert_whole(tmp_path)


def test_a_part_of_another_version_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / fetch.PARTS).mkdir()
    for remote, data in REMOTE.items():
        name = fetch.hashlib.sha256(remote.encode()).hexdigest()
        (tmp_path / fetch.PARTS / name).write_bytes(b"?" * (len(data) // 2))
    with serve(REMOTE) as (base, requests):
        run(tmp_path, base)
    assert_whole(tmp_path)
    assert len(requests) == 2 * len(REMOTE)


def test_a_whole_part_needs_no_request(tmp_path: Path) -> None:
    (tmp_path / fetch.PARTS).mkdir()
    for name, data in PLAIN.items():
        part = fetch.hashlib.sha256(f"o/n/c/{name}".encode()).hexdigest()
        (tmp_path / fetch.PARTS / part).write_bytes(data)
    with serve(REMOTE) as (base, requests):
        run(tmp_path, base)
    assert_whole(tmp_path)
    assert {path for path, _ in requests} == {"o/n/c/x.zip", "o/n/c/lower.txt"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (archive({"in/a.csv": bytes(10_000_000), "in/b.csv": b"bb"}), "unpacks from"),
        (archive({"in/a.csv": b"A", "other/a.csv": b"A", "in/b.csv": b"bb"}), "2 files 'a.csv'"),
        (archive({"in/b.csv": b"bb"}), "0 files 'a.csv'"),
        (b"no archive", "not a zip"),
    ],
)
def test_bad_archives(tmp_path: Path, body: bytes, reason: str) -> None:
    with serve(REMOTE | {"o/n/c/x.zip": body}) as (base, _), pytest.raises(DataError, match=reason):
        run(tmp_path, base)
    assert half_written(tmp_path) == []
    assert list(fetch.missing_files(TOY, tmp_path)) == ["o/n/c/x.zip"]
    with serve(REMOTE) as (base, _):
        run(tmp_path, base)
    assert_whole(tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 600 kB; where none may be mounted, the test says that it did not run."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no permission to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(300_000))
    with serve(REMOTE) as (base, _):
        with pytest.raises(StorageError, match="cannot be written"):
            run(small_disk, base)
        (small_disk / "ballast").unlink()
        assert half_written(small_disk) == []
        run(small_disk, base)
    assert_whole(small_disk)


def command(*arguments: object, stdin: Any = subprocess.DEVNULL, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "ecomgpt_jax.fetch", *map(str, arguments)],
        env={**os.environ, **environment}, stdin=stdin, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip


def test_the_command_says_licences_and_asks_first(tmp_path: Path) -> None:
    with serve({}) as (base, requests):
        done = command("sources", "en_mams", "--dir", tmp_path, "--mirror", base)
        assert (done.returncode, requests) == (2, [])
        assert "en_mams" in done.stdout
        assert COLLECTIONS["sources/en_mams"].licence in done.stdout
        assert "--yes" in done.stderr
        done = command("sources", "en_mams", "--dir", tmp_path, "--mirror", base, "--yes", GITHUB_TOKEN="tellnobody")
        assert done.returncode == 66
        assert done.stderr.splitlines()[-1].startswith("error: http")
        assert "tellnobody" not in done.stdout + done.stderr
        assert not any("Authorization" in headers for _, headers in requests)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["source"], "name what to fetch"),
        (["sources", "en_mam"], "en_mams"),
        (["sources", "--mirror", "file:///data"], "must begin with https://"),
    ],
)
def test_usage(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = command(*arguments, "--dir", tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_second_fetch_of_a_folder_is_refused(tmp_path: Path) -> None:
    with file_lock(tmp_path / ".lock", "a fetch"):
        done = command("sources", "en_mams", "--dir", tmp_path, "--yes")
    assert done.returncode == 74
    assert done.stderr == f"error: {tmp_path}: another fetch (process {os.getpid()}) runs here; wait for it\n"


@pytest.mark.skipif(not os.environ.get("ECOMGPT_SOURCES"), reason="ECOMGPT_SOURCES is not set")
def test_all_real_sources_bit_for_bit(tmp_path: Path) -> None:
    folders = {"sources": Path(os.environ["ECOMGPT_SOURCES"])}
    if os.environ.get("ECOMGPT_EVAL"):
        folders["evaluation"] = Path(os.environ["ECOMGPT_EVAL"])
    with serve(upstream_server.layout(folders)) as (base, _):
        for group in folders:
            done = command(group, "--dir", tmp_path / "data", "--mirror", base, "--yes")
            assert done.returncode == 0, done.stderr[-500:]
    for name, files in checksums.ALL.items():
        if name.split("/")[0] in folders:
            for file, digest in files.items():
                assert checksums.file_sha256(tmp_path / "data" / name / file) == digest
    assert f"export ECOMGPT_{'EVAL' if len(folders) == 2 else 'SOURCES'}={tmp_path / 'data'}" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("ECOMGPT_EVAL"), reason="ECOMGPT_SOURCES and ECOMGPT_EVAL are not both set")
@pytest.mark.skipif(not os.environ.get("ECOMGPT_SOURCES"), reason="ECOMGPT_SOURCES and ECOMGPT_EVAL are not both set")
def test_three_commands_of_the_readme_from_an_empty_folder_to_scores(tmp_path: Path) -> None:
    """The README's commands, shortened to 3 steps and 2 rows per task, where home and working folder are empty."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("## Real data, from an empty folder to scores\n")[1]
    fetch_all, train, evaluate = section.split("```bash\n")[1].split("```")[0].splitlines()
    folders = {group: Path(os.environ[name]) for group, name in fetch.VARIABLES.items() if os.environ.get(name)}
    env = {name: value for name, value in os.environ.items() if not name.startswith("ECOMGPT_")}
    env |= {"XLA_FLAGS": fake_devices(1)}
    env |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{env['PATH']}"}
    (tmp_path / "work").mkdir()
    (tmp_path / "work/configs").symlink_to(ROOT / "configs")

    def type_in(line: str) -> subprocess.CompletedProcess:
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path / "work", env=env, capture_output=True, text=True)
        print(line, *done.stdout.splitlines()[-30:], done.stderr[-2000:], sep="\n")
        return done

    files = upstream_server.layout(folders)
    not_served = {file.remote for collection in COLLECTIONS.values() for file in collection.files} - files.keys()
    with serve(files) as (base, requests):
        done = type_in(f"{fetch_all} --yes --mirror {base}")
    assert {path for path, _ in requests} == files.keys() | not_served
    assert done.returncode == (66 if not_served else 0)
    assert not not_served or any(path in done.stderr for path in not_served)
    home = tmp_path / ".cache/ecomgpt_jax/data"
    there = {path.relative_to(home).parts[0] for path in home.rglob("*") if path.is_file()} - {".lock"}
    assert there == folders.keys()
    done = type_in(f"{train} --config.train.max_steps=3 --config.eval.limit=2 --config.eval.max_new_tokens=4")
    assert done.returncode == 0
    assert (tmp_path / "work/runs/real_small/report/index.html").is_file()
    done = type_in(f"{evaluate} --limit 2 --max_new_tokens 4")
    assert done.returncode == 0
    scores = json.loads((tmp_path / "work/runs/real_small_scores/scores.json").read_text(encoding="utf-8"))
    official = {name.split("/")[-1] for name in checksums.ALL if name.startswith("evaluation/")}
    assert scores["tasks"].keys() == official
    assert {entry["rows"] for entry in scores["tasks"].values()} == {2}
