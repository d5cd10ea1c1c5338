"""A disk that fails, or a process that dies, at the n-th call that changes something on disk."""

import contextlib
import errno
import fcntl
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import safetensors.torch
from safetensors import SafetensorError

import prn_fast.files
import prn_fast.package

SYSTEM_CALLS = (
    *((os, name) for name in ("mkdir", "rename", "replace", "fsync", "chmod", "open", "unlink", "rmdir")),
    (shutil, "rmtree"),
    (fcntl, "flock"),
    (prn_fast.files, "exchange"),
)
WRITERS = (
    (prn_fast.files, "write_file"),
    (prn_fast.package, "write_file"),
    (prn_fast.package, "save_file"),
    (safetensors.torch, "save_file"),
)
KILLED = 9


class Disk:
    """Counts the calls that change the disk; the one of the given number calls `fail` instead."""

    def __init__(self, number: int, fail: Callable[[], None]) -> None:
        self.left = number
        self.fail = fail

    @property
    def has_failed(self) -> bool:
        return self.left < 0

    def reached(self) -> bool:
        self.left -= 1
        return self.left == -1

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if self.reached():
                with contextlib.suppress(OSError) if options.get("ignore_errors") else contextlib.nullcontext():
                    self.fail()
                return None
            return real(*arguments, **options)

        return wrapped

    def wrap_writer(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        """A writer that fails leaves half of its file."""

        def wrapped(first: Any, second: Any) -> None:
            real(first, second)
            if self.reached():
                path = second if name == "save_file" else first
                os.truncate(path, path.stat().st_size // 2)
                try:
                    self.fail()
                except OSError as error:
                    raise SafetensorError(f"I/O error: {error.strerror}") if name == "save_file" else error from None

        return wrapped


@contextmanager
def failing_disk(number: int, fail: Callable[[], None]) -> Iterator[Disk]:
    """Replace all calls that change the disk by those of a `Disk`."""
    disk = Disk(number, fail)
    patches = [patch.object(where, name, disk.wrap(name, getattr(where, name))) for where, name in SYSTEM_CALLS]
    patches += [patch.object(where, name, disk.wrap_writer(name, getattr(where, name))) for where, name in WRITERS]
    for one in patches:
        one.start()
    try:
        yield disk
    finally:
        for one in patches:
            one.stop()


def raises(code: int) -> Callable[[], None]:
    """What fails with an OSError of this number, such as errno.EIO."""

    def fail() -> None:
        raise OSError(code, os.strerror(code))

    return fail


def in_child(action: Callable[[], None]) -> int:
    """Exit code of a forked process that runs an action; 1 for an exception, which it prints."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Writing a file beyond so many bytes fails, halfway, as it does where the disk is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def as_user_without_rights(action: Callable[[], None]) -> int:
    """As `in_child`, as a user to whom permissions apply: also where the tests run as root."""

    def run() -> None:
        if os.geteuid() == 0:
            os.setegid(65534)
            os.seteuid(65534)
        action()

    return in_child(run)


def run_to_fault(action: Callable[[], None], number: int, how: str) -> bool:
    """Run an action whose n-th change fails; whether there were so many.

    Args:
        how: "EIO", "ENOSPC": that call raises it; "kill": the process ends there.
    """
    if how == "kill":

        def run() -> None:
            with failing_disk(number, lambda: os._exit(KILLED)):
                action()

        code = in_child(run)
        assert code in (0, KILLED)
        return code == KILLED
    with failing_disk(number, raises(getattr(errno, how))) as disk, contextlib.suppress(prn_fast.errors.PRNError):
        action()
    return disk.has_failed
