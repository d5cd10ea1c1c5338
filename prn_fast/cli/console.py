"""Printing of commands: what a user named is printed as it is, whatever brackets and colons it has."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

# A file or a pipe has no width of its own.
PIPE_WIDTH = 120


class PlainConsole(Console):
    """A console that prints text as it is, never as markup or emoji, and reports when its reader has left."""

    def __init__(self, *, stderr: bool = False, quiet: bool = False, pipe_width: int = PIPE_WIDTH) -> None:
        stream = sys.stderr if stderr else sys.stdout
        width = None if stream is not None and stream.isatty() else pipe_width
        super().__init__(stderr=stderr, quiet=quiet, width=width, markup=False, emoji=False, highlight=False)

    def say(self, text: str | Text) -> None:
        """Print a line without breaking it, so that names in it can be copied."""
        self.print(text, soft_wrap=True)

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich prints; an error of writing names the stream."""
        try:
            super().print(*objects, **options)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OSError(error.errno, error.strerror, error.filename or "standard output") from None

    def on_broken_pipe(self) -> None:
        """Left to `command`: rich would exit with 1, which has another meaning here."""
        raise BrokenPipeError


def bars(console: Console, *columns: ProgressColumn, **options: Any) -> Progress:
    """Bars that disappear at the end, with columns after the name; a file or a pipe gets nothing of them."""
    name = TextColumn("{task.description}", markup=False)
    return Progress(name, *columns, console=console, transient=True, disable=not console.is_terminal, **options)


@contextmanager
def progress_bar(console: PlainConsole, name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for one thing; yields a function of the number done and the total."""
    with bars(console, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
