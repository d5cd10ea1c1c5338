"""Defects to a function."""

from collections.abc import Callable

from prn_fast.linescan.defects import Defect
from prn_fast.linescan.sinks.base import Sink


class CallbackSink(Sink):
    """Calls a function with each defect, in a thread of the sink's own; its error ends the inspection."""

    def __init__(self, function: Callable[[Defect], None]) -> None:
        self._function = function

    @property
    def name(self) -> str:
        """See `Sink.name`."""
        return getattr(self._function, "__name__", type(self).__name__)

    def defect(self, defect: Defect) -> None:
        """See `Sink.defect`."""
        self._function(defect)
