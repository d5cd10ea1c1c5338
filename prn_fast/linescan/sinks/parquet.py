"""Defects as Parquet files."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prn_fast.errors import LinescanError
from prn_fast.extras import require_extra
from prn_fast.files import replacing
from prn_fast.linescan.defects import Defect
from prn_fast.linescan.sinks.base import Sink, made_folder, utc_now
from prn_fast.linescan.sinks.record_file import FileInUse, RecordFile, read_records
from prn_fast.linescan.snapshot import Snapshot


class ParquetSink(Sink):
    """A folder of Parquet files, one for each thousand defects and one for the rest.

    A Parquet file can be read only once it is complete, so each appears under its name when it is. Until then its rows
    are in a journal beside it, one JSON line each, written at once. A journal that a crash left behind becomes a
    Parquet file at the next start. So a process that dies loses only what still waited for the sink; a loss of power
    also loses what the system had not yet written to disk.

    Args:
        folder: made if needed; files there are kept. Several processes may share it.
        rows: defects in a file.
    """

    def __init__(self, folder: Path, rows: int = 1000) -> None:
        require_extra("linescan", "pyarrow")
        import pyarrow

        self._folder = made_folder(folder)
        self._rows_a_file = rows
        self._files = 0
        self._rows: list[dict[str, Any]] = []
        self._journal: RecordFile | None = None
        number, text = pyarrow.float64(), pyarrow.string()
        whole = pyarrow.int64()
        self._schema = pyarrow.schema(
            [
                ("time", pyarrow.timestamp("ms", tz="UTC")),
                ("source", text),
                ("number", whole),
                ("first_line", whole),
                ("left", whole),
                ("lines", whole),
                ("width", whole),
                ("area", whole),
                ("peak", number),
                ("severity", text),
                ("continues", pyarrow.bool_()),
                *((f"mm_{name}", number) for name in ("along", "across", "length", "width", "area")),
            ]
        )

    @property
    def name(self) -> str:
        """See `Sink.name`."""
        return str(self._folder)

    def start(self, source: str) -> None:
        """See `Sink.start`."""
        self._recover()
        self._source = source
        self._begin = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")

    def defect(self, defect: Defect) -> None:
        """See `Sink.defect`."""
        values = defect.to_dict()
        millimetres = values.pop("mm", {})
        row = {"time": utc_now(), "source": self._source, **values}
        row |= {f"mm_{name}": value for name, value in millimetres.items()}
        if self._journal is None:
            self._files += 1
            self._journal = RecordFile(self._folder / f"defects-{self._begin}-{self._files:05d}.journal", own=True)
        self._journal.write(row)
        self._rows.append(row)
        if len(self._rows) >= self._rows_a_file:
            self._complete_file()

    def finish(self, snapshot: Snapshot) -> None:
        """See `Sink.finish`."""
        self._complete_file()

    def _complete_file(self) -> None:
        if self._journal is None:
            return
        if self._rows:
            self._write(self._rows, self._journal.path)
        self._remove_journal(self._journal)
        self._journal = None
        self._rows.clear()

    def _recover(self) -> None:
        """Make Parquet files of the journals that a crash left behind."""
        for path in sorted(self._folder.glob("defects-*.journal")):
            try:
                journal = RecordFile(path, own=True)
            except FileInUse:
                continue  # of another inspection that is at work
            # The process that held it until now may have completed and removed it.
            rows = read_records(path) if path.exists() else []
            # If a process died after it had completed the file, only the journal is left over.
            if rows and not path.with_suffix(".parquet").exists():
                self._write(rows, path)
            self._remove_journal(journal)

    def _write(self, rows: list[dict[str, Any]], journal: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        try:
            timed = [row | {"time": datetime.fromisoformat(row["time"])} for row in rows]
            with replacing(journal.with_suffix(".parquet")) as partial:
                pyarrow.parquet.write_table(pyarrow.Table.from_pylist(timed, self._schema), partial)
        except (KeyError, TypeError, ValueError, pyarrow.ArrowException) as error:
            raise LinescanError(f"{journal}: is not a journal of defects ({error}); move it away") from None

    def _remove_journal(self, journal: RecordFile) -> None:
        try:
            journal.path.unlink(missing_ok=True)
        except OSError as error:
            raise LinescanError(f"{journal.path}: cannot be removed ({error.strerror})") from None
        finally:
            journal.close()
