"""Processes of a session, for tests that end one and ask what is left."""

import contextlib
from pathlib import Path


def session_members(session: int) -> list[str]:
    """Returns the processes that live in a session."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if stat.read_text().rsplit(") ", 1)[1].split()[3] == str(session):
                members.append(stat.parent.name)
    return members
