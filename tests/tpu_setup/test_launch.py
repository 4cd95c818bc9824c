"""launch.sh and babysit.sh with worker.sh at work: two workers on this machine, a stand-in for the training."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_cloud import HERE, Cloud
from xla_flags import fake_devices

from ecomgpt_jax.training.progress import read_metrics


def wait_for(condition: object, seconds: float = 1800) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def test_one_of_two_workers_is_killed_and_babysit_brings_the_run_to_its_end(cloud: Cloud) -> None:
    for worker in ("0", "1"):
        (cloud.folder / "hosts" / worker).mkdir(parents=True)
    cloud.states("ACTIVE")
    settings = {"ECOMGPT_PYTHON": str(HERE / "bin" / "train"), "TPU_TYPE": "v6e-8"}
    started = cloud.run("launch.sh", "--", "--config.train.max_steps=6", "--config.name=a b", **settings)
    assert sorted(started.stdout.splitlines()) == ["worker 0: started", "worker 1: started"]
    run: Path = cloud.folder / "buckets" / "my-bucket" / "my-run"
    wait_for((run / "workdir" / "fallen").exists)
    again = cloud.run("launch.sh", **settings)
    assert sorted(again.stdout.splitlines()) == ["worker 0: already running", "worker 1: already running"]
    os.kill(int((run / "workdir" / "fallen").read_text()), signal.SIGKILL)
    wait_for(lambda: "worker 1: ended 137" in cloud.run("status.sh", **settings).stdout)
    result = cloud.run("babysit.sh", "--interval", "1", **settings)
    assert result.returncode == 0, result.stderr
    assert (run / "DONE").read_text() == "done\n"
    assert (run / "workdir" / "steps").read_text().split() == list("123456")  # each once: it went on where it stopped
    assert (run / "workdir" / "starts-1").read_text() == "start at 0\nstart at 2\n"
    assert "a worker fell out" in result.stderr
    assert cloud.calls("create") + cloud.calls("delete") == []
    arguments = (cloud.folder / "hosts" / "0" / "ecomgpt" / "my-run" / "code" / "train_arguments.sh").read_text()
    assert arguments == "set -- --config.train.max_steps=6 --config.name=a\\ b\n"
    assert "exit code 0" in (run / "logs" / "worker-0.log").read_text()
    assert "exit code 137" in cloud.run("logs.sh", **settings).stdout


@pytest.mark.slow
def test_a_real_run_of_two_processes_is_killed_and_ends_with_the_same_losses(cloud: Cloud) -> None:
    for worker in ("0", "1"):
        (cloud.folder / "hosts" / worker).mkdir(parents=True)
    cloud.states("ACTIVE")
    settings = {
        "ECOMGPT_PYTHON": sys.executable,
        "TPU_TYPE": "v6e-8",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": fake_devices(1),
    }
    tiny = [
        "--config=configs/demo.py", "--config.data.synthetic_records=60", "--config.data.instances_per_task=3",
        "--config.data.tokenizer_vocab=600", f"--config.data.cache_dir={cloud.folder / 'cache'}",
        *(f"--config.model.{field}" for field in ("embed=32", "layers=1", "heads=2")),
        "--config.train.rows_per_device=1", "--config.train.max_steps=12", "--config.train.log_every=1",
        "--config.train.save_every=1", "--config.train.final_evaluation=false",
    ]  # fmt: skip
    losses = {}
    for name in ("whole", "killed"):
        settings["RUN_NAME"] = name
        run = cloud.folder / "buckets" / "my-bucket" / name
        assert "worker 1: started" in cloud.run("launch.sh", "--", *tiny, **settings).stdout
        if name == "killed":
            wait_for(lambda run=run: any((run / "workdir" / "checkpoints").glob("[0-9]")))
            group = int((cloud.folder / "hosts" / "1" / "ecomgpt" / name / "pid").read_text())
            subprocess.run(["pkill", "-KILL", "-g", str(group), "-f", "ecomgpt_jax.train"], check=True)
        result = cloud.run("babysit.sh", "--interval", "2", **settings)
        assert result.returncode == 0, result.stderr + cloud.run("logs.sh", **settings).stdout
        lines = read_metrics(run / "workdir" / "metrics.jsonl")
        losses[name] = [line["train/loss"] for line in lines]
    assert len(losses["whole"]) == 12
    assert losses["killed"] == losses["whole"]
    log = (cloud.folder / "hosts" / "1" / "ecomgpt" / "killed" / "log").read_text()
    assert log.count("=== ") >= 3, "the killed worker was started again"
