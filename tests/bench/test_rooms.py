"""The bench stays in rooms that are quickly looked through."""

from pathlib import Path

import prn_fast.bench

MAX_FILES = 12


def test_no_room_has_more_than_twelve_files() -> None:
    bench = Path(prn_fast.bench.__file__).parent
    files = {room.name: len(list(room.glob("*.py"))) for room in (bench, *bench.iterdir()) if room.is_dir()}
    assert files["gpu"] > 1
    assert {room: count for room, count in files.items() if count > MAX_FILES} == {}
