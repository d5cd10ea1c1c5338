"""Folders as prn-eval, prn-score and prn-inspect write them, of small images with a dark spot."""

import json
from pathlib import Path

import cv2
import numpy as np

from prn_fast.data.images import write_image

HEIGHT, WIDTH = 120, 160
# The spots: left, top, width, height.
SPOTS = {"a/1.png": (40, 30, 30, 20), "a/2.png": (100, 60, 24, 24), "b/1.png": None, "b/2.png": None, "b/3.png": None}
SCORES = {"a/1.png": 0.4, "a/2.png": 0.9, "b/1.png": 0.7, "b/2.png": 0.1, "b/3.png": 0.2}


def draw(name: str, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Grey noise with the spot of that image."""
    image = np.random.default_rng(len(name)).integers(120, 150, (height, width, 1), dtype=np.uint8)
    if spot := SPOTS[name]:
        left, top, wide, high = spot
        image[top : top + high, left : left + wide] = 30
    return image


def write_images(folder: Path, **size: int) -> None:
    """The images."""
    for name in SPOTS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / name, draw(name, **size))


def write_predictions(folder: Path, images: Path, **run: object) -> None:
    """As prn-eval --images; the maps are right, at 64 x 64, but for the false alarm of b/1.png."""
    rows = []
    for name, score in SCORES.items():
        values = np.zeros((HEIGHT, WIDTH), np.float32)
        left, top, wide, high = SPOTS[name] or (60, 50, 20 if score > 0.5 else 0, 20)
        values[top : top + high, left : left + wide] = 0.9
        small = cv2.resize(values, (64, 64), interpolation=cv2.INTER_AREA)
        file = folder / "maps" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_image(file, np.rint(small * 255).astype(np.uint8))
        verdict = "defect" if score >= 0.3 else "good"
        rows.append({"path": name, "score": score, "verdict": verdict, "map": f"maps/{name}.png"})
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run.json").write_text(json.dumps({"images": str(images.resolve()), "pixel_threshold": 0.4} | run))
