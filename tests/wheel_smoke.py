"""Tries an installed prn_fast that has its base dependencies alone; `make wheel` runs it in a fresh environment.

    python tests/wheel_smoke.py VERSION

A small network with random weights is packed, opened and run, and every command prints its help.
"""

import importlib.util
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import distribution
from pathlib import Path

import numpy as np

SIDE = 64
EXTRAS_ONLY = ("openvino", "sklearn", "lightning_fabric", "aiohttp", "cryptography", "pytest")


def main(version: str) -> None:
    """Raises AssertionError, or what a command says, where the installation does not do."""
    import prn_fast
    from prn_fast.engine.base import Detections  # noqa: F401  (the public result type)
    from prn_fast.linescan.core import LineRing
    from prn_fast.model.config import PRNConfig
    from prn_fast.package import Package, ValidationSet

    installed = distribution("prn-fast")
    assert (prn_fast.__version__, installed.version) == (version, version), (prn_fast.__version__, installed.version)
    site = Path(sysconfig.get_path("purelib"))
    assert Path(prn_fast.__file__).is_relative_to(site), f"{prn_fast.__file__} is not the installed package"
    brought = [name for name in EXTRAS_ONLY if importlib.util.find_spec(name)]
    assert not brought, f"{', '.join(brought)}: installed, although no extra was asked for"

    config = PRNConfig(
        backbone="efficientnet_lite0",
        image_size=SIDE,
        image_channels=1,
        prototypes=(2, 2, 2),
        attention_layers=1,
    )
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (4, SIDE, SIDE, 1), np.uint8)
    masks = np.zeros((4, SIDE, SIDE), bool)
    masks[2:, :8, :8] = True
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.prn"
        Package.create(
            path,
            prn_fast.PRN(config),
            calibration_images=images,
            validation=ValidationSet(images, np.array([0, 0, 1, 1]), masks),
            calibration={"threshold": 0.5, "pixel_threshold": 0.5},
            training={"data": "", "seen": [], "preset": "lite0", "seed": 0, "validation": {"image_auroc": 1.0}},
        )
        with prn_fast.open_engine(path) as engine:
            found = engine.infer(images)
        assert engine.name == "optimized", engine.name
        assert found.scores.shape == (4,), found.scores.shape
        assert found.maps.shape == (4, SIDE, SIDE), found.maps.shape
        run("prn-package", "verify", path)

    ring = LineRing(128, tile=SIDE, overlap=8, depth=2)
    ring.push(np.zeros((SIDE, 128), np.uint8))
    assert ring.pop() is not None

    for entry in installed.entry_points:
        run(entry.name, "--help")
    print(f"prn-fast {version}: installs and runs with its base dependencies alone")


def run(command: str, *arguments: object) -> None:
    """Run one of the installed commands; its exit code must be 0."""
    program = Path(sysconfig.get_path("scripts")) / command
    subprocess.run([program, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main(sys.argv[1])
