"""A server on the loopback address with the layout of the upstream repositories, which can inject faults."""

import contextlib
import csv
import http.server
import io
import threading
import urllib.parse
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ecomgpt_jax.instruct.sources.places import COLLECTIONS, Wanted
from ecomgpt_jax.instruct.sources.queries import four_fifths_of_queries
from ecomgpt_jax.instruct.sources.reviews import every_second_line


def upstream_of(wanted: Wanted, data: bytes) -> bytes:
    """Returns bytes from which the derivation of a file makes `data` by leaving something out."""
    if wanted.derive is every_second_line:
        return b"".join(line + b"5 #### left out\n" for line in data.splitlines(keepends=True))
    if wanted.derive is four_fifths_of_queries:
        rows = list(csv.reader(io.StringIO(data.decode(), newline="")))
        dropped = ["1", "1", "left out", "a query with a high hash 2", "1"]
        out = io.StringIO(newline="")
        csv.writer(out).writerows([rows[0], dropped, *rows[1:], dropped])
        return out.getvalue().encode("latin-1")
    assert wanted.derive is None
    return data


def layout(folders: dict[str, Path]) -> dict[str, Callable[[], bytes]]:
    """Returns {path of an upstream file: what makes its bytes} for all collections whose group has a folder.

    Args:
      folders: for `sources`, `evaluation`, `benchmarks` the folder with the files as `fetch` leaves them.
    """
    found: dict[str, list[Wanted]] = {}
    for collection in COLLECTIONS.values():
        for wanted in collection.files if collection.group in folders else ():
            if (folders[collection.group] / wanted.target.partition("/")[2]).is_file():
                found.setdefault(wanted.remote, []).append(wanted)

    def make(all_wanted: list[Wanted]) -> bytes:
        contents = {}
        for wanted in all_wanted:
            group, _, rest = wanted.target.partition("/")
            contents[wanted.member] = upstream_of(wanted, (folders[group] / rest).read_bytes())
        if "" in contents:
            return contents[""]
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for member, data in contents.items():
                archive.writestr(f"folder/{member}", data)
        return stream.getvalue()

    return {remote: lambda all_wanted=all_wanted: make(all_wanted) for remote, all_wanted in found.items()}


Answer = Callable[[http.server.BaseHTTPRequestHandler, bytes | None], bool]


@contextlib.contextmanager
def serve(files: dict[str, bytes | Callable[[], bytes]], misbehave: Answer | None = None) -> Iterator[tuple[str, list]]:
    """Serves files, with ranges, until the block ends.

    Args:
      files: {path: bytes, or what makes them}.
      misbehave: called with the request's handler and the file's bytes (None: no such file) before the answer; True
        says that it has answered.

    Yields:
      The base address, and the list of requests as (path, headers) that grows while the server runs.
    """
    requests: list[tuple[str, dict[str, str]]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = urllib.parse.unquote(self.path).lstrip("/")
            requests.append((path, dict(self.headers)))
            made = files.get(path)
            data = made() if callable(made) else made
            if misbehave and misbehave(self, data):
                return
            if data is None:
                self.answer(404, b"gone")
            elif self.headers.get("Range"):
                start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
                if start >= len(data):
                    self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                else:
                    span = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
                    self.answer(206, data[start:], span)
            else:
                self.answer(200, data)

        def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
