"""The loop that inspects strips: the same for `Inspection` and for C++ hosts."""

import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from prn_fast.errors import EngineUnavailableError
from prn_fast.linescan.inspector import Inspected, Inspector

if TYPE_CHECKING:
    from prn_fast.linescan._native import DropReason
    from prn_fast.linescan.core import LineRing, Strip

# How long one wait for a strip lasts: `between` is called at this interval while none comes.
_POP_SECONDS = 0.1
# Between two attempts with an engine that is away.
_AWAY_SECONDS = 0.1


def _raise(error: EngineUnavailableError) -> None:
    raise error


def inspect_strips(
    ring: "LineRing",
    inspector: Inspector,
    budget_ns: int | None,
    report: Callable[[Inspected, int | None], None],
    fail: Callable[[BaseException], None],
    between: Callable[[], None] = lambda: None,
    away: Callable[[EngineUnavailableError], None] = _raise,
) -> None:
    """Inspect strips until the web has ended and none waits, or until the first error.

    A strip that waited longer than the budget is dropped ("overload"). A strip that the engine failed on counts as
    dropped ("engine_error"), and ends the loop; what still waits is left in the ring. However the loop ends, the
    defects of all lines that count as inspected are reported.

    Args:
        budget_ns: most nanoseconds that a strip may wait; None for any time.
        report: takes the result of a strip, and the nanoseconds since its last line arrived (None for the end of
            the web).
        fail: takes the error that ended the loop, before anything else is reported, and then an error of the end
            itself. An error of the engine has a note that names the lines.
        between: called before each strip, and at least ten times a second; an error of it ends the loop too.
        away: takes the error of an engine that is away for now, after each attempt. While `away` returns, the
            strip is kept and tried again, until the strip has waited longer than the budget; strips that
            come meanwhile wait in the ring. What `away` raises ends the loop, as it does by default.
    """
    try:
        _inspect_until_end(ring, inspector, budget_ns, report, between, away)
    except BaseException as error:
        fail(error)
    try:
        report(inspector.examine_end(), None)
    except BaseException as error:
        fail(error)


def _inspect_until_end(
    ring: "LineRing",
    inspector: Inspector,
    budget_ns: int | None,
    report: Callable[[Inspected, int | None], None],
    between: Callable[[], None],
    away: Callable[[EngineUnavailableError], None],
) -> None:
    while True:
        between()
        strip = ring.pop(_POP_SECONDS)
        if strip is None:
            if ring.finished:
                return
            continue
        arrival_ns = strip.arrival_ns
        try:
            result = _examined(strip, inspector, budget_ns, between, away)
        except BaseException as error:
            error.add_note(f"lines {strip.owned.start} to {strip.owned.stop - 1}")
            _release_views(error)
            raise
        del strip
        if result is not None:
            report(result, time.monotonic_ns() - arrival_ns)


def _examined(
    strip: "Strip",
    inspector: Inspector,
    budget_ns: int | None,
    between: Callable[[], None],
    away: Callable[[EngineUnavailableError], None],
) -> Inspected | None:
    """The result of a strip; None if it was dropped because it had waited too long."""
    while budget_ns is None or time.monotonic_ns() - strip.arrival_ns <= budget_ns:
        try:
            return inspector.examine(strip)
        except EngineUnavailableError as error:
            _release_views(error)
            try:
                away(error)
                time.sleep(_AWAY_SECONDS)
                between()
            except BaseException as ending:
                strip.drop("engine_error" if isinstance(ending, EngineUnavailableError) else "closed")
                raise
    strip.drop("overload")
    return None


def drop_waiting(ring: "LineRing", reason: "DropReason") -> None:
    """Settle every strip that waits as dropped."""
    while (strip := ring.pop()) is not None:
        strip.drop(reason)


def drop_rest(ring: "LineRing", reason: "DropReason") -> None:
    """Settle every strip as dropped, until the web has ended."""
    while not ring.finished:
        strip = ring.pop(_POP_SECONDS)
        if strip is not None:
            strip.drop(reason)


def _release_views(error: BaseException | None) -> None:
    """Clear the local variables of failed calls: a view of a strip's memory keeps its place in the ring."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
