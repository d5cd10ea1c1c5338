"""A file of JSON objects, one per line, each whole or absent."""

import fcntl
import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from prn_fast.errors import ConfigError, LinescanError
from prn_fast.files import reporting

# Records are shorter: a longer unfinished last line is not one of them.
_LONGEST = 1 << 20


class FileInUse(ConfigError):
    """Another process owns the file."""


class RecordFile:
    """Appends records, and keeps the file readable.

    A half record at its end, left by a crash or a full disk, is removed when the file is opened, and after a failed
    write; an unfinished last line of another kind is completed by a line end.

    Args:
        path: made if needed; also a pipe or device.
        own: let no other process open it with this option.
    Raises:
        FileInUse: another process owns it.
        ConfigError: it cannot be written.
    """

    def __init__(self, path: Path, own: bool = False) -> None:
        self.path = path
        try:
            special = path.exists() and not path.is_file()
            flags = (os.O_WRONLY if special else os.O_RDWR | os.O_CREAT) | os.O_APPEND
            # Without a buffer: a failed write would leave data in it to be written later.
            self._file = open(os.open(path, flags, 0o666), "ab", buffering=0)  # noqa: SIM115
            self._is_regular = stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)
            if own:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._is_regular:
                self._mend_end()
        except BlockingIOError:
            self.close()
            raise FileInUse(f"{path}: is in use by another process; choose another file") from None
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written ({error.strerror}); choose another file") from None

    def _mend_end(self) -> None:
        size = self._size()
        start = max(0, size - _LONGEST)
        tail = os.pread(self._file.fileno(), size - start, start)
        rest = tail[tail.rfind(b"\n") + 1 :]
        if not rest:
            return
        if len(rest) < _LONGEST and rest.startswith(b"{") and not _is_json(rest):
            os.ftruncate(self._file.fileno(), size - len(rest))
        else:
            self._file.write(b"\n")

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def write(self, record: dict[str, Any]) -> None:
        """Append a record at once.

        Raises:
            StorageError: it could not be written; the file is as before.
        """
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        written = 0
        with reporting(self.path):
            try:
                while written < len(line):
                    written += self._file.write(line[written:])
            except OSError:
                if self._is_regular and written:
                    with suppress(OSError):
                        os.ftruncate(self._file.fileno(), self._size() - written)
                raise

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._file.close()


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a file.

    Raises:
        LinescanError: it cannot be read, or a line is damaged.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise LinescanError(f"{path}: cannot be read ({error.strerror})") from None
    for number, line in enumerate(lines, 1):
        if not _is_json(line):
            raise LinescanError(f"{path}: line {number} is damaged; repair it, or move the file away")
    return [json.loads(line) for line in lines]


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
