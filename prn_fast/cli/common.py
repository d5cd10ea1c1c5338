"""What all commands share: errors as one line, exit codes."""

import functools
import importlib.util
import sys
from collections.abc import Callable

from prn_fast.errors import ConfigError, PRNError

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def command(main: Callable[[list[str] | None], int]) -> Callable[..., int]:
    """Make a command of a function that takes arguments and returns an exit code.

    A PRNError becomes one line on stderr and exit code 2, an interruption exit code 130.
    """

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> int:
        try:
            return main(argv)
        except PRNError as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_BAD_INPUT
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return EXIT_INTERRUPTED

    return wrapped


def require_training() -> None:
    """A ConfigError that names the extra to install, if a library that training needs is missing."""
    for library in ("lightning_fabric", "sklearn", "scipy"):
        if importlib.util.find_spec(library) is None:
            raise ConfigError(f"{library} is not installed: pip install 'prn-fast[train]'")
