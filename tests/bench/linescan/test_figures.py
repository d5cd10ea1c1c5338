"""Tables of recorded runs with line cameras."""

import json
from pathlib import Path

import pytest

from prn_fast.bench.figures import FIGURES, NOTHING
from prn_fast.errors import ConfigError

WHERE = {
    "command": "python -m some.command",
    "load_average": 0.25,
    "environment": {"machine": {"cpu": "some CPU", "usable_cores": 2}, "commit": "abc"},
}
GRAB = {"blocks": 500, "seconds": 10.0, "megabytes_per_second": 105.0, "lines": 128000, "missing": 0, "dropped": 7}
INSPECTION = {
    "lines_per_second": 522.2,
    "lines_sent": 10240,
    "inspected": 9984,
    "missing": {"gap": 256},
    "dropped": {},
    "balanced": True,
    "latency_ms": {"p50": 391.0, "p99": 1356.0, "maximum": 1802.0},
    "memory_growth_mb": 1.5,
    "defects_judged": {
        "planted": 5, "found_once": 3, "found_more_than_once": 1, "not_found": 1, "found_where_nothing_was_planted": 2
    },
}  # fmt: skip
CAMERA = {
    "package": {"name": "web.prn"},
    "engine": "openvino:int8",
    "width": 4096,
    "held": INSPECTION,
    "at twice the rate": INSPECTION | {"balanced": False, "dropped": {"queue_full": 512}, "defects_judged": None},
}
DASHBOARD = {"frames_per_second": 60.0, "seconds": 20.0, "lines_per_second": 2000.0, "width": 2048}


def write(results: Path, name: str, run: dict[str, object]) -> None:
    folder = results / "some-cpu" / "linescan"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(run))


@pytest.mark.parametrize(
    ("name", "file", "run", "lines"),
    [
        (
            "grab",
            "grab-emulator.json",
            WHERE | GRAB | {"cores": 0.5, "copies": 1.125},
            ["50 blocks/s (105 MB/s) for 10 s: 128,000 lines, 0 missing, 7 dropped; 0.50 cores, 1.12 copies"],
        ),
        (
            "fake-camera",
            "fake-camera-lite0.json",
            WHERE | CAMERA,
            [
                "web.prn, openvino:int8, 4096 pixels:",
                "| held | 522 | 10,240 | 9,984 | 256 gap | 0 | yes | 0.39, 1.36, 1.80 | 1.5 | 5: 3, 1, 1, 2 |",
                "| at twice the rate | 522 | 10,240 | 9,984 | 256 gap | 512 | **no** | 0.39, 1.36, 1.80 | 1.5 | – |",
            ],
        ),
        (
            "dashboard",
            "dashboard.json",
            WHERE | DASHBOARD,
            ["60 frames a second over 20 s, while 2,000 lines/s of 2048"],
        ),
    ],
)
def test_a_run_is_told_with_its_command_and_machine(tmp_path, name, file, run, lines):
    assert FIGURES[name](tmp_path) == NOTHING
    write(tmp_path, file, run)
    text = FIGURES[name](tmp_path)
    for line in lines:
        assert line in text
    assert text.endswith("`python -m some.command` on some CPU, 2 cores, load average 0.2 before, commit abc.")
    write(tmp_path, file, {"command": "something else"})
    with pytest.raises(ConfigError, match="is no run that was recorded"):
        FIGURES[name](tmp_path)
