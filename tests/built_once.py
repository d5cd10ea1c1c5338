"""What takes long to build is built once for all processes of a run."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from prn_fast.files import locked

SHARED_FOLDER = "PRN_FAST_TEST_SHARED"


def shared_folder() -> Path:
    """A folder for all processes of a run; the first that asks, which starts the others, makes and removes it."""
    if SHARED_FOLDER not in os.environ:
        folder = tempfile.mkdtemp(prefix="prn_fast-tests-")
        os.environ[SHARED_FOLDER] = folder
        atexit.register(_remove, folder, os.getpid())
    return Path(os.environ[SHARED_FOLDER])


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # and not a fork of it
        shutil.rmtree(folder, ignore_errors=True)


def built_once(name: str, build: Callable[[Path], object]) -> Path:
    """The file or folder that `build` wrote to the path it was given; shared, so do not change it.

    Args:
        name: of the thing, unlike all other names, as a relative path.
    """
    path = shared_folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    done = path.with_name(f"{path.name}.done")
    lock = path.with_name(f"{path.name}.lock")
    lock.touch()
    with locked(lock):
        if not done.exists():
            # A build that failed in another process leaves its half.
            if path.is_dir():
                shutil.rmtree(path)
            build(path)
            done.touch()
    return path
