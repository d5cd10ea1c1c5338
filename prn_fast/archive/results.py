"""Results of an archive on disk: a folder of Parquet files, one a shard, and the plan that they belong to.

Names that begin with an underscore are none of the results: readers of a folder of Parquet files pass over them.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prn_fast.archive.images import Archive, Shard
from prn_fast.archive.scorer import Row, ScoringSettings
from prn_fast.data.folders import rows as rows_passed_over
from prn_fast.errors import ConfigError, DataError
from prn_fast.files import replace_file, replacing, reporting, sweep

FORMAT = 2
_PLAN, _PASSED_OVER = "_plan.json", "_passed_over.csv"
_UNREADABLE_NAMED = 10


@dataclass(frozen=True)
class Totals:
    """What the results hold.

    Attributes:
        verdicts: images by verdict.
        exited: images that left early.
        pages_left_out: pages and frames after an image's first, which were not scored.
        unreadable: the first ten images that could not be read, with the reason.
    """

    verdicts: Counter[str]
    exited: int
    pages_left_out: int
    unreadable: tuple[str, ...]


class Results:
    """The folder of one run's results.

    Args:
        folder: made if needed. Results of the same run are kept, and their shards are not scored again.
        archive, settings: of the run.
    Raises:
        ConfigError: the folder holds results of another run.
        StorageError: it cannot be written.
    """

    def __init__(self, folder: Path, archive: Archive, settings: ScoringSettings) -> None:
        self.folder = folder
        self._shards = archive.shards
        plan = {
            "format": FORMAT,
            "images": len(archive),
            "files": len(archive.shards),
            "digest of the images": archive.digest,
            **settings.identity(),
        }
        with reporting(folder):
            folder.mkdir(parents=True, exist_ok=True)
        # What a run that was killed has left of an unfinished file.
        sweep(folder)
        if (folder / _PLAN).exists():
            self._require_same(plan)
        elif any(folder.glob("part-*.parquet")):
            raise ConfigError(f"{folder}: holds Parquet files of something else; choose another output")
        replace_file(folder / _PLAN, (json.dumps(plan, indent=2) + "\n").encode())
        with replacing(folder / _PASSED_OVER) as partial, partial.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, ("path", "why"))
            table.writeheader()
            table.writerows(rows_passed_over(archive.passed_over, archive.root))

    def _require_same(self, plan: dict[str, Any]) -> None:
        try:
            known = json.loads((self.folder / _PLAN).read_bytes())
            different = [name for name in {**plan, **known} if plan.get(name) != known.get(name)]
        except (ValueError, TypeError):
            raise ConfigError(f"{self.folder / _PLAN}: is damaged; choose another output") from None
        if different:
            name = different[0]
            raise ConfigError(
                f"{self.folder}: holds results of another run ({name}: {known.get(name)} then, {plan.get(name)} now); "
                "choose another output"
            )

    def waiting(self) -> list[Shard]:
        """The shards whose results are not there yet."""
        return [shard for shard in self._shards if not part_file(self.folder, shard.number).exists()]

    def totals(self) -> Totals:
        """Read all results, and make sure that they have one row for each image.

        Raises:
            DataError: a file is damaged, or has other rows than its shard has images.
        """
        import pyarrow
        import pyarrow.parquet

        verdicts: Counter[str] = Counter()
        exited = pages = 0
        columns = ["path", "verdict", "exited", "reason", "pages_left_out"]
        unreadable: list[str] = []
        for shard in self._shards:
            file = part_file(self.folder, shard.number)
            try:
                table = pyarrow.parquet.read_table(file, columns=columns)
            except (pyarrow.ArrowException, OSError):
                table = None
            if table is None or table["path"].to_pylist() != list(shard.names):
                raise DataError(f"{file}: is damaged; remove it, and run the same command again")
            verdicts.update(table["verdict"].to_pylist())
            exited += table["exited"].to_pylist().count(True)
            pages += sum(table["pages_left_out"].to_pylist())
            reasons = zip(shard.names, table["reason"].to_pylist(), strict=True)
            unreadable += [f"{name}: {reason}" for name, reason in reasons if reason]
        return Totals(verdicts, exited, pages, tuple(unreadable[:_UNREADABLE_NAMED]))


def part_file(folder: Path, number: int) -> Path:
    """Where the results of a shard go."""
    return folder / f"part-{number:06d}.parquet"


def write_rows(folder: Path, number: int, rows: Sequence[Row]) -> None:
    """Write the results of a shard, whole or not at all; the same rows always give the same bytes.

    Raises:
        StorageError: the file cannot be written.
    """
    import pyarrow.parquet

    with replacing(part_file(folder, number)) as partial:
        pyarrow.parquet.write_table(as_table(rows), partial)


def as_table(rows: Iterable[Row]) -> Any:
    """Rows as an Arrow table."""
    import pyarrow

    whole, number, text = pyarrow.int32(), pyarrow.float32(), pyarrow.string()
    box = pyarrow.struct(
        [*((name, whole) for name in ("left", "top", "width", "height")), ("area", pyarrow.int64()), ("peak", number)]
    )
    schema = pyarrow.schema(
        [
            pyarrow.field("path", text, nullable=False),
            ("score", number),
            pyarrow.field("verdict", text, nullable=False),
            ("exited", pyarrow.bool_()),
            ("reason", text),
            ("width", whole),
            ("height", whole),
            ("boxes", pyarrow.list_(box)),
            pyarrow.field("pages_left_out", whole, nullable=False),
        ]
    )
    return pyarrow.Table.from_pylist([asdict(row) for row in rows], schema)
