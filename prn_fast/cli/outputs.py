"""Output paths are tried before any work is done: a name that cannot be written must not cost an hour."""

import errno
import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prn_fast.errors import ConfigError


def try_outputs(files: Iterable[Path | None] = (), folders: Iterable[Path | None] = ()) -> None:
    """Refuse files that cannot be written and folders that cannot be made or written into.

    Each is tried for real, and left as it was: what is there is not changed, what is missing is missing afterwards.
    None stands for an option that was not given.

    Raises:
        ConfigError: names the path and says why, also where two files are the same.
    """
    for folder in (folder for folder in folders if folder is not None):
        with _named(folder):
            if folder.exists() and not folder.is_dir():
                raise ConfigError(f"{folder}: is a file; name a folder")
            with _made(folder), tempfile.TemporaryFile(dir=folder):
                pass
    known: set[str] = set()
    for file in (file for file in files if file is not None):
        with _named(file):
            _try_file(file)
            target = os.path.realpath(file)
            if target in known and not Path(target).is_char_device():
                raise ConfigError(f"{file}: is named for two outputs; choose another name for one of them")
            known.add(target)


def _try_file(path: Path) -> None:
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; name a file")
    if path.exists() and not path.is_file():
        return  # such as /dev/stdout or a pipe, whose reader would take the trial for data
    target = Path(os.path.realpath(path))
    is_new = not target.exists()
    with _made(target.parent):
        with target.open("ab"):
            pass
        if is_new:
            target.unlink()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); choose another output") from None


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """A folder, which is made for the time being where it is missing."""
    missing = list(itertools.takewhile(lambda one: not one.exists(), (folder, *folder.parents)))
    above = folder if not missing else missing[-1].parent
    if not above.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{above} is a file")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for one in missing:
            with suppress(OSError):
                one.rmdir()
