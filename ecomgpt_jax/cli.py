"""Starts and ends every command: parses flags, turns errors into one line and an exit code. Only commands import it."""

import ast
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags
from absl import logging as absl_logging

from ecomgpt_jax.config import Config, field_paths, nearest
from ecomgpt_jax.errors import ConfigError, EcomError, PreemptedError, StorageError
from ecomgpt_jax.redaction import mask_text

# Before the import of libraries that print notes about features that this project does not use.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _check_overrides(argv: Sequence[str]) -> None:
    """Refuses a misspelt `--config.<a.b>` before the config library turns it into a KeyError."""
    known = list(field_paths(Config()))
    for argument in argv[1:]:
        match = re.match(r"--?(?:no)?config\.([\w.]+)", argument)
        if match and match[1] not in known:
            raise ConfigError(f"--config.{match[1]}: no such field{nearest(match[1], known)}")


def _quoted(argv: Sequence[str]) -> list[str]:
    """Returns the arguments, with the text of `--config.<a.b>` quoted where the field is a tuple and the text is not.

    Otherwise the config library refuses a path with a blank or a comma.
    """
    lists = {f"config.{path}" for path, value in field_paths(Config()).items() if isinstance(value, tuple)}
    quoted, expected = [], False
    for argument in argv:
        name, given, value = argument.partition("=")
        is_list = name.lstrip("-") in lists and name.startswith("-")
        if expected:
            argument = _as_literal(argument)
        elif is_list and given:
            argument = f"{name}={_as_literal(value)}"
        expected = is_list and not given and not expected
        quoted.append(argument)
    return quoted


def _as_literal(text: str) -> str:
    try:
        return text if isinstance(ast.literal_eval(text), tuple | list | str) else repr(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return repr(text) if text else text


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        _check_overrides(argv)
        return flags.FLAGS(_quoted(argv))
    except SystemExit:  # --help, for which the flags library exits with 1
        sys.exit(0)
    except flags.UnrecognizedFlagError as error:
        hint = nearest(error.flagname, (name for name in flags.FLAGS if len(name) > 1))
        _stop(ConfigError(f"--{error.flagname}: no such flag{hint}"))
    except flags.Error as error:
        _stop(ConfigError(_reason(error)))
    except EcomError as error:
        _stop(error)
    except Exception as error:  # any exception of a config file
        _stop(ConfigError(f"--config: {type(error).__name__}: {_reason(error)}"))


def _reason(error: Exception) -> str:
    """Returns the last line of a message (libraries include whole tracebacks) without the exception's name."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^[\w.]+(?:Error|Exception): (?:config: )?", "", lines[-1].strip())


def _stop(error: EcomError) -> NoReturn:
    line = mask_text(re.sub(r"\s*\n\s*", " ", str(error)).strip())
    print(f"error: {line}", file=sys.stderr, flush=True)
    sys.exit(error.exit_code)


def _log_filter(record: logging.LogRecord) -> bool:
    """Masks secrets in a log record; drops orbax's tracebacks, which `training/saving.py` reports in one line."""
    record.msg, record.args = mask_text(record.getMessage()), ()
    return "orbax" not in record.pathname


def config_value(flag: flags.FlagHolder) -> object:
    """Returns the config object of a `config_flags.DEFINE_config_file` flag, overrides applied; None if not given.

    Raises:
      ConfigError: the file cannot be read or fails.
    """
    try:
        value = flag.value
        getattr(value, "name", None)  # a file that could not be read raises at the first access
    except Exception as error:
        raise ConfigError(f"--config: {_reason(error)}") from error
    return value


def load_config(flag: flags.FlagHolder) -> Config:
    """Returns the config of a `config_flags.DEFINE_config_file` flag, overrides applied.

    Raises:
      ConfigError: the flag is missing, its file cannot be read or fails, or returns no config.
    """
    config = config_value(flag)
    if config is None:
        raise ConfigError("--config is missing; try --config configs/demo.py")
    if not isinstance(config, Config):
        raise ConfigError(
            f"--config: get_config() must return an ecomgpt_jax.config.Config, not {type(config).__name__}"
        )
    return config


def check_usage(usage: str, arguments: Sequence[str], *required: flags.FlagHolder) -> None:
    """Refuses positional arguments and missing flags; the error ends with `usage`.

    Raises:
      ConfigError: there is an argument, or a required flag has no value.
    """
    if arguments:
        raise ConfigError(f"unexpected argument {arguments[0]!r}; {usage}")
    for flag in required:
        if not flag.value:
            raise ConfigError(f"--{flag.name} is missing; {usage}")


def refuse_idle(where: str, *given: flags.FlagHolder) -> None:
    """Refuses flags of the command line that this call would not read.

    Args:
      where: the case without effect, such as "without --coordinator".
      given: the flags.

    Raises:
      ConfigError: one of them is given.
    """
    for flag in given:
        if flags.FLAGS[flag.name].present:
            raise ConfigError(f"--{flag.name} has no effect {where}; leave it out")


def _preempted(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends the process at once
    raise PreemptedError("stopped by SIGTERM; start the same command again to continue")


def _raise_again(dropped: "sys.UnraisableHookArgs") -> None:
    """Repeats a SIGTERM whose error Python could not raise, for example in a callback of its garbage collector."""
    if isinstance(dropped.exc_value, PreemptedError):
        signal.signal(signal.SIGTERM, _preempted)
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()  # once the callback has returned
    else:
        sys.__unraisablehook__(dropped)


def run(main: Callable[[list[str]], None]) -> None:
    """Parses the flags, runs `main(positional_arguments)` and ends the process.

    An `EcomError` becomes one line on stderr and its exit code, an `OSError` likewise with code 74; anything else is a
    bug and keeps its traceback (exit code 1). SIGTERM has the effect of a `PreemptedError`, after incomplete files are
    removed; the training loop handles the signal itself and saves.
    """

    def guarded(argv: list[str]) -> None:
        try:
            main(argv[1:])
        except EcomError as error:
            _stop(error)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(StorageError.exit_code)
        except OSError as error:
            _stop(StorageError(f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")))
        except KeyboardInterrupt:
            sys.exit(130)

    signal.signal(signal.SIGTERM, _preempted)
    sys.unraisablehook = _raise_again
    absl_logging.set_verbosity(absl_logging.WARNING)
    absl_logging.get_absl_handler().addFilter(_log_filter)
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)
    app.run(guarded, flags_parser=_parse)
