from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from etils import epath

from ecomgpt_jax.errors import MissingInputError
from ecomgpt_jax.model import hub

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict]:
    asked = []

    def model_info(self: object, repo: str, *, revision: str, timeout: float) -> SimpleNamespace:
        files = ["config.json", "pytorch_model.bin"] + ["model.safetensors"] * ("safe" in repo)
        return SimpleNamespace(sha=SHA, siblings=[SimpleNamespace(rfilename=name) for name in files])

    def snapshot_download(repo: str, **keywords: object) -> str:
        asked.append({"repo": repo, **keywords})
        return str(tmp_path / "snapshots" / str(keywords["revision"]))

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def test_a_branch_is_pinned_to_its_commit(online: list[dict], caplog: pytest.LogCaptureFixture) -> None:
    name, folder = hub.find_weights("owner/safe-model@main")
    assert (name, folder.name) == (f"owner/safe-model@{SHA}", SHA)
    assert "pinned" in caplog.text
    assert online[0]["revision"] == SHA
    assert "*.safetensors" in online[0]["allow_patterns"]
    assert "*.bin" not in online[0]["allow_patterns"]


def test_a_commit_is_taken_as_it_is(online: list[dict], caplog: pytest.LogCaptureFixture) -> None:
    assert hub.find_weights(f"owner/old@{SHA}")[0] == f"owner/old@{SHA}"
    assert caplog.text == ""
    assert "*.bin" in online[0]["allow_patterns"]


def test_a_revision_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingInputError, match="bigscience/bloomz-560m@REVISION"):
        hub.find_weights("bigscience/bloomz-560m")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "one@main").mkdir(parents=True)
    for name in ("runs/one@main", "/nowhere/at/all", str(tmp_path), "runs"):
        assert hub.find_weights(name) == (name, epath.Path(name))


def test_offline_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **keywords: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(MissingInputError, match=r"owner/model@main: not on .* \(no route\); download") as caught:
        hub.find_weights("owner/model@main")
    assert "\n" not in str(caught.value)
