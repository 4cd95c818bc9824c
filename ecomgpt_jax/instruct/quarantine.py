"""Bad records: kept out of the data, written to one file with place and reason, and an error when they are many."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ecomgpt_jax.errors import DataError
from ecomgpt_jax.files import BadRecord, write_json_lines

MAX_BAD_SHARE = 0.001  # of a source's records; more is a damaged file or the wrong format, not a few bad lines
_TEXT = 2000  # characters of a bad record that are kept


@dataclasses.dataclass
class Quarantine:
    """The bad records of a build; `path` is the file to write them to, None keeps them in memory."""

    path: Path | None = None
    records: list[BadRecord] = dataclasses.field(default_factory=list)

    def add(self, source: str, count: int, bad: Sequence[BadRecord]) -> None:
        """Takes the bad ones of the `count` records of a source.

        Raises:
          DataError: they are more than `MAX_BAD_SHARE`; names the first, and the file that lists all.
        """
        self.records += bad
        if len(bad) > MAX_BAD_SHARE * count:
            self.write()
            listed = f"; all are listed in {self.path}" if self.path else ""
            raise DataError(
                f"{bad[0]} ({len(bad):,} of {count:,} records of {source} are bad, above {MAX_BAD_SHARE:.1%}{listed})"
            )

    def write(self) -> None:
        """Writes the file, or removes an old one when nothing is bad."""
        if self.path and self.records:
            write_json_lines(
                self.path,
                (
                    {"place": f"{r.file}:{r.line}:{r.column}", "reason": r.reason, "text": r.text[:_TEXT]}
                    for r in self.records
                ),
            )
        elif self.path:
            self.path.unlink(missing_ok=True)
