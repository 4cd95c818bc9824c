"""Errors that a user can act on: one line with what, where and what to do, and an exit code."""


class EcomError(Exception):
    """An expected failure; a command prints its text as one line on stderr and exits with `exit_code`."""

    exit_code = 1


class ConfigError(EcomError):
    """A setting, flag or argument that cannot work."""

    exit_code = 2


class DataError(EcomError):
    """Invalid input (a malformed row, a corrupt checkpoint, a token id beyond the vocabulary)."""

    exit_code = 65


class MissingInputError(EcomError):
    """A missing file, folder or environment variable."""

    exit_code = 66


class StorageError(EcomError):
    """Reading or writing failed: no space, no permission, a remote store without a response."""

    exit_code = 74


class PreemptedError(EcomError):
    """The run was stopped by a signal and is saved; the same command continues it."""

    exit_code = 75
