import json
import os
import pty
import select
import signal
import socket
import sys
import threading
import time

import numpy as np
import pytest

from prn_fast.cli.inspect import _Signals, main
from prn_fast.data.images import write_image
from prn_fast.linescan import inspection
from prn_fast.linescan.sinks import delivery
from prn_fast.linescan.sinks.outbox import Outbox
from prn_fast.linescan.sources import SOURCES
from prn_fast.linescan.sources.base import Block, Source

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
    assert "\nledger: 700 lines, 700 inspected, 0 missing, 0 dropped\n" in capsys.readouterr().out
    records = [json.loads(line) for line in found.read_text().splitlines()]
    assert records[-1]["type"] == "end"
    defects = [one for one in records if one["type"] == "defect"]
    pictures = {path.name for path in (tmp_path / "crops").glob("*.png")}
    assert len(pictures) == len(defects)
    assert {path.name for path in (tmp_path / "crops" / ".maps").iterdir()} == pictures
    assert json.loads((tmp_path / "crops" / "run.json").read_text())["pixel_threshold"] == 0.5
    assert all("mm" in one for one in defects)


def test_exactly_the_wanted_lines_are_inspected(built_package_path, capsys):
    assert main([str(built_package_path), "--source", WEB, "--overlap", "16", "--lines", "130"]) == 0
    assert "ledger: 130 lines, 130 inspected, 0 missing, 0 dropped" in capsys.readouterr().out


def test_the_ledger_is_printed_when_an_error_ends_the_inspection(built_package_path, tmp_path, capsys):
    folder = tmp_path / "web"
    folder.mkdir()
    for name, width in (("1", 200), ("2", 201)):
        write_image(folder / f"{name}.png", np.full((100, width), 150, np.uint8))
    found = tmp_path / "found.jsonl"
    source = ["--source", f"dir:{folder}", "--overlap", "16", "--jsonl", str(found)]
    assert main([str(built_package_path), *source]) == 2
    output = capsys.readouterr()
    assert "ledger: 100 lines, 100 inspected" in output.out
    assert output.err.splitlines()[-1].startswith("error: ")
    assert "201 pixels wide" in output.err
    assert "201 pixels wide" in json.loads(found.read_text().splitlines()[-1])["error"]


def test_lost_messages_are_said_and_are_no_success(built_package_path, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(delivery, "MAX_MESSAGES", 0)
    found = tmp_path / "found.jsonl"
    # It comes at a rate, so that it does not wait for the sink.
    source = ["--source", f"{WEB}&length=700&line_rate=5000", "--overlap", "16", "--threshold", "0.4"]
    assert main([str(built_package_path), *source, "--min-area", "1", "--jsonl", str(found)]) == 1
    lost = json.loads(found.read_text().splitlines()[-1])["sinks"][str(found)]["lost"]
    assert lost > 0
    assert f"found.jsonl: {lost} messages lost" in capsys.readouterr().out


@pytest.mark.long
def test_figures_and_the_plants_protocols_are_served(built_package_path, tmp_path, capsys):
    queue = tmp_path / "queue"
    # Nobody takes what the webhook sends: it waits on disk.
    with socket.socket() as unanswered:
        unanswered.bind(("127.0.0.1", 0))
        webhook = f"http://127.0.0.1:{unanswered.getsockname()[1]}/defects"
        options = ["--metrics", ":0", "--opcua", ":0", "--webhook", webhook, "--webhook-queue", str(queue)]
        assert main([str(built_package_path), "--source", WEB, "--overlap", "16", "--lines", "130", *options]) == 0
    output = capsys.readouterr().out
    assert "metrics: http://127.0.0.1:" in output
    assert f"{webhook}: " in output
    outbox = Outbox(queue, 100)
    assert [json.loads(payload)["type"] for _, _, payload in outbox.messages()][:1] == ["start"]
    outbox.close()


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def number(request):
    """A signal, which does not end the tests where the command fails to take it."""
    unhandled = []
    before = signal.signal(request.param, lambda number, _: unhandled.append(number))
    yield request.param
    assert signal.signal(request.param, before) is not before
    assert unhandled == []


def test_a_signal_ends_an_endless_inspection_with_a_closed_ledger(built_package_path, tmp_path, capsys, number):
    found = tmp_path / "found.jsonl"

    def send():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (found.exists() and '"start"' in found.read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    source = ["--source", f"{WEB}&line_rate=2000", "--overlap", "16", "--jsonl", str(found), "--dashboard", ":0"]
    assert main([str(built_package_path), *source]) == 0
    sending.join()
    output = capsys.readouterr().out
    assert "dashboard: http://127.0.0.1:" in output
    assert "ledger: " in output
    end = json.loads(found.read_text().splitlines()[-1])
    assert end["type"] == "end"
    assert end["error"] is None
    assert end["waiting"] == 0
    assert end["lines"] == end["inspected"] + sum(end["missing"].values()) + sum(end["dropped"].values())


class Blocking(Source):
    """Delivers a block, and then waits for something that does not come."""

    def __init__(self, where):
        super().__init__("blocking", 64, "Mono8", 100)
        if where == "opening":
            self.block()

    def block(self):
        os.kill(os.getpid(), self.number)
        self.released.wait(30)

    def events(self):
        yield Block(np.full((100, 64), 150, np.uint8), 0, 0)
        self.block()

    def close(self):
        assert not self.left, "its thread is still in there"
        super().close()


@pytest.fixture
def blocking(monkeypatch, number):
    monkeypatch.setattr(inspection, "STOP_SECONDS", 0.2)
    monkeypatch.setitem(SOURCES, "blocking", f"{__name__}.Blocking")
    released = threading.Event()
    for name, value in (("number", number), ("released", released), ("left", True)):
        monkeypatch.setattr(Blocking, name, value, raising=False)
    yield
    released.set()


def test_a_signal_ends_an_inspection_whose_source_blocks(built_package_path, capsys, blocking):
    assert main([str(built_package_path), "--source", "blocking:", "--overlap", "16"]) == 0
    output = capsys.readouterr().out
    assert "ledger: 100 lines, 100 inspected, 0 missing, 0 dropped" in output
    assert "blocking: did not stop within 0.2 s and was left behind" in output


def test_a_signal_while_it_starts_is_an_interruption(built_package_path, capsys, blocking):
    assert main([str(built_package_path), "--source", "blocking:opening"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_signal_that_is_ignored_stays_ignored():
    term = signal.getsignal(signal.SIGTERM)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _Signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGTERM) is term


def test_a_terminal_that_is_closed_ends_the_inspection_and_its_files(built_package_path, tmp_path):
    found = tmp_path / "found.jsonl"
    script = "import sys; from prn_fast.cli.inspect import main; sys.exit(main())"
    arguments = [str(built_package_path), "--source", f"{WEB}&line_rate=2000", "--overlap", "16", "--jsonl", str(found)]
    child, terminal = pty.fork()
    if child == 0:
        # Whoever runs the tests may have it ignored, as nohup does, and the inspection keeps to that.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.execv(sys.executable, [sys.executable, "-c", script, *arguments])
    deadline = time.monotonic() + 60
    while not found.exists() or not found.read_text():
        assert time.monotonic() < deadline
        if select.select([terminal], [], [], 0.05)[0]:
            os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    end = json.loads(found.read_text().splitlines()[-1])
    assert (end["type"], end["waiting"], end["error"]) == ("end", 0, None)
