"""What all commands share: errors as one line, exit codes."""

import functools
import sys
from collections.abc import Callable

from prn_fast.errors import PRNError

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
