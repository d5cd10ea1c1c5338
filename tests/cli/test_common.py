"""What `command` makes of errors, of a reader that leaves, and of names that cannot be printed."""

import errno
import os
import subprocess
import sys

import pytest
import torch

from prn_fast.cli.common import command
from prn_fast.errors import DataError
from tests.processes import running

ERRORS = {
    "of prn_fast": (DataError("a.png: torn"), "a.png: torn"),
    "in several lines": (DataError("a.png: torn\n  at\tthe end\r\n"), "a.png: torn at\tthe end"),
    "full disk": (OSError(errno.ENOSPC, "No space left on device", "a.pt"), "a.pt: No space left on device"),
    "a name as bytes": (OSError(errno.EIO, "Input/output error", b"a\xff.pt"), "a\\udcff.pt: Input/output error"),
    "two names": (OSError(errno.EXDEV, "Cross-device link", "a", None, "b"), "a and b: Cross-device link"),
    "of a library, without number": (OSError("cannot identify image file"), "cannot identify image file"),
    "without any word": (OSError(), "OSError"),
    "a name": (UnicodeEncodeError("ascii", "ä", 0, 1, "not in range"), "'ascii' codec can't encode character"),
    "memory": (MemoryError(), "not enough memory"),
    "memory for an array": (MemoryError("Unable to allocate 9 TiB"), "not enough memory (Unable to allocate 9 TiB)"),
    "memory of a GPU": (torch.OutOfMemoryError("CUDA out of memory"), "not enough memory (CUDA out of memory)"),
    "a broken pipe of its own": (BrokenPipeError(errno.EPIPE, "Broken pipe"), "Broken pipe"),
}  # fmt: skip


@pytest.mark.parametrize(("error", "line"), ERRORS.values(), ids=ERRORS)
def test_errors_that_a_user_can_mend_are_one_line(
    capsys: pytest.CaptureFixture[str], error: Exception, line: str
) -> None:
    @command
    def fail(argv: list[str] | None) -> int:
        raise error

    assert fail() == 2
    printed = capsys.readouterr().err.encode("utf-8", "backslashreplace").decode()
    assert printed.startswith(f"error: {line}")
    assert printed.count("\n") == 1


def test_lack_of_memory_on_the_cpu_is_told_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def fail(argv: list[str] | None) -> int:
        return int(torch.empty(2**46).numel())

    assert fail() == 2
    assert capsys.readouterr().err.startswith("error: not enough memory (")


@pytest.mark.parametrize("error", [ValueError("a fault"), RuntimeError("a fault"), KeyError("a fault")], ids=repr)
def test_a_fault_of_the_program_keeps_its_traceback(error: Exception) -> None:
    @command
    def fail(argv: list[str] | None) -> int:
        raise error

    with pytest.raises(type(error)):
        fail()


def test_an_interruption_has_an_exit_code_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def interrupted(argv: list[str] | None) -> int:
        raise KeyboardInterrupt

    assert interrupted() == 130
    assert capsys.readouterr().err == "interrupted\n"


PRINTING = """
import sys
from prn_fast.cli.common import command
from prn_fast.cli.console import PlainConsole

@command
def main(argv):
    say = {say}
    for number in range({lines}):
        say("line \\udcff %d" % number)
    return 0

sys.exit(main())
"""
# Unbuffered, print itself fails, and nothing tells where it wrote to.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
WAYS = {"print": "print", "console": "PlainConsole().say"}


@pytest.mark.parametrize("say", WAYS.values(), ids=WAYS)
def test_a_reader_that_leaves_ends_a_command_without_a_word(say: str) -> None:
    command = [sys.executable, "-c", PRINTING.format(say=say, lines=100_000)]
    with running(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith(b"line ")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 141


@pytest.mark.parametrize("say", WAYS.values(), ids=WAYS)
def test_a_full_disk_under_stdout_is_one_line(say: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", PRINTING.format(say=say, lines=3)], stdout=full, stderr=subprocess.PIPE, env=BUFFERED
        )
    assert done.returncode == 2
    assert done.stderr == b"error: standard output: No space left on device\n"


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
@pytest.mark.parametrize("say", WAYS.values(), ids=WAYS)
def test_a_name_that_is_no_text_is_printed_with_backslashes(say: str, encoding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRINTING.format(say=say, lines=1)],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"line \\udcff 0\n"


def test_what_is_printed_to_a_closed_stdout_is_lost_with_one_line() -> None:
    done = subprocess.run(
        ["sh", "-c", '"$0" -c "$1" >&-', sys.executable, PRINTING.format(say="PlainConsole().say", lines=3)],
        stderr=subprocess.PIPE,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: standard output is closed")
    assert done.stderr.count(b"\n") == 1
