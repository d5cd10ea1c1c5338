"""Writing that an interruption cannot tear: a file or folder is at every moment the old one or the new one, whole.

New content is made in a hidden folder beside its target, with the permissions that the umask gives, flushed to the
disk, and moved into place. The writing process holds a lock on that folder; the next writer to the same place removes
what a killed one left.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from prn_fast.errors import ConfigError, StorageError

STAGING_PREFIX = ".prn-partial-"
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_AT_FDCWD = -100
# What renameat2 answers where the kernel or the file system has no exchange.
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EXDEV, errno.EPERM)


# -- files -----------------------------------------------------------------------------------------------------------


def replace_file(path: Path, content: bytes) -> None:
    """Write a file at once, replacing any that is there.

    Raises:
        StorageError: it cannot be written; the file that was there is kept.
    """
    with replacing(path) as partial:
        write_file(partial, content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write a file to, which takes the place of `path` when the block ends without an error.

    For libraries that write files themselves; `replace_file` for bytes. A symlink is followed.

    Raises:
        StorageError: an OSError of the block or of moving the file; the file that was there is kept.
    """
    with reporting(path):
        target = Path(os.path.realpath(path))
        with staging_folder(target.parent) as folder:
            partial = folder / target.name
            yield partial
            settle(folder)
            os.replace(partial, target)
            sync(target.parent)


def write_file(path: Path, content: bytes) -> None:
    """Write a new file where an interruption does no harm: in a folder that is still being made."""
    with path.open("wb") as file:
        file.write(content)


@contextlib.contextmanager
def reporting(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a StorageError that names `path`."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if isinstance(error, shutil.Error):  # of copying a folder: (source, target, reason) for each file
            reason = error.args[0][0][2]
        advice = {
            errno.ENOSPC: "free some space",
            errno.EDQUOT: "free some space",
            errno.EACCES: "choose a place where you may write",
            errno.EPERM: "choose a place where you may write",
            errno.EROFS: "choose a place where you may write",
            errno.ENAMETOOLONG: "choose a shorter name",
        }.get(error.errno or 0, "check the disk")
        raise StorageError(f"{path}: cannot be written ({reason}); {advice}") from None


# -- folders ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def staging_folder(parent: Path, prefix: str = STAGING_PREFIX) -> Iterator[Path]:
    """An empty folder inside `parent` to make something in; removed at the end with all that is still in it.

    First removes such folders of processes that have died.
    """
    sweep(parent, prefix)
    folder, handle = _held_folder(parent, prefix)
    try:
        yield folder
    finally:
        try:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)


def sweep(parent: Path, prefix: str = STAGING_PREFIX) -> None:
    """Remove the staging folders of dead processes; those that a living one holds stay, and so does what cannot go."""
    with contextlib.suppress(OSError):
        for folder in [entry for entry in parent.iterdir() if entry.name.startswith(prefix)]:
            with contextlib.suppress(OSError):
                handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(handle)


def _held_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    """A new folder and the handle that holds its lock."""
    while True:
        folder = parent / f"{prefix}{secrets.token_hex(4)}"
        folder.mkdir()
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # another writer has swept it before it was locked
            continue
        # Some network file systems cannot lock folders: nobody can lock it there, so nobody removes it.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        if _is_at(handle, folder):
            return folder, handle
        os.close(handle)


def settle(folder: Path) -> None:
    """Give everything in a staging folder the permissions of the umask, and flush it to the disk."""
    # The folder was made with all permissions but those that the umask takes away.
    permissions = stat.S_IMODE(folder.stat().st_mode)
    for place, folders, files in os.walk(folder, topdown=False):
        for name in folders:
            os.chmod(Path(place, name), permissions)
        for name in files:
            os.chmod(Path(place, name), permissions & 0o666)
            sync(Path(place, name))
        sync(Path(place))


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def aside(target: Path) -> Path:
    """Where the folder `target` lies while it is replaced on a file system that cannot exchange two folders."""
    return target.with_name(f".{target.name}.replaced")


def place_folder(new: Path, target: Path) -> None:
    """Move a folder into place. What was there is removed, or ends up at `new` for the caller to remove.

    Where the file system can exchange two folders, `target` is there at every moment. Elsewhere it is missing for the
    time between two renames, and a process that is killed there leaves the old folder at `aside(target)`.
    """
    if not target.exists():
        os.rename(new, target)
    elif not exchange(new, target):
        kept = aside(target)
        if kept.exists():
            shutil.rmtree(kept)
        os.rename(target, kept)
        try:
            os.rename(new, target)
        except BaseException:
            os.rename(kept, target)
            raise
    sync(target.parent)
    # Left by the renames above, or by a process that was killed between them.
    shutil.rmtree(aside(target), ignore_errors=True)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two folders at once; False where the file system cannot."""
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        return False
    if library.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(other))


# -- locks -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of the file `path`; waits for other holders.

    The file may be replaced in the block, which gives the lock away: the new file has a lock of its own, which those
    get who have waited for this one.
    """
    while True:
        handle = _open_to_lock(path)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_at(handle, path):
                break
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    try:
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def held(folder: Path, command: str) -> Iterator[None]:
    """Keep an output folder for this process alone: two that write there would mix their results.

    Raises:
        ConfigError: another process of the command holds the folder.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise ConfigError(f"{folder}: another {command} writes there; wait for it or choose another output") from None
    except OSError:
        pass  # a network file system that cannot lock folders
    try:
        yield
    finally:
        os.close(handle)


def _open_to_lock(path: Path) -> int:
    # A network file system locks only what is open for writing; others lock files of another user, too.
    try:
        return os.open(path, os.O_RDWR)
    except PermissionError:
        return os.open(path, os.O_RDONLY)


def _is_at(handle: int, path: Path) -> bool:
    """Whether the open file or folder is what `path` names."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def require_writable(folder: Path) -> None:
    """A StorageError unless a file can be made in `folder`, or in the nearest folder above it that exists."""
    with reporting(folder):
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{folder} is not a folder")
        with staging_folder(folder):
            pass
