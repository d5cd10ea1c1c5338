"""Everything as JSON lines in a file."""

from pathlib import Path

from prn_fast.drift import Drift
from prn_fast.linescan.defects import Defect
from prn_fast.linescan.sinks.base import Sink, as_record
from prn_fast.linescan.sinks.record_file import RecordFile
from prn_fast.linescan.snapshot import Snapshot
from prn_fast.linescan.sources.base import Gap


class JSONLinesSink(Sink):
    """One JSON object per line, written at once: "start", "defect", "gap", "drift" and "end" with the ledger.

    Args:
        path: appended to, so that a restart loses nothing; half a line that a crash left at its end is removed.
    Raises:
        ConfigError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._file = RecordFile(path)

    @property
    def name(self) -> str:
        """See `Sink.name`."""
        return str(self._file.path)

    def start(self, source: str) -> None:
        """See `Sink.start`."""
        self._file.write(as_record("start", {"source": source}))

    def defect(self, defect: Defect) -> None:
        """See `Sink.defect`."""
        self._file.write(as_record("defect", defect.to_dict()))

    def gap(self, gap: Gap) -> None:
        """See `Sink.gap`."""
        self._file.write(as_record("gap", vars(gap)))

    def drift(self, drift: Drift) -> None:
        """See `Sink.drift`."""
        self._file.write(as_record("drift", drift.to_dict()))

    def finish(self, snapshot: Snapshot) -> None:
        """See `Sink.finish`."""
        try:
            self._file.write(as_record("end", snapshot.to_dict()))
        finally:
            self._file.close()
