"""What an archive holds, and how it is divided."""

from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from prn_fast.archive.images import open_archive, require_present, tiles_an_image
from prn_fast.data.image_tiles import tile_count
from prn_fast.errors import DataError


def write_table(file: Path, **columns: list) -> Path:
    parquet.write_table(pyarrow.table(columns), file, row_group_size=4)
    return file


def all_images(archive):
    return [one for shard in archive.shards for one in shard.images()]


def test_every_image_of_a_folder_is_in_one_shard(archive_folder):
    archive = open_archive(archive_folder, 5)
    assert [len(shard.names) for shard in archive.shards] == [5, 5, 5, 5, 2]
    assert [shard.number for shard in archive.shards] == list(range(5))
    names = [name for name, _, _ in all_images(archive)]
    assert names == sorted(path.relative_to(archive_folder).as_posix() for path in archive_folder.glob("day*/*"))
    assert [one.path.name for one in archive.passed_over] == ["notes.txt"]
    assert all(path == archive_folder / name and content is None for name, path, content in all_images(archive))


def test_the_digest_tells_images_and_shards(archive_folder, tmp_path):
    digest = open_archive(archive_folder, 5).digest
    assert open_archive(archive_folder, 5).digest == digest
    assert open_archive(archive_folder, 6).digest != digest
    (tmp_path / "a.png").touch()
    assert open_archive(tmp_path, 5).digest != digest


def test_images_inside_of_parquet_files(tmp_path):
    names, contents = [f"{number}.png" for number in range(10)], [bytes([number]) * 3 for number in range(10)]
    write_table(tmp_path / "a.parquet", path=names[:6], bytes=contents[:6], other=[0] * 6)
    write_table(tmp_path / "b.parquet", path=names[6:], bytes=[*contents[6:9], None])
    archive = open_archive(tmp_path, 3)
    # Shards do not reach over groups of rows, which are of 4 here.
    assert [len(shard.names) for shard in archive.shards] == [3, 1, 2, 3, 1]
    found = all_images(archive)
    assert [name for name, _, _ in found] == names
    assert [content for _, _, content in found] == [*contents[:9], b""]


def test_parquet_files_with_paths_alone_lead_to_files(tmp_path):
    table = write_table(tmp_path / "list.parquet", path=["b.png", "below/a.png"])
    archive = open_archive(table, 10)
    assert [path for _, path, _ in all_images(archive)] == [tmp_path / "b.png", tmp_path / "below" / "a.png"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [b"1"]}, "has no column 'path'"),
        ({"path": ["a.png", None]}, "a row without a path"),
        ({"path": ["a.png", "b.png", "a.png"]}, "names a.png twice"),
        ({"path": pyarrow.array([], pyarrow.string())}, "has no rows"),
    ],
)
def test_tables_that_cannot_be_used_are_explained(tmp_path, columns, message):
    with pytest.raises(DataError, match=message):
        open_archive(write_table(tmp_path / "list.parquet", **columns), 10)


def test_what_is_no_archive_is_explained(tmp_path):
    with pytest.raises(DataError, match="not found"):
        open_archive(tmp_path / "none", 10)
    (tmp_path / "file.txt").touch()
    with pytest.raises(DataError, match=r"neither a folder nor a \.parquet file"):
        open_archive(tmp_path / "file.txt", 10)
    with pytest.raises(DataError, match="no images in this folder"):
        open_archive(tmp_path, 10)
    (tmp_path / "list.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"list\.parquet: cannot be read"):
        open_archive(tmp_path, 10)


def test_an_archive_that_is_gone_is_no_result(archive_folder, tmp_path):
    require_present(archive_folder)
    with pytest.raises(DataError, match="is not there any more"):
        require_present(tmp_path / "unmounted")
    # What an unmounted drive leaves is an empty folder.
    with pytest.raises(DataError, match="is not there any more"):
        require_present(tmp_path)


def test_tiles_are_counted_from_headers(archive_folder):
    readable = [path for path in archive_folder.glob("day*/*") if path.stem.isdigit() or path.stem == "two"]
    expected = sum(tile_count(path, 64, 16) for path in readable) / len(readable)
    assert tiles_an_image(open_archive(archive_folder, 5), 64, 16) == pytest.approx(expected)
