"""Samples of an inspection set: what they are, how they are drawn and split, and their pixels in memory."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from prn_fast.data.folders import PassedOver
from prn_fast.data.images import holds_colour, read_image, resize_image, resize_mask, stored_channels
from prn_fast.data.masks import read_mask
from prn_fast.errors import DataError

GOOD = "good"


@dataclass(frozen=True)
class Sample:
    """One image file.

    Attributes:
        path: the image.
        label: 0 normal, 1 anomalous.
        kind: "good" or the kind of defect, such as "crack".
        mask: the defect's mask; None for a normal image.
    """

    path: Path
    label: int
    kind: str
    mask: Path | None = None


@dataclass(frozen=True)
class InspectionSet:
    """The images of one product below one root folder, split as its publisher or its plant has split them.

    Attributes:
        root: the folder.
        train: normal images to train on.
        test: normal and anomalous images to score.
        validation: normal images held out for validation; empty where the layout has none, and some of `train` serve.
        anomalies: anomalous images of the training side; empty where the layout has none, and seen ones are drawn
            from `test`.
        companions: files that add nothing to the images, such as the empty masks of normal ones.
        passed_over: what else lies in the folder.
    """

    root: Path
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    validation: tuple[Sample, ...] = ()
    anomalies: tuple[Sample, ...] = ()
    companions: tuple[Path, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()


def choose_channels(inspection: InspectionSet) -> tuple[int, str]:
    """How to read the images of a set: as RGB if any of them holds colour, otherwise as grey.

    Returns:
        (channels, note): 1 or 3, and a sentence for people if some files are not read as they are stored; else "".
    Raises:
        DataError: an unreadable file.
    """
    samples = (*inspection.train, *inspection.validation, *inspection.anomalies, *inspection.test)
    paths = [sample.path for sample in samples]
    channels = dict(zip(paths, map(stored_channels, paths), strict=True))
    grey = [path for path in paths if channels[path] == 1]
    coloured = _first_in_colour([path for path in paths if channels[path] == 3])
    if coloured is None:
        stored = f"{len(paths) - len(grey)} of {len(paths)} images are stored as colour but hold grey values only"
        return 1, f"{stored}; all are read as grey" if len(grey) < len(paths) else ""
    if not grey:
        return 3, ""
    examples = f"such as {grey[0]}; others are in colour, such as {coloured}"
    return 3, f"{len(grey)} of {len(paths)} images store grey values, {examples}; all are read as RGB"


def _first_in_colour(paths: Sequence[Path]) -> Path | None:
    with ThreadPoolExecutor() as pool:
        looks = pool.map(holds_colour, paths)
        first = next((path for path, colour in zip(paths, looks, strict=True) if colour), None)
        pool.shutdown(cancel_futures=True)  # in a set in colour, the first image is enough
    return first


def draw_seen(test: Sequence[Sample], count: int, seed: int) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Draw the anomalies that training may see.

    Kinds of defect take turns, in an order drawn by the seed, so that every kind is seen before one is seen twice.

    Args:
        test: test samples, normal and anomalous.
        count: anomalies to draw; 0 draws none.
        seed: same seed and samples, same draw.
    Returns:
        (seen, rest): the drawn anomalies, and all other test samples: only these may be scored.
    Raises:
        DataError: count is negative or larger than the number of anomalies.
    """
    rng = np.random.default_rng(seed)
    by_kind: dict[str, list[Sample]] = {}
    for sample in test:
        if sample.label:
            by_kind.setdefault(sample.kind, []).append(sample)
    available = sum(map(len, by_kind.values()))
    if not 0 <= count <= available:
        raise DataError(
            f"cannot draw {count} seen anomalies: there are {available}; give --seen N, and leave some to test with"
        )

    kinds = sorted(by_kind)
    rng.shuffle(kinds)
    for kind in kinds:
        rng.shuffle(by_kind[kind])
    seen: list[Sample] = []
    while len(seen) < count:
        for kind in kinds:
            if by_kind[kind] and len(seen) < count:
                seen.append(by_kind[kind].pop())
    drawn = {sample.path for sample in seen}
    return tuple(seen), tuple(sample for sample in test if sample.path not in drawn)


def draw_normals(train: Sequence[Sample], most: int | None, seed: int) -> tuple[Sample, ...]:
    """No more than so many of the training normals, drawn by the seed, in their order; all of them for None.

    Draws of the same seed are nested: the fewer are among the more.
    """
    if most is None or most >= len(train):
        return tuple(train)
    chosen = np.random.default_rng(seed).permutation(len(train))[:most]
    return tuple(train[index] for index in np.sort(chosen))


def split_validation(
    train: Sequence[Sample], fraction: float, seed: int, parts: Sequence[int] | None = None
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Hold out a share of the training normals, at least one, for model selection and calibration.

    Args:
        train: N training normals, at least two.
        fraction: share to hold out, above 0 and below 1.
        seed: same seed and samples, same split.
        parts: the number of the part that each image shows: images of one part stay together, so that held-out images
            are new to the network, and the share comes as near as parts allow from below. None: each image shows
            another part.
    Returns:
        (fit, held_out), each in the order of `train`.
    Raises:
        DataError: fewer than two normals, or a fraction outside its range; all of them show one part.
    """
    if not 0 < fraction < 1:
        raise DataError(f"validation fraction {fraction} is not between 0 and 1")
    if len(train) < 2:
        raise DataError(f"{len(train)} training image(s): at least two are needed, to train on and to validate with")
    count = min(max(1, round(fraction * len(train))), len(train) - 1)
    members: dict[int, list[int]] = {}
    for index, part in enumerate(range(len(train)) if parts is None else parts):
        members.setdefault(part, []).append(index)
    if len(members) < 2:
        raise DataError(f"all {len(train)} training images show one part: another is needed to validate with")
    chosen: set[int] = set()
    drawn = [list(members.values())[index] for index in np.random.default_rng(seed).permutation(len(members))]
    for indices in drawn:
        if len(chosen) + len(indices) <= count:
            chosen.update(indices)
    if not chosen:
        smallest = min(drawn, key=len)
        chosen.update(smallest)
    fit = tuple(sample for i, sample in enumerate(train) if i not in chosen)
    return fit, tuple(train[i] for i in sorted(chosen))


def load_samples(
    samples: Sequence[Sample], side: int, channels: int, progress: str | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Read samples, resized to squares.

    Args:
        samples: N samples.
        side: S, side of the result in pixels.
        channels: 1 (grey) or 3 (RGB).
        progress: text beside a progress bar; None shows no bar.
    Returns:
        images uint8 (N, S, S, channels) and masks bool (N, S, S), False throughout for normal images.
    Raises:
        DataError: an unreadable file, a mask of another size than its image, or a mask that marks nothing.
    """
    images = np.empty((len(samples), side, side, channels), np.uint8)
    masks = np.zeros((len(samples), side, side), bool)

    def load(index: int) -> None:
        image, mask = load_sample(samples[index], channels)
        images[index] = resize_image(image, side)
        if mask is not None:
            masks[index] = resize_mask(mask, side)

    with ThreadPoolExecutor() as pool:
        loaded = pool.map(load, range(len(samples)))
        for _ in track(loaded, progress or "", total=len(samples), disable=progress is None, transient=True):
            pass
    return images, masks


def load_sample(sample: Sample, channels: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
    """Read one sample at its full size: image uint8 (H, W, channels), and mask bool (H, W) or None.

    Raises:
        DataError: as for `load_samples`.
    """
    image = read_image(sample.path, channels)
    if sample.mask is None:
        return image, None
    mask = read_mask(sample.mask)
    if mask.shape != image.shape[:2]:
        raise size_mismatch(sample.path, image.shape[:2], sample.mask, mask.shape)
    if not mask.any():
        raise DataError(f"{sample.mask}: marks no pixel; mark the defect, or move {sample.path} to the good images")
    return image, mask


def size_mismatch(image: Path, image_shape: tuple[int, ...], mask: Path, mask_shape: tuple[int, ...]) -> DataError:
    """The error for a mask whose (height, width) is not its image's."""
    return DataError(
        f"{mask}: mask is {mask_shape[1]}x{mask_shape[0]} pixels but its image {image} is "
        f"{image_shape[1]}x{image_shape[0]}; save the mask at the size of the image"
    )
