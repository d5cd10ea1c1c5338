import json

import pytest

from prn_fast.bench.loader_speed import main
from prn_fast.data.synthetic import write_synthetic_surfaces


def test_it_prints_both_rates_and_leaves_nothing(tmp_path, capsys):
    data = write_synthetic_surfaces(tmp_path / "set", side=64, train=12, good=1, defects=10, materials=("wood",))
    before = sorted(tmp_path.rglob("*"))
    assert main(["--data", str(data), "--image-size", "64", "--batches", "2"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["loader"] > 0
    assert printed["step"] > 0
    assert abs(printed["loader_share"] - printed["step"] / (printed["loader"] + printed["step"])) < 0.01
    # All of eleven normals and their anomalies, of which a step has sixteen.
    assert (printed["batch"], printed["batches"], printed["preset"]) == (16, 2, "lite0")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_missing_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_code:
        main(["--data", str(tmp_path / "none")])
    assert exit_code.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
