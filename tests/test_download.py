import datetime
import gzip
from pathlib import Path
from typing import Any

import pytest
from upstream_server import serve

from ecomgpt_jax import download
from ecomgpt_jax.download import Downloader, retry_after
from ecomgpt_jax.errors import DataError, MissingInputError, StorageError

BODY = bytes(range(256)) * 1024


class Clock:
    """A clock that advances only during sleeps."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def __call__(self) -> float:
        return self.now


def get(base: str, target: Path, path: str = "o/n/c/f.bin", **options: Any) -> Clock:
    clock = Clock()
    Downloader(base, sleep=clock.sleep, clock=clock, **options).download(path, target)
    return clock


def test_a_file_is_written_and_its_path_quoted(tmp_path: Path) -> None:
    with serve({"o/n/c/数 据#1?.bin": BODY}) as (base, requests):
        get(base, tmp_path / "f", "o/n/c/数 据#1?.bin")
    assert (tmp_path / "f").read_bytes() == BODY
    assert requests[0][1]["Accept-Encoding"] == "identity"
    assert "Range" not in requests[0][1]


def test_a_part_goes_on_where_it_ended(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(BODY[:1000])
    with serve({"o/n/c/f.bin": BODY}) as (base, requests):
        get(base, tmp_path / "f")
        assert (tmp_path / "f").read_bytes() == BODY
        get(base, tmp_path / "f")  # whole: the server has nothing to add
    assert (tmp_path / "f").read_bytes() == BODY
    assert [headers.get("Range") for _, headers in requests] == ["bytes=1000-", f"bytes={len(BODY)}-"]


@pytest.mark.parametrize(
    "span",
    [f"bytes 990-{len(BODY) - 1}/{len(BODY)}", f"bytes 1010-{len(BODY) - 1}/{len(BODY)}", "rubbish", None],
)
def test_a_range_that_begins_elsewhere_starts_over(tmp_path: Path, span: str | None) -> None:
    def elsewhere(handler: Any, data: bytes) -> bool:
        if ranged := "Range" in handler.headers:
            handler.answer(206, data[990:], {"Content-Range": span} if span else {})
        return ranged

    (tmp_path / "f").write_bytes(BODY[:1000])
    with serve({"o/n/c/f.bin": BODY}, elsewhere) as (base, _):
        get(base, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_server_without_ranges_sends_all_again(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 1000)
    with serve({"o/n/c/f.bin": BODY}, lambda handler, data: handler.answer(200, data) is None) as (base, _):
        get(base, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_part_longer_than_the_file_starts_over(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(BODY + b"more")
    with serve({"o/n/c/f.bin": BODY}) as (base, _):
        get(base, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY


def cut_off(times: int) -> Any:
    """Announces the whole body and hangs up in the middle of it, that many times."""
    left = [times]

    def hang_up(handler: Any, data: bytes) -> bool:
        if not left[0]:
            return False
        left[0] -= 1
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        span = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        handler.answer(
            206 if start else 200, data[start : start + 5000], {"Content-Length": str(len(data) - start), **span}
        )
        handler.close_connection = True
        return True

    return hang_up


def test_a_cut_off_body_goes_on(tmp_path: Path) -> None:
    with serve({"o/n/c/f.bin": BODY}, cut_off(3)) as (base, requests):
        clock = get(base, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY
    assert [headers.get("Range") for _, headers in requests] == [None, "bytes=5000-", "bytes=10000-", "bytes=15000-"]
    assert clock.slept == [1, 2, 4]


def test_a_body_that_is_always_cut_off_is_an_error_that_keeps_the_part(tmp_path: Path) -> None:
    with (
        serve({"o/n/c/f.bin": BODY}, cut_off(99)) as (base, _),
        pytest.raises(StorageError, match="failed 8 times") as e,
    ):
        get(base, tmp_path / "f")
    assert "40,000 bytes" in str(e.value)
    assert (tmp_path / "f").read_bytes() == BODY[:40000]


@pytest.mark.parametrize(
    ("header", "pauses"), [("7", [7]), (None, [1]), ("soon", [1]), ("-3", [1]), ("99999", [120]), ("0", [])]
)
def test_a_host_that_asks_for_a_pause_gets_it(tmp_path: Path, header: str | None, pauses: list[float]) -> None:
    refused = []

    def later(handler: Any, data: bytes) -> bool:
        if refused:
            return False
        refused.append(1)
        handler.answer(429, b"slower", {"Retry-After": header} if header else {})
        return True

    lines: list[str] = []
    with serve({"o/n/c/f.bin": BODY}, later) as (base, _):
        clock = get(base, tmp_path / "f", say=lines.append)
    assert clock.slept == pauses
    assert "429" in lines[0]
    assert "waits" in lines[0]


def test_one_pause_holds_back_every_file_of_the_host(tmp_path: Path) -> None:
    """Ten answers in two seconds of the shared clock, else 429: sixty files arrive."""
    clock, answered = Clock(), []

    def limited(handler: Any, data: bytes) -> bool:
        recent = [at for at in answered if at > clock.now - 2]
        if full := len(recent) >= 10:
            handler.answer(429, b"", {"Retry-After": "2"})
        else:
            answered.append(clock.now)
        return full

    with serve({f"o/n/c/{i}": b"%d" % i for i in range(60)}, limited) as (base, requests):
        downloader = Downloader(base, sleep=clock.sleep, clock=clock)
        for i in range(60):
            downloader.download(f"o/n/c/{i}", tmp_path / str(i))
    assert all((tmp_path / str(i)).read_bytes() == b"%d" % i for i in range(60))
    assert len(requests) == 65  # one refusal for each pause, not one for each file


@pytest.mark.parametrize(
    ("status", "error"), [(404, MissingInputError), (410, MissingInputError), (401, StorageError), (500, StorageError)]
)
def test_other_answers(tmp_path: Path, status: int, error: type[Exception]) -> None:
    with (
        serve({}, lambda handler, data: handler.answer(status, b"no") is None) as (base, requests),
        pytest.raises(error, match=f"o/n/c/f.bin.*{status}"),
    ):
        get(base, tmp_path / "f")
    assert len(requests) == (8 if status == 500 else 1)
    assert not (tmp_path / "f").exists()


def test_nobody_at_the_port(tmp_path: Path) -> None:
    with serve({}) as (base, _):
        pass
    with pytest.raises(StorageError, match="failed 8 times"):
        get(base, tmp_path / "f")


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_a_redirect_to_another_scheme_is_refused(tmp_path: Path, location: str) -> None:
    def away(handler: Any, data: bytes | None) -> bool:
        return handler.answer(302, b"", {"Location": location}) is None

    with serve({}, away) as (base, _), pytest.raises(DataError, match="redirects from http: to"):
        get(base, tmp_path / "f")
    assert not (tmp_path / "f").exists()


def test_https_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Redirect:
        is_redirect, headers = True, {"Location": "http://127.0.0.1/x"}

        def close(self) -> None:
            pass

    downloader = Downloader("https://example.org")
    monkeypatch.setattr(downloader._session, "get", lambda url, **_: Redirect())
    with pytest.raises(DataError, match="from https: to http:"):
        downloader.download("a", tmp_path / "f")


def test_redirects_are_followed_without_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve({"o/n/c/f.bin": BODY}) as (other, there):

        def away(handler: Any, data: bytes | None) -> bool:
            return handler.answer(302, b"", {"Location": f"{other}/o/n/c/f.bin"}) is None

        with serve({}, away) as (base, here):
            get(base, tmp_path / "mirror", token="secret")
            monkeypatch.setattr(download, "UPSTREAM", base)
            get(base, tmp_path / "f", token="secret")
    assert (tmp_path / "f").read_bytes() == BODY
    assert [headers.get("Authorization") for _, headers in here] == [None, "token secret"]  # a mirror never gets it
    assert [headers.get("Authorization") for _, headers in there] == [None, None]


def test_endless_redirects(tmp_path: Path) -> None:
    def again(handler: Any, data: bytes | None) -> bool:
        return handler.answer(302, b"", {"Location": handler.path}) is None

    with serve({}, again) as (base, requests), pytest.raises(DataError, match="more than 5 redirects"):
        get(base, tmp_path / "f")
    assert len(requests) == 6


def test_a_server_that_compresses_anyway(tmp_path: Path) -> None:
    def compressed(handler: Any, data: bytes) -> bool:
        return handler.answer(200, gzip.compress(data), {"Content-Encoding": "gzip"}) is None

    with serve({"o/n/c/f.bin": BODY}, compressed) as (base, _):
        get(base, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY


def test_bodies_that_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 100_000)
    with serve({"o/n/c/f.bin": BODY}) as (base, _), pytest.raises(DataError, match="262,144 bytes are more"):
        get(base, tmp_path / "f")

    def bomb(handler: Any, data: bytes) -> bool:
        return handler.answer(200, gzip.compress(bytes(99_000)), {"Content-Encoding": "gzip"}) is None

    monkeypatch.setattr(download, "MAX_RATIO", 20)
    with serve({"o/n/c/f.bin": BODY}, bomb) as (base, _), pytest.raises(DataError, match="unpacks more than 20-fold"):
        get(base, tmp_path / "f")

    def endless(handler: Any, data: bytes) -> bool:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(data)
        handler.close_connection = True
        return True

    with serve({"o/n/c/f.bin": BODY}, endless) as (base, _), pytest.raises(DataError, match="more than the 100,000"):
        get(base, tmp_path / "f")


def test_a_pointer_is_not_the_file(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 51286808\n"
    with serve({"o/n/c/f.bin": pointer}) as (base, _), pytest.raises(DataError, match="pointer to 51,286,808 bytes"):
        get(base, tmp_path / "f")
    assert not (tmp_path / "f").exists()


def test_proxies_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    with serve({"o/n/c/f.bin": BODY}) as (base, _):
        with pytest.raises(StorageError, match="ProxyError"):
            get(base, tmp_path / "f")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        get(base, tmp_path / "f")


def test_an_unwritable_target(tmp_path: Path) -> None:
    with serve({"o/n/c/f.bin": BODY}) as (base, _), pytest.raises(StorageError, match="cannot be written"):
        get(base, tmp_path / "no" / "folder")


def test_retry_after() -> None:
    now = datetime.datetime(2026, 11, 29, 12, 0, 0, tzinfo=datetime.UTC)
    assert retry_after("Sun, 29 Nov 2026 12:01:30 GMT", now) == 90
    assert retry_after("Sun, 29 Nov 2026 11:00:00 GMT", now) == 0
    assert retry_after(" 12 ", now) == 12
    assert [retry_after(value, now) for value in (None, "soon", "1.5e9x", "-4", "")] == [None] * 5
