"""Training on a GPU for some minutes, and the result in the fused engine, by the commands that users run."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from prn_fast.bench.gpu.steps import Row
from prn_fast.model.config import PRNConfig

# Set by gpu_run.sh where the kit is: pretrained weights of the backbone. Without it they are downloaded.
WEIGHTS_VARIABLE = "PRN_FAST_BACKBONE_WEIGHTS"
# On a GPU; the kit's kernels are for it.
TRAINING_BATCH = 48
NEEDED = ("cv2", "kornia", "lightning_fabric", "PIL", "rich", "safetensors", "scipy", "sklearn")


def train_and_evaluate(device: torch.device, data: Path | None, minutes: float | None, folder: Path) -> Iterator[Row]:
    """A row on the training, and one on the evaluation; or one that says what keeps it from being done.

    Args:
        data: images of one product.
        minutes: of training; None is one epoch.
        folder: where evaluation.json is written.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if data is None:
        yield {"skipped": "there are no images to train on: `make gpu-kit DATA=DIR`, or --data DIR"}
        return
    if missing:
        yield {"skipped": f"packages for training are missing: {', '.join(missing)}"}
        return
    on_gpu = device.type == "cuda"
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch, "trained.prn")
        weights = os.environ.get(WEIGHTS_VARIABLE)
        run_command(
            "train",
            [
                *("--data", str(data), "--output", str(package), "--preset", "r18", "--recipe", "quick", "--no-screen"),
                *(["--epochs", "1"] if minutes is None else ["--minutes", str(minutes)]),
                *("--batch", str(TRAINING_BATCH if on_gpu else 8)),
                # By default the images decide, and the kit's kernels are for this size.
                *("--image-size", str(PRNConfig().image_size if on_gpu else 64)),
                *(["--backbone-weights", weights] if weights else []),
            ],
        )
        trained = json.loads((package / "manifest.json").read_text(encoding="utf-8"))["training"]
        rate = trained["steps"] * trained["recipe"]["batch"] / (60 * trained["minutes"])
        kept = ("minutes", "epochs", "steps", "precision", "device", "validation", "selected_epoch")
        yield {"name": "prn-train", "images_per_second": rate, **{name: trained[name] for name in kept}}
        figures = folder.resolve() / "evaluation.json"
        engine = "fused:fp16" if on_gpu else "optimized"
        run_command(
            "evaluate",
            [str(package), "--engine", engine, "--output", f"{scratch}/evaluation", "--json", str(figures)],
        )
        found = json.loads(figures.read_text(encoding="utf-8"))
        yield {"name": "prn-eval", "engine": engine, "image": found["image"], "pixel": found["pixel"]}


def run_command(name: str, arguments: Sequence[str]) -> None:
    """Run a command of `prn_fast.cli` in a process of its own; what it prints goes to the log."""
    code = f"from prn_fast.cli.{name} import main; raise SystemExit(main())"
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=False)
    if done.returncode:
        raise RuntimeError(f"prn_fast.cli.{name} ended with {done.returncode}; see log.txt")
