"""A cloud that is a folder: `tpu_setup/*.sh` run with tests/tpu_setup/bin first on PATH."""

import os
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
SCRIPTS = REPOSITORY / "tpu_setup"
SETTINGS = {
    "PROJECT": "my-project",
    "ZONE": "us-east5-b",
    "TPU_NAME": "my-tpu",
    "TPU_TYPE": "v6e-16",
    "BUCKET": "my-bucket",
    "RUN_NAME": "my-run",
    "CLUSTER": "my-cluster",
}


class Cloud:
    """Runs the scripts against the fake gcloud and keeps what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.states("GONE")

    def states(self, *states: str) -> None:
        """Scripts what describe answers, in turn; the last one stays."""
        (self.folder / "states").write_text("".join(f"{state}\n" for state in states))

    def run(self, script: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Runs `tpu_setup/<script>`; settings are environment variables over `SETTINGS`."""
        environment = {name: value for name, value in os.environ.items() if name not in ("API", "SPOT", "PRICE")}
        environment |= SETTINGS | {"CLOUD": str(self.folder), "PATH": f"{HERE / 'bin'}:{os.environ['PATH']}"} | settings
        return subprocess.run(
            ["bash", str(SCRIPTS / script), *arguments],
            env=environment, capture_output=True, text=True, timeout=900, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def calls(self, word: str = "") -> list[str]:
        """Returns the calls of gcloud with a word in them, in order."""
        log = self.folder / "log"
        return [line for line in log.read_text().splitlines() if word in line] if log.exists() else []
