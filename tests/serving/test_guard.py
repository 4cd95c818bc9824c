import json
from collections.abc import Iterator

import pytest

from serving.scripted import Running, running


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(hosts=["models.example"]) as made:
        yield made


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:1", 200), ("127.0.0.1:8000", 200), ("[::1]:8000", 200), ("models.example", 200),
        ("evil.example", 403), ("localhost.evil.example", 403), ("127.0.0.1.evil.example", 403), ("192.168.0.7", 403),
        ("evil.example:localhost", 403),
    ],
)  # fmt: skip
def test_hosts(server: Running, host: str, status: int) -> None:
    assert server.get("/health", host=host)[0] == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://localhost:3000", 200), ("https://models.example", 200), ("https://evil.example", 403), ("null", 403)],
)
def test_pages_of_other_sites_may_not_ask(server: Running, origin: str, status: int) -> None:
    found, answer = server.post("/v1/completions", {"prompt": "a"}, origin=origin)
    assert found == status
    assert status == 200 or "may not use" in answer["error"]["message"]
    _, headers, _ = server.get("/health", origin=origin)
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonp"])
def test_a_post_is_json(server: Running, kind: str) -> None:
    found, answer = server.post("/v1/completions", {"prompt": "a"}, content_type=kind)
    assert (found, answer["error"]["type"]) == (415, "invalid_request_error")
    assert server.post("/v1/completions", {"prompt": "a"}, content_type="Application/JSON; charset=utf-8")[0] == 200


@pytest.mark.parametrize(("bound", "host", "status"), [
    ("0.0.0.0", "192.168.0.7:80", 200), ("0.0.0.0", "evil.example", 403), ("::", "[fe80::1]:80", 200)])  # fmt: skip
def test_on_all_interfaces_any_address_is_a_host_and_no_name_is(bound: str, host: str, status: int) -> None:
    with running(hosts=[bound]) as made:
        assert made.get("/health", host=host)[0] == status


def test_an_error_of_ours_is_500_without_its_text(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise AssertionError("secret")

    monkeypatch.setattr(server.service, "encode", broken)
    status, answer = server.post("/v1/completions", {"prompt": "a"})
    assert (status, "secret" in json.dumps(answer)) == (500, False)
    assert server.service.state.in_flight == 0
