"""babysit.sh: each state leads to its action, tries are bounded, and it ends with the run."""

import os
import shlex

import pytest
from fake_cloud import HERE, Cloud

FAST = ("--interval", "0")


def finish_after(cloud: Cloud, calls: int) -> None:
    """Wraps the fake so that the run's DONE marker appears with the given call of describe."""
    folder = cloud.folder / "bin"
    folder.mkdir()
    real = shlex.quote(str(HERE / "bin" / "gcloud"))
    (folder / "gcloud").write_text(
        f"""#!/usr/bin/env bash
        {real} "$@"; code=$?
        if [ "$(grep -c describe "$CLOUD/log")" -ge {calls} ]; then
          mkdir -p "$CLOUD/buckets/my-bucket/my-run"; echo 'done' >"$CLOUD/buckets/my-bucket/my-run/DONE"
        fi
        exit $code
        """
    )
    (folder / "gcloud").chmod(0o755)


def babysit(cloud: Cloud, *arguments: str, **settings: str) -> tuple[int, str]:
    path = f"{cloud.folder / 'bin'}:{HERE / 'bin'}:{os.environ['PATH']}"
    result = cloud.run("babysit.sh", *FAST, *arguments, PATH=path, **settings)
    return result.returncode, result.stderr


@pytest.mark.parametrize("api", ["tpu", "compute"])
@pytest.mark.parametrize("taken", ["PREEMPTED", "SUSPENDED", "FAILED", "TERMINATED"])
def test_taken_away_and_gone_is_created_once_under_the_same_run_name(cloud: Cloud, api: str, taken: str) -> None:
    cloud.states("READY", taken, "GONE", "CREATING", "READY")
    finish_after(cloud, 5)
    code, text = babysit(cloud, "--api", api, "--spot", TPU_TYPE="v6e-4")
    assert code == 0, text
    creates, launches = cloud.calls("create my-tpu"), cloud.calls("worker.sh start my-bucket my-run")
    assert len(creates) == 1
    assert "spot" in creates[0].lower()
    assert len(launches) == 2
    assert len(cloud.calls("delete my-tpu")) == 1
    order = [next(i for i, line in enumerate(cloud.calls()) if word in line) for word in ("delete my", "create my")]
    assert order == sorted(order)


def test_a_finished_run_touches_no_tpu(cloud: Cloud) -> None:
    marker = cloud.folder / "buckets" / "my-bucket" / "my-run" / "DONE"
    marker.parent.mkdir(parents=True)
    marker.write_text("done\n")
    assert babysit(cloud)[0] == 0
    assert cloud.calls("compute") == []


def test_an_empty_marker_is_none(cloud: Cloud) -> None:
    marker = cloud.folder / "buckets" / "my-bucket" / "my-run" / "DONE"
    marker.parent.mkdir(parents=True)
    marker.write_text("")
    assert babysit(cloud, "--max-tries", "1")[0] == 74


def test_tries_are_bounded(cloud: Cloud) -> None:
    code, text = babysit(cloud, "--max-tries", "3")
    assert (code, len(cloud.calls("create my-tpu"))) == (74, 3)
    assert "gave up after 3 tries" in text


@pytest.mark.parametrize("answer", ["OFFLINE", "SOMETHING_NEW"])
def test_no_clear_answer_creates_and_deletes_nothing(cloud: Cloud, answer: str) -> None:
    cloud.states(answer)
    assert babysit(cloud, "--max-tries", "3")[0] == 74
    assert cloud.calls("create") + cloud.calls("delete") == []


@pytest.mark.parametrize("code", [2, 65, 66])
def test_a_wrong_config_is_not_started_again(cloud: Cloud, code: int) -> None:
    cloud.states("READY")
    (cloud.folder / "answer").write_text(f"worker 0: ended 1\nworker 1: ended {code}\n")
    assert babysit(cloud)[0] == code
    assert cloud.calls("start") == []


def test_one_fallen_worker_restarts_all_and_a_finished_one_none(cloud: Cloud) -> None:
    cloud.states("READY")
    answer = cloud.folder / "answer"
    answer.write_text("worker 0: running\nworker 1: ended 137\n")
    assert babysit(cloud, "--max-tries", "1")[0] == 74
    actions = [line.split("worker.sh ")[-1].split()[0] for line in cloud.calls("worker.sh ")]
    assert actions == ["status", "stop", "start", "status"]
    (cloud.folder / "log").unlink()
    answer.write_text("worker 0: running\nworker 1: ended 0\n")
    finish_after(cloud, 3)
    assert babysit(cloud)[0] == 0
    assert cloud.calls("worker.sh start") + cloud.calls("worker.sh stop") == []


@pytest.mark.parametrize(
    ("stable", "statuses", "action"),
    [
        ("True", "RUNNING\n" * 4, "start"),
        ("True", "RUNNING\nTERMINATED\nRUNNING\nRUNNING\n", "delete"),
        ("False", "RUNNING\nSTAGING\n", None),
    ],
)
def test_a_group_is_judged_by_its_machines(cloud: Cloud, stable: str, statuses: str, action: str | None) -> None:
    cloud.states(stable)
    (cloud.folder / "statuses").write_text(statuses)
    finish_after(cloud, 1)
    assert babysit(cloud, "--api", "compute")[0] == 0
    assert bool(cloud.calls("worker.sh start")) == (action == "start")
    assert bool(cloud.calls("delete my-tpu")) == (action == "delete")
