import json

import pytest

from prn_fast.bench.machine import environment
from prn_fast.bench.machine.measurement import Measurement, command_line
from prn_fast.errors import ConfigError, StorageError


@pytest.mark.parametrize(
    ("argument", "kept"),
    [
        ("/data/of/mine/a.prn", "a.prn"),
        ("--json=/tmp/a.json", "--json=a.json"),
        ("dir:/data/web?line_rate=5/2", "'dir:web?line_rate=5/2'"),
        ("runs/a.prn", "runs/a.prn"),
        ("grpc://127.0.0.1:8001/tiles", "grpc://127.0.0.1:8001/tiles"),
        ("--batch", "--batch"),
    ],
)
def test_a_recorded_command_names_no_folder_of_the_machine(argument, kept):
    assert command_line("prn_fast.bench.x", [argument, "8"]) == f"python -m prn_fast.bench.x {kept} 8"


@pytest.mark.parametrize("commit", ["0123456789ab-dirty", "unknown"])
def test_code_in_no_commit_leaves_a_record_only_where_it_is_allowed_and_marked(commit, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(environment, "commit", lambda: commit)
    with pytest.raises(ConfigError, match=f"{commit}.*--allow-dirty"):
        Measurement("prn_fast.bench.x", [], tmp_path / "x.json")
    Measurement("prn_fast.bench.x", [], tmp_path / "x.json", allow_dirty=True).leave({"figure": 1})
    assert json.loads((tmp_path / "x.json").read_text())["environment"]["commit"] == commit
    Measurement("prn_fast.bench.x", [], None).leave({"figure": 2})
    assert '"figure": 2' in capsys.readouterr().out


def test_a_record_tells_commit_and_load_from_before_the_measurement(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "commit", lambda: "0123456789ab")
    monkeypatch.setattr("os.getloadavg", lambda: (0.5, 0, 0))
    measurement = Measurement("prn_fast.bench.x", ["--seconds", "3"], tmp_path / "new" / "x.json")
    monkeypatch.setattr(environment, "commit", lambda: "ba9876543210-dirty")
    monkeypatch.setattr("os.getloadavg", lambda: (9.5, 0, 0))
    measurement.leave({"figure": 1})
    record = json.loads((tmp_path / "new" / "x.json").read_text())
    assert record["environment"]["commit"] == "0123456789ab"
    assert record["load_average"] == 0.5
    assert record["command"] == "python -m prn_fast.bench.x --seconds 3"


def test_a_record_that_cannot_be_written_is_an_error_before_the_measurement(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "commit", lambda: "0123456789ab")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        Measurement("prn_fast.bench.x", [], tmp_path / "file" / "x.json")
