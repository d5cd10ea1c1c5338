"""What all commands share: their parser, errors as one line, exit codes."""

import argparse
import contextlib
import functools
import io
import os
import select
import sys
from collections.abc import Callable
from typing import NoReturn, TextIO

from prn_fast.arguments import positive
from prn_fast.errors import ConfigError, PRNError

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
# What a shell reports of a program that SIGPIPE has ended.
EXIT_CLOSED_STDOUT = 141


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line too, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        """Raise a ConfigError with argparse's message, which names the argument."""
        raise ConfigError(f"{message}; see {self.prog} --help")


def counted(count: int, what: str) -> str:
    """A number and what it counts, such as "1 image" or "2,000 images"."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the engine to run."""
    parser.add_argument("--engine", metavar="NAME", help="engine, such as openvino:int8 (default: the package's best)")


def add_false_alarm_rate(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses a threshold of the package's calibration."""
    parser.add_argument(
        "--false-alarm-rate",
        type=positive,
        metavar="SHARE",
        help="use the threshold for this share of good images called defective (default: the package's threshold)",
    )


PARTS_HELP = (
    "which part each image shows, if several images show one part and likeness cannot decide: a CSV file with the "
    r"columns image and part, or a pattern with one group that finds the part in an image's path, such as 'part(\d+)_'"
)


def command(main: Callable[[list[str] | None], int]) -> Callable[..., int]:
    """Make a command of a function that takes arguments and returns an exit code.

    A PRNError, OSError, UnicodeError, lack of memory or a closed stdout becomes one line on stderr and exit code 2, an
    interruption exit code 130. If the reader of stdout has left, as `head` does, the command ends silently with
    exit code 141. Names that stdout's encoding does not have are printed with backslashes.
    """

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> int:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            code = main(argv)
            if sys.stdout is None and code == 0:
                _say("error: standard output is closed, and what was printed is lost; results in files are kept")
                return EXIT_BAD_INPUT
            try:
                if sys.stdout is not None:
                    sys.stdout.flush()
            except OSError as error:
                raise OSError(error.errno, error.strerror, "standard output") from None
            return code
        except KeyboardInterrupt:
            _say("interrupted")
            return EXIT_INTERRUPTED
        except Exception as error:
            if isinstance(error, BrokenPipeError) and _has_no_reader(sys.stdout):
                return EXIT_CLOSED_STDOUT
            message = message_of(error)
            if message is None:
                raise
            _say(f"error: {message}")
            return EXIT_BAD_INPUT
        finally:
            for stream in (sys.stdout, sys.stderr):
                if not _flushes(stream):
                    _discard(stream)

    return wrapped


def message_of(error: Exception) -> str | None:
    """One line that says what was wrong; None for an error that no user can fix: a bug."""
    if _is_lack_of_memory(error):
        text = f"not enough memory ({error})" if str(error) else "not enough memory"
    elif isinstance(error, OSError) and error.strerror:
        names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
        text = ": ".join([" and ".join(names), error.strerror] if names else [error.strerror])
    elif isinstance(error, PRNError | OSError | UnicodeError):
        text = str(error) or type(error).__name__
    else:
        return None
    return " ".join(line.strip() for line in text.splitlines())


def _is_lack_of_memory(error: Exception) -> bool:
    """Whether the memory of the machine or of its GPU was too small; PyTorch says so in errors of its own."""
    torch_says = type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and torch_says)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it
        print(line, file=sys.stderr, flush=True)


def _has_no_reader(stream: TextIO | None) -> bool:
    """Whether a stream is a pipe that nobody reads any more; other pipes of a command can break, too."""
    try:
        if stream is None:
            return False
        target = stream.fileno()
    except (OSError, ValueError):
        return False  # not a file
    poll = select.poll()
    poll.register(target, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def _flushes(stream: TextIO | None) -> bool:
    """Whether what was printed can still be written."""
    try:
        if stream is not None:
            stream.flush()
    except (OSError, ValueError):
        return False
    return True


def _discard(stream: TextIO) -> None:
    """Discard what is left in a stream: otherwise Python prints a traceback about it at exit."""
    try:
        target = stream.fileno()
    except (OSError, ValueError):
        return  # not a file
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, target)
    os.close(nowhere)
