"""What a served package says to Prometheus, read from the real server."""

import json
import re
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from prn_fast.drift import MIN_WINDOW
from prn_fast.engine import open_engine
from prn_fast.serving import figures
from prn_fast.serving.repository import Serving, export
from prn_fast.serving.tritonserver import Ports, TritonServer
from tests import needs
from tests.serving.conftest import START_SECONDS
from tests.small_package import textured_images, write_package

GRAFANA = Path(__file__).parents[2] / "examples" / "grafana" / "prn-serve.json"
pytestmark = needs.tritonserver


def shown_by(url: str) -> set[str]:
    """Names of all figures that the server shows, with its own."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        return set(re.findall(r"^(\w+)\{", answer.read().decode(), re.MULTILINE))


def read(url: str) -> dict[tuple, float]:
    """What the package says, by name and labels without model, version and instance."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    found = {}
    for sample in (one for family in families for one in family.samples if one.name.startswith("prn_served_")):
        labels = dict(sample.labels)
        assert (labels.pop("model"), labels.pop("version")) == ("screened", "1")
        assert labels.pop("instance")
        found[(sample.name, *sorted(labels.values()))] = sample.value
    return found


@pytest.mark.long
def test_the_server_counts_verdicts_exits_and_drift(tmp_path: Path) -> None:
    package, images = write_package(tmp_path / "screened.prn", screen=True), textured_images(32, 1, 4)
    with open_engine(package, "optimized") as engine:
        local = engine.infer(images)
    export(package, tmp_path / "models", Serving(engine="optimized", batch=8))
    (tmp_path / "models" / "screened" / "1" / "model.py").write_text(
        # A short window, so that few images fill it.
        f"from prn_fast.serving import figures\nfigures.WINDOW = {MIN_WINDOW}\n"
        "from prn_fast.serving.triton_model import TritonPythonModel\n"
    )
    with TritonServer(tmp_path / "models", Ports(grpc=0, http=0, metrics=0), tmp_path / "server.log") as server:
        server.start()
        server.wait(START_SECONDS)
        with open_engine(server.addresses()[0]) as engine:
            before = read(server.metrics_url)
            # Neither warm-up nor the canaries of clients count.
            assert {name: value for name, value in before.items() if value} == {
                ("prn_served_drift_state", "learning"): 1.0
            }
            engine.infer(images)
            after = read(server.metrics_url)
            assert after["prn_served_images_total", "defect"] == local.defective.sum()
            assert after["prn_served_images_total", "good"] == (~local.defective).sum()
            assert after["prn_served_exited_images_total",] == local.exited.sum() > 0
            # A white web is none that the package knows.
            white = np.full((64, *images.shape[1:]), 255, np.uint8)
            for _ in range(8):
                engine.infer(white)
            states = {
                labels[0]: value for (name, *labels), value in read(server.metrics_url).items() if "state" in name
            }
            dashboard = json.loads(GRAFANA.read_text(encoding="utf-8"))
            queries = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
            asked = set(re.findall(r"\b(?:prn|nv)_\w+", queries))
            assert asked <= shown_by(server.metrics_url)
            assert {name for name in shown_by(server.metrics_url) if name.startswith("prn_")} <= asked
    assert states == {"learning": 0.0, "ok": 0.0, "watch": 0.0, "act": 1.0}
    assert figures.WINDOW > MIN_WINDOW
