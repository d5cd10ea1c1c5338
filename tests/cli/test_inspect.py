import json
import os
import signal
import subprocess
import sys
import time

import pytest

from prn_fast.cli.inspect import main

WEB = "synthetic:?width=512&strip_lines=512&lines=100"


def test_a_web_is_inspected_and_the_ledger_printed(built_package_path, tmp_path, capsys):
    found = tmp_path / "found.jsonl"
    status = main(
        [
            str(built_package_path),
            *("--source", f"{WEB}&length=700", "--overlap", "16", "--threshold", "0.5"),
            *("--jsonl", str(found), "--crops", str(tmp_path / "crops"), "--parquet", str(tmp_path / "parquet")),
            *("--pixel-mm", "0.1", "--line-mm", "0.2", "--severity", "1,10"),
        ]
    )
    assert status == 0
    assert "ledger: 700 lines, 700 inspected, 0 missing, 0 dropped" in capsys.readouterr().out
    records = [json.loads(line) for line in found.read_text().splitlines()]
    assert records[-1]["type"] == "end"
    defects = [one for one in records if one["type"] == "defect"]
    assert len(list((tmp_path / "crops").iterdir())) == len(defects)
    assert all("mm" in one for one in defects)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "usb:"], "unknown kind 'usb'"),
        (["--source", "dir:/does/not/exist"], "folder not found"),
        (["--source", WEB, "--pixel-mm", "1"], "both --pixel-mm and --line-mm"),
        (["--source", WEB, "--severity", "large"], "--severity is 'large'"),
        (["--source", WEB, "--threshold", "2"], "threshold of the anomaly map is 2.0"),
        (["--source", WEB, "--overlap", "64"], "overlap"),
        (["--source", WEB, "--dashboard", "here"], "--dashboard is 'here'"),
        (["--source", WEB, "--mqtt", "host"], "mqtt://"),
        (["--source", WEB, "--engine", "openvino:int8"], "prn-build-engine"),
        (["--source", WEB, "--depth", "0"], "--depth at least 1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(built_package_path, capsys, arguments, message):
    assert main([str(built_package_path), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_signal_ends_an_endless_inspection_with_a_closed_ledger(built_package_path, tmp_path):
    found = tmp_path / "found.jsonl"
    command = [sys.executable, "-c", "import sys; from prn_fast.cli.inspect import main; sys.exit(main())"]
    arguments = [str(built_package_path), "--source", f"{WEB}&line_rate=2000", "--overlap", "16", "--jsonl", str(found)]
    arguments += ["--dashboard", ":0"]
    process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True, env=os.environ)
    deadline = time.monotonic() + 60
    while not found.exists() or not found.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "dashboard: http://127.0.0.1:" in output
    end = json.loads(found.read_text().splitlines()[-1])
    assert end["type"] == "end"
    assert end["waiting"] == 0
    assert end["lines"] == end["inspected"] + sum(end["missing"].values()) + sum(end["dropped"].values()) > 0
