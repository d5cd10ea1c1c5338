import json

import pytest

from prn_fast.bench.figures import FIGURES
from prn_fast.bench.loader_speed import main
from prn_fast.bench.machine.measurement import Measurement
from prn_fast.data.synthetic import write_synthetic_surfaces


def test_it_prints_both_rates_and_leaves_nothing(tmp_path, capsys):
    data = write_synthetic_surfaces(tmp_path / "set", side=64, train=12, good=1, defects=10, materials=("wood",))
    before = sorted(tmp_path.rglob("*"))
    assert main(["--data", str(data), "--image-size", "64", "--batches", "2"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert "prn_fast.bench.loader_speed --data" in printed["command"]
    assert printed["loader"] > 0
    assert printed["step"] > 0
    assert abs(printed["loader_share"] - printed["step"] / (printed["loader"] + printed["step"])) < 0.01
    # Of eleven normals and their anomalies a step has eight.
    assert (printed["batch"], printed["batches"], printed["preset"]) == (8, 2, "lite0")
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_kept_is_told(tmp_path):
    kept = tmp_path / "results" / "device" / "training" / "loader-lite0.json"
    kept.parent.mkdir(parents=True)
    figures = {"loader": 512.3, "step": 9.81, "loader_share": 0.0188, "batch": 16, "batches": 10, "preset": "lite0"}
    measurement = Measurement("prn_fast.bench.loader_speed", ["--data", "x"], kept, allow_dirty=True)
    measurement.leave({**figures, "image_size": 256})
    text = FIGURES["loader"](tmp_path / "results")
    assert "512 images/s" in text
    assert "9.8 images/s (10 batches of 16)" in text
    assert "1.9 % of the time" in text
    assert "`python -m prn_fast.bench.loader_speed --data x`" in text


def test_a_folder_that_is_missing_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_code:
        main(["--data", str(tmp_path / "none")])
    assert exit_code.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
