"""Each extra of setup.py is enough for what it names: tried in processes that see only what it brings."""

import contextlib
import json
import os
import runpy
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from prn_fast.data.synthetic import write_synthetic_surfaces
from tests.small_package import SIDE

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Case:
    """Commands with an extra's libraries alone; "" is the base installation.

    Attributes:
        code: to run; {package}, {images}, {data} and {out} stand for paths.
        says: how the one line begins that it ends with, at exit code 2; "" where it succeeds.
        without: a requirement that is taken away.
        beside: requirements that are there, too.
    """

    extra: str
    code: str
    says: str = ""
    without: str = ""
    beside: tuple[str, ...] = ()


def command(name: str, *arguments: str) -> str:
    return f"import sys; from prn_fast.cli.{name} import main; sys.exit(main({list(arguments)!r}))"


PREDICT = command("evaluate", "{package}", "--images", "{images}", "--engine", "optimized", "--output", "{out}")
EVALUATE = command("evaluate", "{package}", "--data", "{data}", "--engine", "optimized", "--output", "{out}")
OPENVINO = command("build_engine", "{package}", "--backend", "openvino", "--precision", "fp32")
RTX = command("build_engine", "{package}", "--backend", "tensorrt-rtx", "--compute-capability", "8.9")
BENCH = command(
    "bench", "{package}", "--engines", "optimized", "--seconds", "0.1", "--batch", "1", "--check-images", "4"
)
TRAIN = command("train", "--data", "{data}", "--output", "{out}/new.prn", "--image-size", "64", "--minutes", "0.01")
INSPECT = ("inspect", "{package}", "--source", "dir:{images}", "--engine", "optimized")
SCORE = command("score", "{package}", "--images", "{images}", "--engine", "optimized", "--output", "{out}/rows")
SCORE_ON_RAY = command(
    *("score", "{package}", "--images", "{images}", "--engine", "optimized"),
    *("--output", "{out}/rows", "--ray", "nowhere"),
)
NUMBERS = f"import numpy; images = numpy.zeros((1, {SIDE}, {SIDE}, 1), numpy.uint8)"
INFER = (
    "import prn_fast; " + NUMBERS + "; assert len(prn_fast.open_engine(r'{package}', '%s').infer(images).scores) == 1"
)
AWAY = (
    "import prn_fast, prn_fast.errors as errors\n"
    "try: prn_fast.open_engine('%s://127.0.0.1:1/tiles?patience=0')\n"
    "except errors.EngineUnavailableError: pass\n"
    "else: raise SystemExit('a server where none is')"
)
# What a build imports and ends with, without the minute that quantising takes; its export is "tensorrt"'s too.
OPENVINO_PARTS = (
    "import nncf, onnx, onnxscript, openvino, prn_fast.build.openvino; "
    "from prn_fast.training.metrics import image_metrics; import numpy; "
    "assert image_metrics(numpy.array([0.1, 0.9]), numpy.array([0, 1])).auroc == 1\n"
)

CASES = {
    "base: optimized": Case("", INFER % "optimized"),
    "base: prn-eval --images": Case("", PREDICT),
    "base: prn-inspect": Case("", command(*INSPECT, "--jsonl", "{out}/found.jsonl")),
    "base: prn-bench --list-engines": Case("", command("bench", "--list-engines", "{package}")),
    "base: prn-eval": Case("", EVALUATE, says="scikit-learn is not installed: pip install 'prn-fast[eval]'"),
    "base: build openvino": Case("", OPENVINO, says="OpenVINO is not installed: pip install 'prn-fast[openvino]'"),
    "base: build rtx": Case("", RTX, says="TensorRT-RTX is not installed: pip install 'prn-fast[tensorrt]'"),
    "base: prn-bench": Case("", BENCH, says="psutil is not installed: pip install 'prn-fast[bench]'"),
    "base: prn-train": Case("", TRAIN, says="lightning-fabric is not installed: pip install 'prn-fast[train]'"),
    "base: parquet": Case(
        "",
        command(*INSPECT, "--parquet", "{out}/found.parquet"),
        says="pyarrow is not installed: pip install 'prn-fast[linescan]'",
    ),
    "base: opcua": Case(
        "",
        command(*INSPECT, "--opcua", "127.0.0.1:0"),
        says="asyncua is not installed: pip install 'prn-fast[opcua]'",
    ),
    "base: prn-score": Case("", SCORE, says="pyarrow is not installed: pip install 'prn-fast[archive]'"),
    "archive: on ray": Case("archive", SCORE_ON_RAY, says="ray is not installed: pip install 'prn-fast[ray]'"),
    "archive": Case("archive", SCORE),
    # What is imported, without the half minute that starting a cluster takes. Ray brings a psutil of its own along,
    # which cannot be told from the one that is hidden.
    "ray": Case("ray", SCORE_ON_RAY, says="--ray nowhere: no cluster can be used there", beside=("psutil",)),
    "opcua": Case("opcua", command(*INSPECT, "--opcua", "127.0.0.1:0")),
    "base: prn-serve export": Case("", command("serve", "export", "{package}", "{out}/models")),
    "base: prn-serve run": Case(
        "", command("serve", "run", "{out}"), says="psutil is not installed: pip install 'prn-fast[serve]'"
    ),
    "base: prn-serve check": Case(
        "",
        command("serve", "check", "grpc://127.0.0.1:1/tiles"),
        says="tritonclient is not installed: pip install 'prn-fast[serve]'",
    ),
    "serve": Case("serve", AWAY % "grpc" + "\n" + AWAY % "http"),
    "eval": Case("eval", EVALUATE),
    "openvino": Case("openvino", OPENVINO_PARTS + INFER % "openvino"),
    "tensorrt": Case("tensorrt", RTX),
    "bench": Case("bench", BENCH),
    "linescan": Case(
        "linescan", command(*INSPECT, "--parquet", "{out}/found.parquet", "--dashboard", ":0", "--metrics", ":0")
    ),
    "train": Case("train", TRAIN),
    # That a requirement is missed where it is missing.
    "tensorrt without scikit-learn": Case(
        "tensorrt",
        RTX,
        says="scikit-learn is not installed: pip install 'prn-fast[tensorrt]'",
        without="scikit-learn",
    ),
    "tensorrt without onnxscript": Case(
        "tensorrt", RTX, says="onnxscript is not installed: pip install 'prn-fast[tensorrt]'", without="onnxscript"
    ),
}


def declared() -> tuple[list[str], dict[str, list[str]]]:
    """What setup.py itself says, and not what an earlier installation has noted of it."""
    with contextlib.chdir(ROOT), mock.patch("setuptools.setup") as setup:
        runpy.run_path("setup.py")
    return setup.call_args.kwargs["install_requires"], setup.call_args.kwargs["extras_require"]


@pytest.fixture(scope="module")
def results(built_package_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("extras")
    data = write_synthetic_surfaces(
        folder / "surfaces", side=96, train=8, good=3, defects=12, materials=["brushed_metal"]
    )
    base, extras = declared()
    cases = []
    for number, case in enumerate(CASES.values()):
        out = folder / f"out-{number}"
        out.mkdir()
        package = shutil.copytree(built_package_path, out / "small.prn")
        code = case.code.replace("{package}", str(package)).replace("{out}", str(out))
        code = code.replace("{data}", str(data)).replace("{images}", str(data / "test" / "good"))
        wanted = [text for text in (*base, *extras.get(case.extra, ())) if not (case.without and case.without in text)]
        cases.append({"requirements": [*wanted, *case.beside], "code": code})
    (folder / "cases.json").write_text(json.dumps(cases))
    subprocess.run(
        [sys.executable, "-m", "tests.only_with", str(folder / "cases.json"), str(folder / "results.json")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    return dict(zip(CASES, json.loads((folder / "results.json").read_text()), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_an_extra_is_enough_for_what_it_names(results: dict[str, Any], name: str) -> None:
    found, case = results[name], CASES[name]
    if not case.says:
        assert found["status"] == 0, found["output"]
        return
    assert found["status"] == 2, found["output"]
    assert found["output"].splitlines()[-1].startswith(f"error: {case.says}"), found["output"]
    assert "Traceback" not in found["output"]
