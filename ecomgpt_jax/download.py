"""Downloads files over HTTP(S): retries, resumes, and refuses unexpected content.

The transport is `requests` (proxies, NO_PROXY and certificates from the environment, checked content lengths). This
module decides when to retry, how to continue a partial file, and which redirects to follow.
"""

import datetime
import email.utils
import re
import threading
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import requests
import urllib3

from ecomgpt_jax.errors import DataError, MissingInputError, StorageError

UPSTREAM = "https://raw.githubusercontent.com"
MAX_BYTES = 256 * 2**20
MAX_RATIO = 200  # maximum ratio of decoded to received bytes, if a server compresses although not requested
MAX_PAUSE = 120.0  # seconds, upper bound of Retry-After
ATTEMPTS = 8
TIMEOUT = (10, 60)  # seconds to connect, and between two pieces of a body
REDIRECTS = 5
_TRIED_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class _TryAgainError(Exception):
    """A failure after which another attempt is made; `pause` is the server's Retry-After in seconds."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


class Downloader:
    """A connection pool to one base address; several threads may share it.

    The threads share pauses: when a host requests one, every request to it waits.
    """

    def __init__(
        self,
        base: str = UPSTREAM,
        token: str = "",
        say: Callable[[str], None] = lambda line: None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Sets up the pool.

        Args:
          base: address that every path is appended to; `https://` or `http://`.
          token: sent as `Authorization` with the first request of each file to `UPSTREAM`, to no other address.
          say: called with one line per pause.
          sleep: waits that many seconds.
          clock: seconds since any fixed time.
        """
        self._base, self._token, self._say, self._sleep, self._clock = base.rstrip("/"), token, say, sleep, clock
        self._session = requests.Session()
        self._session.auth = lambda request: request  # no credentials from a .netrc
        self._lock = threading.Lock()
        self._not_before: dict[str, float] = {}

    def url(self, path: str) -> str:
        """Returns the address of a path."""
        return f"{self._base}/{urllib.parse.quote(path)}"

    def download(self, path: str, target: Path, received: Callable[[int], None] = lambda count: None) -> None:
        """Writes the body of `path` to `target`; continues a partial file.

        Args:
          path: below the base address, not yet quoted.
          target: a file in an existing folder; holds a part of the body after a failure.
          received: called with the number of bytes of each piece.

        Raises:
          MissingInputError: the address does not exist.
          DataError: the body is larger than allowed, is a Git LFS pointer, or is redirected to a refused address.
          StorageError: the connection failed at every attempt, or the file cannot be written.
        """
        url, host = self.url(path), urllib.parse.urlsplit(self._base).netloc
        for attempt in range(1, ATTEMPTS + 1):
            self._hold(host)
            try:
                self._attempt(url, target, received)
            except (_TryAgainError, requests.RequestException, urllib3.exceptions.HTTPError) as error:
                reason = self._reason(error, target)
                if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema):
                    raise StorageError(f"{url}: no valid address ({reason})") from error
                if attempt == ATTEMPTS:
                    raise StorageError(f"{url}: failed {attempt} times ({reason}); start the command again") from error
                asked = getattr(error, "pause", None)
                pause = min(2.0 ** (attempt - 1) if asked is None else asked, MAX_PAUSE)
                with self._lock:
                    self._not_before[host] = max(self._not_before.get(host, 0.0), self._clock() + pause)
                self._say(f"{url}: {reason}; waits {pause:.0f} s for {host}, attempt {attempt + 1} of {ATTEMPTS}")
            except OSError as error:
                raise StorageError(f"{target}: cannot be written ({error.strerror or error})") from error
            else:
                return

    def _hold(self, host: str) -> None:
        while (left := self._not_before.get(host, 0.0) - self._clock()) > 0:
            self._sleep(left)

    def _reason(self, error: Exception, target: Path) -> str:
        if isinstance(error, _TryAgainError):
            return str(error)
        size = target.stat().st_size if target.exists() else 0
        return f"{type(error).__name__} after {size:,} bytes: {error}".splitlines()[0][:300]

    def _attempt(self, url: str, target: Path, received: Callable[[int], None]) -> None:
        start = target.stat().st_size if target.exists() else 0
        with self._open(url, start) as response:
            if response.status_code == 416 and _total(response) == start:
                return
            if response.status_code in (206, 416) and not (_begins(response) == start and not _encoding(response)):
                target.unlink(missing_ok=True)  # another version or range: start from the beginning
                raise _TryAgainError(f"HTTP {response.status_code} does not continue at byte {start:,}")
            _check_status(response, url)
            kept = start if response.status_code == 206 else 0
            announced = kept + int(response.headers.get("Content-Length") or 0)
            if announced > MAX_BYTES:
                raise DataError(f"{url}: {announced:,} bytes are more than the {MAX_BYTES:,} that are allowed")
            with target.open("ab" if kept else "wb") as out:
                # `read1` returns the bytes received so far; `iter_content` drops the last piece of an interrupted body.
                while piece := response.raw.read1(2**16, decode_content=True):
                    kept += len(piece)
                    if kept > MAX_BYTES:
                        raise DataError(f"{url}: more than the {MAX_BYTES:,} bytes that are allowed")
                    if _encoding(response) and kept > MAX_RATIO * max(response.raw.tell(), 1024):
                        raise DataError(f"{url}: the compressed body unpacks more than {MAX_RATIO}-fold")
                    out.write(piece)
                    received(len(piece))
        with target.open("rb") as stream:
            head = stream.read(1024)
        if head.startswith(_LFS_POINTER):
            size = re.search(rb"size (\d+)", head)
            target.unlink()
            raise DataError(f"{url}: is a Git LFS pointer to {int(size[1]) if size else 0:,} bytes, not the file")

    def _open(self, url: str, start: int) -> requests.Response:
        """Sends the request and follows redirects: never from https to another scheme, never with the token."""
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        token = {"Authorization": f"token {self._token}"} if self._token and self._base == UPSTREAM else {}
        for _ in range(REDIRECTS + 1):
            response = self._session.get(
                url, headers=headers | token, stream=True, timeout=TIMEOUT, allow_redirects=False
            )
            if not response.is_redirect:
                return response
            response.close()
            following = urllib.parse.urljoin(url, response.headers["Location"])
            old, new = urllib.parse.urlsplit(url).scheme, urllib.parse.urlsplit(following).scheme
            if new != "https" and not (new == old == "http"):
                raise DataError(f"{url}: redirects from {old}: to {new}:, which is refused")
            url, token = following, {}
        raise DataError(f"{url}: more than {REDIRECTS} redirects")


def _check_status(response: requests.Response, url: str) -> None:
    status = response.status_code
    if status in (404, 410):
        raise MissingInputError(f"{url}: expected a file, found HTTP {status}; is the mirror complete?")
    if status in _TRIED_AGAIN or (status == 403 and "Retry-After" in response.headers):
        raise _TryAgainError(f"HTTP {status}", retry_after(response.headers.get("Retry-After")))
    if status not in (200, 206):
        raise StorageError(f"{url}: expected a file, found HTTP {status} {response.reason}")


def retry_after(value: str | None, now: datetime.datetime | None = None) -> float | None:
    """Returns the seconds of a `Retry-After` header, a number or a date; None where it is neither."""
    if value is None:
        return None
    if re.fullmatch(r"\s*\d+\s*", value, re.ASCII):
        return float(value)
    try:
        then = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    then = then if then.tzinfo else then.replace(tzinfo=datetime.UTC)
    return max((then - (now or datetime.datetime.now(datetime.UTC))).total_seconds(), 0.0)


def _encoding(response: requests.Response) -> bool:
    return response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity")


def _begins(response: requests.Response) -> int | None:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _total(response: requests.Response) -> int | None:
    match = re.search(r"/(\d+)$", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None
