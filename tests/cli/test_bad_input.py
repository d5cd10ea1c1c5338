"""Bad input is one line and exit code 2, in every command: a table of it.

Malformed arguments are in it too: argparse's usage is not printed before the line.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prn_fast.bench.report.document import write_json
from prn_fast.cli import bench, build_engine, calibrate, evaluate, inspect, review, score, serve, train, update
from prn_fast.data.synthetic import write_synthetic_surfaces
from prn_fast.package import ENGINES
from prn_fast.training.checkpoint import IDENTITY, STATE
from tests.bench.reports import make_report
from tests.small_package import SIDE, write_package

COMMANDS: dict[str, Callable[..., int]] = {
    "train": train.main,
    "eval": evaluate.main,
    "build": build_engine.main,
    "bench": bench.main,
    "inspect": inspect.main,
    "calibrate": calibrate.main,
    "update": update.main,
    "review": review.main,
    "score": score.main,
    "serve": serve.main,
}
JUNK = bytes(range(256)) * 8
DEEP = "[" * 100_000
NOT_WRITABLE = "/proc/none/out"


def altered(change: Callable[[Any], Any]) -> str:
    """A bench report after a change, as JSON; the change may return another document instead."""
    report = make_report(scenarios=True)
    return json.dumps(change(report) or report)


def slow_first_call(value: Any) -> Callable[[Any], None]:
    def change(report: Any) -> None:
        report["results"][0]["rounds_ms"][0][0] = value

    return change


REPORTS = {
    "empty.json": lambda: "",
    "cut.json": lambda: altered(lambda report: None)[:2000],
    "list.json": lambda: "[1, 2]",
    "deep.json": lambda: DEEP,
    "nan.json": lambda: altered(slow_first_call(float("nan"))),
    "infinite.json": lambda: altered(slow_first_call(123456.75)).replace("123456.75", "1e999"),
    "huge.json": lambda: altered(slow_first_call(123456.75)).replace("123456.75", "9" * 400),
    "zero.json": lambda: altered(slow_first_call(0)),
    "negative.json": lambda: altered(slow_first_call(-20.0)),
    "text.json": lambda: altered(slow_first_call("20")),
    "no-results.json": lambda: altered(lambda report: report.pop("results") and None),
    "version.json": lambda: altered(lambda report: report.update(schema_version="2")),
    "no-version.json": lambda: altered(lambda report: report.pop("schema_version") and None),
    "no-machine.json": lambda: altered(lambda report: report["environment"].update(machine=None)),
    "all-gone.json": lambda: altered(lambda report: report.update(engines=[], results=[], scenarios=[])),
    "one-gone.json": lambda: altered(lambda report: report["results"].pop() and None),
    "few-rounds.json": lambda: json.dumps(make_report(rounds=3)),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one sound package, set of images and report, and much that is not."""
    root = tmp_path_factory.mktemp("world")
    # As after a first build, so that a second one has nothing to make before it fails.
    write_package(root / "good.prn").path.joinpath(ENGINES).mkdir()
    write_synthetic_surfaces(root / "set", side=SIDE, train=6, good=2, defects=4, materials=("wood",))
    (root / "empty").mkdir()
    (root / "file.txt").write_text("text")
    (root / "junk.bin").write_bytes(JUNK)
    (root / "nothing.bin").write_bytes(b"")
    (root / "loop").symlink_to("loop")
    (root / "torn").mkdir()
    (root / "torn" / "a.png").write_bytes(JUNK)
    for name, content in {
        "junk": JUNK,
        "empty": b"",
        "cut": b'{"format": 1,',
        "list": b"[]",
    }.items():
        (root / f"{name}.prn").mkdir()
        (root / f"{name}.prn" / "manifest.json").write_bytes(content)
    (root / "file.prn").write_text("text")
    for name, file, change in (
        ("altered", "model.safetensors", lambda content: content[:-1] + bytes([content[-1] ^ 1])),
        ("tampered", "manifest.json", lambda content: content.replace(b'"image_auroc": 1.0', b'"image_auroc": 0.5')),
    ):
        changed = Path(shutil.copytree(root / "good.prn", root / f"{name}.prn")) / file
        before = changed.read_bytes()
        changed.write_bytes(change(before))
        assert changed.read_bytes() != before
    (root / "half.prn").mkdir()
    (root / "half.prn" / "manifest.json").write_bytes((root / "good.prn" / "manifest.json").read_bytes())
    (root / "reports").mkdir()
    (root / "reports" / "folder.json").mkdir()
    write_json(make_report(scenarios=True), root / "report.json")
    (root / "junk.json").write_bytes(JUNK)
    for name, content in REPORTS.items():
        (root / name).write_text(content())
        (root / "reports" / name).write_text("[1]")
    for name, settings in {"cut": '{"seed": ', "list": "[]", "junk": JUNK, "other": '{"seed": "7"}'}.items():
        checkpoint = root / f"{name}-run.prn.training"
        checkpoint.mkdir()
        torch.save({}, checkpoint / STATE)
        (checkpoint / IDENTITY).write_bytes(settings if isinstance(settings, bytes) else settings.encode())
    return root


TRAIN = "--data {w}/set --output {w}/new.prn --image-size 64 --seen 1 --epochs 1 --batch 4"
WEB = "{w}/good.prn --source synthetic:?width=512&strip_lines=512&lines=100"

# Command, its arguments ({w} is the folder), and what the line has to name.
TABLE: list[tuple[str, str, str]] = [
    # -- a package that was altered, in each command that opens one
    *(
        (name, f"{{w}}/{kind}.prn{rest}", told)
        for kind, told in (("altered", "model.safetensors: differs from what was recorded"), ("tampered", "altered"))
        for name, rest in (
            ("eval", ""),
            ("build", ""),
            ("bench", ""),
            ("inspect", " --source synthetic:?width=512&strip_lines=512"),
            ("calibrate", " --good {w}/set"),
            ("update", " --good {w}/set"),
            ("score", " --images {w}/set --output {w}/out"),
        )
    ),
    # -- prn-review
    ("review", "", "FOLDER"),
    ("review", "{w}/none", "{w}/none"),
    ("review", "{w}/file.txt", "{w}/file.txt"),
    ("review", "{w}/empty", "{w}/empty"),
    ("review", "{w}/torn --kind ..", "--kind"),
    # -- prn-train: folders, files, options; what a recipe or settings refuse is in tests/training
    ("train", "", "--data"),
    ("train", "--data {w}/none --output {w}/new.prn", "{w}/none"),
    ("train", "--data {w}/file.txt --output {w}/new.prn", "{w}/file.txt"),
    ("train", "--data {w}/empty --output {w}/new.prn", "{w}/empty"),
    ("train", "--data {w}/torn --output {w}/new.prn", "{w}/torn"),
    ("train", "--data {w}/loop --output {w}/new.prn", "{w}/loop"),
    ("train", f"{TRAIN} --output {{w}}/new", "{w}/new"),
    ("train", f"{TRAIN} --output {{w}}/empty.prn/../file.prn", "file.prn"),
    ("train", f"{TRAIN} --output {{w}}/file.txt/new.prn", "{w}/file.txt"),
    ("train", f"{TRAIN} --output {NOT_WRITABLE}.prn", "/proc/none"),
    ("train", f"{TRAIN} --output {{w}}/{'n' * 250}.prn", "n.prn"),
    ("train", f"{TRAIN} --format tidy", "tidy"),
    ("train", f"{TRAIN} --preset r99", "unknown preset"),
    ("train", f"{TRAIN} --minutes nan", "--minutes"),
    ("train", f"{TRAIN} --lost nan", "--lost"),
    ("train", f"{TRAIN} --lost 1", "--lost"),
    ("train", "--add-screen {w}/none.prn --lost -1", "--lost"),
    ("train", "--add-screen {w}/none.prn --seen 3", "--seen"),
    ("train", f"{TRAIN} --seen 50", "seen"),
    ("train", f"{TRAIN} --seen many", "--seen"),
    ("train", f"{TRAIN} --seed -1", "--seed"),
    ("train", f"{TRAIN} --image-size 0", "image size"),
    ("train", f"{TRAIN} --image-size 100", "multiple of 64"),
    ("train", f"{TRAIN} --image-size 6400000", "memory"),
    ("train", f"{TRAIN} --channels 2", "--channels"),
    ("train", f"{TRAIN} --precision fp8", "--precision"),
    ("train", f"{TRAIN} --recipe slow", "--recipe"),
    ("train", f"{TRAIN} --false-alarm-rate nan", "--false-alarm-rate must be above 0"),
    ("train", f"{TRAIN} --false-alarm-rate 1", "--false-alarm-rate must be above 0"),
    ("train", f"{TRAIN} --learning-rate 1e300", "--learning-rate"),
    ("train", f"{TRAIN} --focal-weight 0 --no-smooth-l1", "a loss needs one of them"),
    ("train", f"{TRAIN} --textures {{w}}/none", "{w}/none"),
    ("train", f"{TRAIN} --textures {{w}}/torn", "a.png"),
    ("train", f"{TRAIN} --backbone-weights {{w}}/none.pth", "{w}/none.pth"),
    ("train", f"{TRAIN} --backbone-weights {{w}}/junk.bin", "{w}/junk.bin"),
    ("train", f"{TRAIN} --backbone-weights {{w}}/nothing.bin", "{w}/nothing.bin"),
    ("train", f"{TRAIN} --warm-start {{w}}/junk.prn", "{w}/junk.prn"),
    ("train", f"{TRAIN} --start {{w}}/good.prn --backbone-weights {{w}}/junk.bin", "--warm-start"),
    ("train", f"{TRAIN} --resume", "cut-run.prn"),
    *(("train", f"{TRAIN} --output {{w}}/{name}-run.prn --resume", IDENTITY) for name in ("cut", "list", "junk")),
    ("train", f"{TRAIN} --output {{w}}/other-run.prn --resume", "other-run.prn"),
    # -- prn-eval
    ("eval", "", "PACKAGE"),
    ("eval", "{w}/none.prn", "{w}/none.prn: no such package"),
    ("eval", "{w}/file.txt", "{w}/file.txt: is a file"),
    ("eval", "{w}/empty", "{w}/empty"),
    *(("eval", f"{{w}}/{name}.prn", f"{{w}}/{name}.prn") for name in ("junk", "empty", "cut", "list", "half")),
    ("eval", "{w}/good.prn --data {w}/none", "{w}/none: folder not found"),
    ("eval", "{w}/good.prn --data {w}/empty", "{w}/empty"),
    ("eval", "{w}/good.prn --data {w}/file.txt", "{w}/file.txt"),
    ("eval", "{w}/good.prn --data {w}/set --format tidy", "tidy"),
    ("eval", "{w}/good.prn --data {w}/set --engine warp", "unknown backend"),
    ("eval", "{w}/good.prn --data {w}/set --engine openvino:int8", "prn-build-engine"),
    *(
        ("eval", f"{{w}}/good.prn --data {{w}}/set --false-alarm-rate {value}", "false-alarm")
        for value in ("nan", "inf", "0", "-1", "1", "some")
    ),
    *(("eval", f"{{w}}/good.prn --data {{w}}/set --shift {value}", "--shift") for value in ("0", "-5", "nan", "1.5")),
    ("eval", "{w}/good.prn --data {w}/set --output {w}/file.txt", "{w}/file.txt: is a file"),
    ("eval", "{w}/good.prn --data {w}/set --sheet {w}/empty", "name a file"),
    ("eval", f"{{w}}/good.prn --data {{w}}/set --output {NOT_WRITABLE}", NOT_WRITABLE),
    ("eval", "{w}/good.prn --data {w}/set --json {w}/empty", "{w}/empty"),
    ("eval", f"{{w}}/good.prn --data {{w}}/set --json {NOT_WRITABLE}", NOT_WRITABLE),
    ("eval", "{w}/good.prn --data {w}/set --json {w}/a.out --sheet {w}/a.out", "{w}/a.out"),
    ("eval", "{w}/good.prn --data {w}/set --sheet {w}/loop", "{w}/loop"),
    ("eval", "{w}/good.prn --images {w}/none", "{w}/none: folder not found"),
    ("eval", "{w}/good.prn --images {w}/file.txt", "{w}/file.txt"),
    ("eval", "{w}/good.prn --images {w}/empty", "{w}/empty"),
    ("eval", "{w}/good.prn --images {w}/loop", "{w}/loop"),
    ("eval", "{w}/good.prn --images {w}/set --output {w}/set/out", "outside of it"),
    ("eval", f"{{w}}/good.prn --images {{w}}/set --output {NOT_WRITABLE}", NOT_WRITABLE),
    *(
        ("eval", f"{{w}}/good.prn --images {{w}}/set --{option}", f"--{option.split()[0]} belongs to an evaluation")
        for option in ("json a.json", "sheet a.png", "format mvtec", "parts (a)", "shift 10000", "flips")
    ),
    ("eval", "{w}/good.prn --images {w}/set --data {w}/set", "--data"),
    ("eval", "{w}/good.prn --colour", "--colour"),
    # -- prn-build-engine
    ("build", "", "PACKAGE"),
    ("build", "{w}/none.prn", "{w}/none.prn"),
    ("build", "{w}/file.prn", "{w}/file.prn"),
    ("build", "{w}/half.prn", "{w}/half.prn"),
    ("build", "{w}/good.prn --backend warp", "warp"),
    ("build", "{w}/good.prn --backend eager", "eager"),
    ("build", "{w}/good.prn --precision fp64", "fp64"),
    ("build", "{w}/good.prn --batch 8", "batch"),
    *(
        ("build", f"{{w}}/good.prn --backend tensorrt-rtx --batch {value}", "batch")
        for value in ("0:1:2", "-1", "nan", "8:1:2", "1:2", "1.5", "9" * 20)
    ),
    ("build", "{w}/good.prn --backend tensorrt-rtx --compute-capability big", "big"),
    ("build", "{w}/good.prn --backend tensorrt-rtx --compute-capability nan,8.6", "nan"),
    ("build", "{w}/good.prn --backend tensorrt-rtx --compute-capability ,", "--compute-capability"),
    ("build", "{w}/good.prn --compute-capability 8.6", "capabilities"),
    # -- prn-bench
    ("bench", "", "package"),
    ("bench", "{w}/none.prn", "no such package"),
    ("bench", "{w}/junk.prn", "{w}/junk.prn"),
    ("bench", "--list-engines {w}/none.prn", "{w}/none.prn"),
    ("bench", "--list-engines {w}/list.prn", "{w}/list.prn"),
    *(("bench", f"{{w}}/good.prn --seconds {value}", "--seconds") for value in ("nan", "inf", "0", "-1")),
    *(("bench", f"{{w}}/good.prn --p99-ms {value}", "--p99-ms") for value in ("nan", "-inf")),
    *(("bench", f"{{w}}/good.prn --batch {value}", "--batch") for value in ("0", "-1", "nan", "1,", "1.5", "9" * 15)),
    *(("bench", f"{{w}}/good.prn --camera-width {value}", "--camera-width") for value in ("0", "nan")),
    ("bench", "{w}/good.prn --scenario line-camera --camera-width 32", "--camera-width 32 is less than a tile"),
    ("bench", "{w}/good.prn --scenario line-camera --overlap 64", "--overlap 64 must be 0 to 32"),
    ("bench", "{w}/good.prn --scenario single-stream --batch 8", "fits none of --batch's sizes"),
    ("bench", "{w}/good.prn --overlap -1", "--overlap"),
    ("bench", "{w}/good.prn --check-images 1", "--check-images: '1' is not a whole number of 2 or more, up to"),
    ("bench", "{w}/good.prn --seed -1", "--seed"),
    ("bench", f"{{w}}/good.prn --seed {'9' * 30}", "--seed"),
    *(
        ("bench", f"{{w}}/good.prn --defect-share {value}", "--defect-share")
        for value in ("nan", "-0.1", "1.1", "some")
    ),
    ("bench", "{w}/good.prn --engines optimized/early", "optimized/early"),
    ("bench", "{w}/good.prn --engines optimized/late", "late"),
    ("bench", "{w}/good.prn --scenario sprint", "argument --scenario: "),
    ("bench", "{w}/good.prn --baselines warp", "--baselines: unknown warp"),
    ("bench", "{w}/good.prn --engines warp", "unknown backend"),
    ("bench", "{w}/good.prn --engines openvino:fp64", "no precision"),
    ("bench", "{w}/good.prn --engines ,", "argument --engines: "),
    ("bench", "{w}/good.prn --engines openvino:int8", "openvino:int8"),
    ("bench", "{w}/good.prn --json {w}/empty", "{w}/empty: is a folder"),
    ("bench", f"{{w}}/good.prn --html {NOT_WRITABLE}", NOT_WRITABLE),
    ("bench", "{w}/good.prn --markdown {w}/file.txt/tables.md", "{w}/file.txt/tables.md"),
    ("bench", "{w}/good.prn --markdown {w}/a.out --html {w}/a.out", "{w}/a.out"),
    ("bench", "compare {w}/report.json", "after"),
    ("bench", "compare {w}/report.json {w}/none.json", "{w}/none.json"),
    ("bench", "compare {w}/report.json {w}/empty", "{w}/empty"),
    ("bench", "compare {w}/report.json {w}/junk.json", "{w}/junk.json"),
    *(("bench", f"compare {{w}}/report.json {{w}}/{name}", f"{{w}}/{name}") for name in REPORTS),
    ("bench", "compare {w}/nan.json {w}/report.json", "{w}/nan.json"),
    ("bench", "compare {w}/all-gone.json {w}/all-gone.json", "{w}/all-gone.json"),
    *(
        ("bench", f"compare {{w}}/report.json {{w}}/report.json --bound {value}", "--bound")
        for value in ("nan", "inf", "0", "-5", "some")
    ),
    ("bench", "history {w}/none", "{w}/none"),
    ("bench", "history {w}/file.txt", "{w}/file.txt"),
    ("bench", "history {w}/empty", "{w}/empty"),
    ("bench", "history {w}/reports", "{w}/reports"),
    ("bench", f"history {{w}} --html {NOT_WRITABLE}", NOT_WRITABLE),
    # -- prn-calibrate
    ("calibrate", "", "PACKAGE"),
    ("calibrate", "{w}/good.prn", "--good is missing"),
    ("calibrate", "{w}/good.prn --good x --defects y --data z", "not allowed with"),
    ("calibrate", "{w}/none.prn --good {w}/set", "{w}/none.prn"),
    *(("calibrate", f"{{w}}/good.prn --good {{w}}/{name}", f"{{w}}/{name}") for name in ("none", "file.txt", "empty")),
    *(
        ("calibrate", f"{{w}}/good.prn --good {{w}}/set --false-alarm-rate {value}", "false-alarm")
        for value in ("nan", "inf", "0", "-1", "0.9", "some")
    ),
    ("calibrate", "{w}/good.prn --good {w}/set --false-alarm-rate 0.0001", "9,999 good images"),
    ("calibrate", "{w}/good.prn --good {w}/set --defects {w}/none", "{w}/none"),
    ("calibrate", "{w}/good.prn --good {w}/set --data {w}/empty", "{w}/empty"),
    ("calibrate", "{w}/good.prn --good {w}/set --html {w}/empty", "{w}/empty"),
    ("calibrate", "{w}/good.prn --good {w}/set --engine warp", "warp"),
    ("calibrate", "{w}/good.prn --undo", "nothing to undo"),
    ("calibrate", "{w}/good.prn --undo --dry-run", "--undo takes no other option"),
    ("calibrate", "{w}/good.prn --undo --good x", "--undo takes no other option"),
    # -- prn-update
    ("update", "{w}/good.prn", "--good"),
    ("update", "{w}/none.prn --good {w}/set", "{w}/none.prn"),
    *(("update", f"{{w}}/good.prn --good {{w}}/{name}", f"{{w}}/{name}") for name in ("none", "file.txt", "empty")),
    ("update", "{w}/good.prn --good {w}/set --false-alarm-rate 0.0001", "9,999 good images"),
    ("update", "{w}/good.prn --good {w}/set --output {w}/file.txt", "{w}/file.txt"),
    ("update", "{w}/good.prn --good {w}/set --seed -1", "--seed"),
    ("update", "{w}/good.prn --good {w}/set --seed 0.5", "--seed"),
    # -- prn-inspect
    ("inspect", "", "PACKAGE"),
    ("inspect", "{w}/none.prn --source synthetic:", "{w}/none.prn"),
    ("inspect", "{w}/good.prn --source usb:", "unknown kind 'usb'"),
    ("inspect", "{w}/good.prn --source dir:{w}/none", "{w}/none: folder not found"),
    ("inspect", f"{WEB} --lines -1", "argument --lines: "),
    ("inspect", f"{WEB} --depth 0", "argument --depth: "),
    *(("inspect", f"{WEB} --threshold={value}", "threshold of the anomaly map") for value in ("nan", "inf", "-1", "2")),
    ("inspect", f"{WEB} --severity large", "--severity is 'large'"),
    *(("inspect", f"{WEB} --severity={value}", "severity limits are") for value in ("nan,1", "1,inf", "-1,1")),
    ("inspect", f"{WEB} --overlap 64", "--overlap is 64; tiles of 64 pixels overlap by 32 at most"),
    ("inspect", f"{WEB} --overlap=-1", "argument --overlap: "),
    *(("inspect", f"{WEB} --min-area={value}", "argument --min-area: ") for value in ("0", "-5")),
    ("inspect", f"{WEB} --pixel-mm 1", "both --pixel-mm and --line-mm"),
    *(
        ("inspect", f"{WEB} --pixel-mm 1 --line-mm 1 {option}={value}", f"argument {option}: ")
        for option in ("--pixel-mm", "--line-mm", "--budget-ms")
        for value in ("nan", "inf", "-1", "0")
    ),
    ("inspect", f"{WEB} --drift-window -1", "--drift-window"),
    ("inspect", f"{WEB} --engine warp", "warp"),
    ("inspect", f"{WEB} --engine openvino:int8", "prn-build-engine"),
    ("inspect", f"{WEB} --jsonl {{w}}/empty", "{w}/empty"),
    ("inspect", f"{WEB} --jsonl {NOT_WRITABLE}/found", "cannot be written"),
    ("inspect", f"{WEB} --parquet {{w}}/file.txt", "{w}/file.txt"),
    ("inspect", f"{WEB} --crops {NOT_WRITABLE}", NOT_WRITABLE),
    *(("inspect", f"{WEB} --mqtt {url}", "mqtt://") for url in ("host", "mqtt://[::1/t")),
    *(
        ("inspect", f"{WEB} --{option} {address}", f"--{option} is '{address}'")
        for option, address in (
            ("dashboard", "here"),
            ("dashboard", "host:99999"),
            ("metrics", "here"),
            ("opcua", "host:99999"),
        )
    ),
    ("inspect", f"{WEB} --webhook host", "a webhook is named http"),
    ("inspect", f"{WEB} --webhook-key key", "give --webhook URL"),
    ("inspect", f"{WEB} --webhook http://host/ --webhook-key /none", "/none: cannot be read"),
    ("inspect", f"{WEB} --webhook http://host/ --webhook-key {{w}}/junk.bin", "{w}/junk.bin"),
    ("inspect", f"{WEB} --webhook http://host/ --webhook-queue /none/queue", "cannot be used as a queue"),
    ("inspect", f"{WEB} --opcua-certificates folder", "give --opcua"),
    ("inspect", f"{WEB} --opcua :0 --opcua-certificates {{w}}/empty", "{w}/empty/certificate.pem: not found"),
    # -- prn-score
    ("score", "", "PACKAGE"),
    ("score", "{w}/none.prn --images {w}/set --output {w}/out", "{w}/none.prn"),
    ("score", "{w}/good.prn --images {w}/none --output {w}/out", "{w}/none"),
    ("score", "{w}/good.prn --images {w}/file.txt --output {w}/out", "{w}/file.txt"),
    ("score", "{w}/good.prn --images {w}/empty --output {w}/out", "{w}/empty"),
    ("score", "{w}/good.prn --images {w}/set --output {w}/set/out", "{w}/set"),
    ("score", "{w}/good.prn --images {w}/set --output {w}/file.txt", "{w}/file.txt"),
    ("score", f"{{w}}/good.prn --images {{w}}/set --output {NOT_WRITABLE}", NOT_WRITABLE),
    ("score", "{w}/good.prn --images {w}/set --output {w}/out --engine warp", "warp"),
    *(
        ("score", f"{{w}}/good.prn --images {{w}}/set --output {{w}}/out --{name} {value}", f"--{name}")
        for name, value in (("rows", "0"), ("min-area", "-1"), ("threads", "nan"), ("gpus", "0"), ("actors", "0"))
    ),
    ("score", "{w}/good.prn --images {w}/set --output {w}/out --actors 2", "--ray"),
    ("score", "{w}/good.prn --images {w}/set --output {w}/out --false-alarm-rate 1", "false-alarm"),
    ("inspect", f"{WEB} --engine grpc://rack", "grpc://rack"),
    ("inspect", f"{WEB} --engine http://rack/tiles?timeout=never", "timeout"),
    ("inspect", "grpc://rack/tiles/x --source synthetic:?width=512&strip_lines=512", "grpc://rack/tiles/x"),
    # -- prn-serve
    ("serve", "", "ACTION"),
    ("serve", "export {w}/good.prn", "DIR"),
    ("serve", "export {w}/none.prn {w}/models", "{w}/none.prn"),
    ("serve", "export {w}/half.prn {w}/models", "{w}/half.prn"),
    ("serve", "export {w}/good.prn {w}/file.txt", "{w}/file.txt"),
    ("serve", f"export {{w}}/good.prn {NOT_WRITABLE}", NOT_WRITABLE),
    ("serve", "export {w}/good.prn {w}/models --name a/b", "a/b"),
    ("serve", "export {w}/good.prn {w}/good.prn {w}/models --name a", "--name"),
    ("serve", "export {w}/good.prn {w}/good.prn {w}/models", "good"),
    ("serve", "export {w}/good.prn {w}/models --engine warp", "warp"),
    ("serve", "export {w}/good.prn {w}/models --engine openvino:int8", "openvino:int8"),
    ("serve", "export {w}/good.prn {w}/models --gpu", "GPU"),
    *(
        ("serve", f"export {{w}}/good.prn {{w}}/models --batch {value}", "--batch")
        for value in ("0", "-1", "nan", "9999")
    ),
    *(
        ("serve", f"export {{w}}/good.prn {{w}}/models --delay-ms {value}", "--delay-ms")
        for value in ("nan", "-1", "inf")
    ),
    ("serve", "export {w}/good.prn {w}/models --queue 0", "--queue"),
    ("serve", "run {w}/none", "{w}/none"),
    ("serve", "run {w}/empty", "{w}/empty"),
    ("serve", "run {w}/empty --grpc-port 70000", "--grpc-port"),
    ("serve", "run {w}/empty --canary-s nan", "--canary-s"),
    ("serve", "export {w}/good.prn {w}/models --instances 0", "--instances"),
    ("serve", "export {w}/good.prn {w}/models --versions -1", "--versions"),
    ("serve", "export {w}/good.prn {w}/models --deadline-ms -1", "--deadline-ms"),
    ("serve", f"run {{w}}/empty --log {NOT_WRITABLE}", NOT_WRITABLE),
    ("serve", "check tiles", "tiles"),
    ("serve", "check grpc://rack", "grpc://rack"),
    ("serve", "check grpc://rack/tiles --wait 0", "--wait"),
]


def contents(root: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder, with its size and time of change."""
    return {
        os.path.join(folder, name): (status.st_size, status.st_mtime_ns)
        for folder, folders, files in os.walk(root)
        for name in (*folders, *files)
        for status in [os.lstat(os.path.join(folder, name))]
        if not os.path.isdir(os.path.join(folder, name))
    } | {folder: (0, 0) for folder, _, _ in os.walk(root)}


@pytest.mark.parametrize(
    ("name", "arguments", "named"), TABLE, ids=[f"{name} {arguments[:70]}" for name, arguments, _ in TABLE]
)
def test_bad_input_is_one_line_and_exit_code_2(
    world: Path, capsys: pytest.CaptureFixture[str], name: str, arguments: str, named: str
) -> None:
    before = contents(world)
    code = COMMANDS[name]([part.format(w=world) for part in arguments.split()])
    error = capsys.readouterr().err
    assert code == 2, error
    assert error.startswith("error: ")
    assert error.endswith("\n")
    assert len(error.splitlines()) == 1
    assert named.format(w=world) in error
    assert "Traceback" not in error
    assert contents(world) == before
