"""The images of an archive, in a folder or in Parquet files, divided into shards."""

import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prn_fast.data.folders import PassedOver, list_folder, no_images_in
from prn_fast.data.image_tiles import tile_count
from prn_fast.errors import DataError, one_line
from prn_fast.paths import shown_path

PARQUET = ".parquet"
# Columns of an archive in Parquet: where each image lies, and what its file holds, as Ray Data's `read_binary_files`
# names them.
PATH, CONTENT = "path", "bytes"
# For the number of tiles of an image.
_SHARDS_MEASURED, _IMAGES_MEASURED = 100, 1000


@dataclass(frozen=True)
class Shard:
    """Some images of an archive, which are scored together into one file.

    Attributes:
        number: counts from 0.
        names: of the images, as the results name them.
        files: where each image lies; empty where a Parquet file holds the images themselves.
        table: that Parquet file.
        row_group, first_row: in it, of the first image.
    """

    number: int
    names: tuple[str, ...]
    files: tuple[Path, ...] = ()
    table: Path | None = None
    row_group: int = 0
    first_row: int = 0

    def images(self) -> Iterator[tuple[str, Path, bytes | None]]:
        """Name, path and content of each image; a content of None lies in the file at the path.

        Raises:
            DataError: the Parquet file cannot be read.
        """
        if self.table is None:
            yield from zip(self.names, self.files, itertools.repeat(None))
            return
        contents = _column(self.table, CONTENT, self.row_group)
        for name, content in zip(self.names, contents[self.first_row :], strict=False):
            # Where there is no content, an empty file is what the reader names.
            yield name, Path(name), content.as_py() or b""


@dataclass(frozen=True)
class Archive:
    """All images of an archive.

    Attributes:
        root: the folder or Parquet file that was named.
        shards: every image is in one of them, once.
        passed_over: what is no image, of a folder.
    """

    root: Path
    shards: tuple[Shard, ...]
    passed_over: tuple[PassedOver, ...] = ()

    def __len__(self) -> int:
        return sum(len(shard.names) for shard in self.shards)

    @property
    def digest(self) -> str:
        """The sha256 of the names, in order, and of how they are divided."""
        found = hashlib.sha256()
        for shard in self.shards:
            found.update(f"{shard.number}\0".encode())
            for name in shard.names:
                found.update(f"{name}\0".encode())
        return found.hexdigest()


def open_archive(root: Path, images_a_shard: int) -> Archive:
    """Find the images of an archive; none of them is opened.

    Args:
        root: a folder of images, with those in all folders below it; a Parquet file; or a folder with Parquet files
            and without images. Parquet files have the column `path`, and may hold the images themselves in the column
            `bytes`; without it, paths are those of files, relative to the Parquet file.
        images_a_shard: at most.
    Raises:
        DataError: nothing is there, it cannot be read, there are no images, or a path occurs twice.
    """
    if not root.exists():
        raise DataError(f"{root}: not found; check the path")
    if root.is_file():
        if root.suffix != PARQUET:
            raise DataError(f"{root}: is neither a folder nor a {PARQUET} file")
        return _in_tables(root, [root], images_a_shard)
    listing = list_folder(root)
    if listing.images:
        names = [shown_path(path, root) for path in listing.images]
        return Archive(root, tuple(_of_files(names, listing.images, images_a_shard)), listing.passed_over)
    tables = sorted(path for path in root.iterdir() if path.suffix == PARQUET and not path.name.startswith(("_", ".")))
    if not tables:
        raise no_images_in(root, listing.passed_over)
    return _in_tables(root, tables, images_a_shard)


def _of_files(names: Sequence[str], files: Sequence[Path], images_a_shard: int) -> Iterator[Shard]:
    for number, first in enumerate(range(0, len(names), images_a_shard)):
        part = slice(first, first + images_a_shard)
        yield Shard(number, tuple(names[part]), tuple(files[part]))


def _in_tables(root: Path, tables: Sequence[Path], images_a_shard: int) -> Archive:
    import pyarrow.parquet

    names: list[str] = []
    files: list[Path] = []
    shards: list[Shard] = []
    for table in tables:
        with _reading(table), pyarrow.parquet.ParquetFile(table) as file:
            columns, groups = file.schema_arrow.names, file.num_row_groups
        if PATH not in columns:
            raise DataError(f"{table}: has no column {PATH!r}, which names each image; it has {', '.join(columns)}")
        for group in range(groups):
            found = [value.as_py() for value in _column(table, PATH, group)]
            if not all(isinstance(name, str) and name for name in found):
                raise DataError(f"{table}: column {PATH!r} has a row without a path; each image needs a name")
            names += found
            if CONTENT not in columns:
                files += [table.parent / name for name in found]
                continue
            for first in range(0, len(found), images_a_shard):
                part = tuple(found[first : first + images_a_shard])
                shards.append(Shard(len(shards), part, (), table, group, first))
    if len(set(names)) < len(names):
        twice = next(name for name, other in itertools.pairwise(sorted(names)) if name == other)
        raise DataError(f"{root}: names {twice} twice; each image needs a path of its own")
    if files and shards:
        raise DataError(f"{root}: some Parquet files have the column {CONTENT!r} and some have not; split them up")
    if not names:
        raise DataError(f"{root}: has no rows")
    return Archive(root, tuple(_of_files(names, files, images_a_shard) if files else shards))


def _column(table: Path, name: str, row_group: int) -> Any:
    import pyarrow.parquet

    with _reading(table), pyarrow.parquet.ParquetFile(table) as file:
        return file.read_row_group(row_group, columns=[name]).column(name)


class _reading:
    """Turns what goes wrong with a Parquet file into a DataError that names it."""

    def __init__(self, table: Path) -> None:
        self._table = table

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        import pyarrow

        if isinstance(error, pyarrow.ArrowException | OSError | KeyError | IndexError):
            raise DataError(f"{self._table}: cannot be read ({one_line(error)}); check or replace the file") from None


def require_present(root: Path) -> None:
    """A DataError where an archive as a whole is not there any more, such as a network drive that was lost.

    Images that are missing one by one are results; those of a drive that is gone are none.
    """
    try:
        is_there = root.is_file() or any(os.scandir(root))
    except OSError:
        is_there = False
    if not is_there:
        raise DataError(f"{root}: is not there any more; mount it again, and run the same command to continue")


def tiles_an_image(archive: Archive, side: int, overlap: int) -> float:
    """The average number of tiles of an image, from the headers of about a thousand, evenly chosen.

    Those that cannot be read do not count; a DataError where none of them can.
    """
    shards = archive.shards[:: max(1, len(archive.shards) // _SHARDS_MEASURED)]
    every = max(1, sum(len(shard.names) for shard in shards) // _IMAGES_MEASURED)
    counts = []
    for shard in shards:
        for _, path, content in itertools.islice(shard.images(), 0, None, every):
            with suppress(DataError):
                counts.append(tile_count(path, side, overlap, content))
    if not counts:
        raise DataError(f"{archive.root}: no image of it can be read")
    return sum(counts) / len(counts)
