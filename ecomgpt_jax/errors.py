"""Errors a user can act on: one line that says what, where and what to do, and the exit code it ends in."""


class EcomError(Exception):
    """An expected failure; a command prints its text as one line on stderr and exits with `exit_code`."""

    exit_code = 1


class ConfigError(EcomError):
    """A setting, flag or argument that cannot work."""

    exit_code = 2


class DataError(EcomError):
    """Input that was read and is wrong (a malformed row, a corrupt checkpoint, a token id past the vocabulary)."""

    exit_code = 65


class MissingInputError(EcomError):
    """A file, folder or environment variable that should be there and is not."""

    exit_code = 66


class StorageError(EcomError):
    """Reading or writing failed: no space, no permission, a remote store that does not answer."""

    exit_code = 74


class PreemptedError(EcomError):
    """The run was told to stop and has saved itself; start the same command again."""

    exit_code = 75
