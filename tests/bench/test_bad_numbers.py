"""Numbers that commands of the bench cannot work with: exit code 2, a line that names the option, and no work."""

import importlib

import pytest

from prn_fast.bench import archive, loader_speed
from prn_fast.bench.accuracy import calibration_splits, nearest_patch
from prn_fast.bench.engines import memory
from prn_fast.bench.gpu import tune
from prn_fast.bench.linescan import drift, grab
from prn_fast.bench.plant import remote

MAINS = {
    "accuracy": importlib.import_module("prn_fast.bench.accuracy.__main__").main,
    "archive": archive.main,
    "calibration_splits": calibration_splits.main,
    "drift": drift.main,
    "grab": grab.main,
    "loader_speed": loader_speed.main,
    "memory": memory.main,
    "nearest_patch": nearest_patch.main,
    "plant": importlib.import_module("prn_fast.bench.plant.__main__").main,
    "remote": remote.main,
    "tune": tune.main,
}
DRIFT = "tiles.prn --material wood"
TABLE = [
    ("accuracy", "run seen --data set --output out --minutes nan", "--minutes"),
    ("accuracy", "run seen --data set --output out --seeds 0,-1", "--seeds"),
    ("accuracy", "run seen --data set --output out --seeds ,", "--seeds"),
    *(("archive", f"tiles.prn folder --{name} 0", f"--{name}") for name in ("images", "broken", "actors", "rows")),
    ("archive", "tiles.prn folder --images 1e4", "--images"),
    ("calibration_splits", "tiles.prn --data set --json a.json --held-back -5", "--held-back"),
    ("calibration_splits", "tiles.prn --data set --json a.json --splits 0", "--splits"),
    *(("drift", f"{DRIFT} --{name} -1", f"--{name}") for name in ("fade", "tiles", "run", "unchanged", "scored")),
    *(("drift", f"{DRIFT} --{name} -1", f"--{name}") for name in ("calibrating", "surfaces", "seed")),
    ("drift", f"{DRIFT} --fade inf", "--fade"),
    ("grab", "synthetic: --seconds nan", "--seconds"),
    ("grab", "synthetic: --depth 0", "--depth"),
    ("loader_speed", "--data set --batches 0", "--batches"),
    ("loader_speed", "--data set --workers -1", "--workers"),
    ("loader_speed", "--data set --image-size many", "--image-size"),
    ("memory", "tiles.prn eager 0", "batch"),
    ("nearest_patch", "--data set --output out --seen -1", "--seen"),
    ("nearest_patch", f"--data set --output out --seed {2**32}", "--seed"),
    *(("plant", f"--{name} 0", f"--{name}") for name in ("bound-ms", "rate", "images", "lines", "batch", "queue")),
    ("plant", "--rate nan", "--rate"),
    ("remote", "tiles.prn grpc://rack/tiles --batch 0", "--batch"),
    ("remote", "tiles.prn grpc://rack/tiles --seed -1", "--seed"),
    ("tune", "--batch 0", "--batch"),
    ("tune", "--seconds inf", "--seconds"),
]


@pytest.mark.parametrize(("name", "arguments", "named"), TABLE, ids=[f"{name} {rest}" for name, rest, _ in TABLE])
def test_a_bad_number_is_named_and_nothing_begins(
    name: str, arguments: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        MAINS[name](arguments.split())
    assert ended.value.code == 2
    output = capsys.readouterr()
    assert f"error: argument {named}: " in output.err.splitlines()[-1]
    assert output.out == ""
