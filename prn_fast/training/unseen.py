"""Test images that may be scored: those of parts that training has not seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prn_fast.data.duplicates import Fingerprint, fingerprints, near_duplicates, tells_parts_apart
from prn_fast.data.parts import PartNames
from prn_fast.data.samples import InspectionSet, Sample
from prn_fast.errors import DataError, PackageError
from prn_fast.paths import composed, shown_path


@dataclass(frozen=True)
class TestImages:
    """The test images of a set, divided by what training has seen.

    Attributes:
        scored: neither seen nor of a part with a seen anomaly.
        seen: anomalies that training has seen.
        same_part: other anomalous images of the parts that these show.
        unseen_parts: those normal images of `scored` whose part no training image shows; None if that is unknown.
        told_by: how parts are recognised: "names" that a user gave, "likeness", or only "copies" of files, where
            likeness means nothing.
    """

    # Not a class of tests, though its name begins like one.
    __test__ = False

    scored: tuple[Sample, ...]
    seen: tuple[Sample, ...]
    same_part: tuple[Sample, ...]
    unseen_parts: tuple[Sample, ...] | None
    told_by: Literal["names", "likeness", "copies"]


def part_test_images(inspection: InspectionSet, training: Mapping[str, Any], parts: PartNames | None) -> TestImages:
    """Divide the test images of a set by what a package's training has seen.

    Args:
        inspection: the set, of the package's product.
        training: of the package's manifest: `seen`, and where it has them `seen_fingerprints` and `seen_parts`.
        parts: of the images, as a user has named them; None recognises them by likeness, where that is possible.
    Raises:
        DataError: an unreadable image, or a part that is not named.
    """
    # Where a set has anomalies of its own for training, those that were seen are not among the test images.
    rest, seen = leave_out_seen((*inspection.test, *inspection.anomalies), inspection.root, training["seen"])
    rest = tuple(sample for sample in rest if sample not in inspection.anomalies)
    kept = training.get("seen_fingerprints")
    known = fingerprints(seen) if kept is None else [Fingerprint.from_dict(values) for values in kept]
    defects, good = (tuple(sample for sample in rest if sample.label == label) for label in (1, 0))
    if parts is not None:
        part_of = parts.of_set(inspection)
        seen_parts = _seen_parts(training, parts)
        copies = near_duplicates(defects, known, copies_only=True)
        same = [one for one, copy in zip(defects, copies, strict=True) if copy or part_of[one.path] in seen_parts]
        trained = {part_of[sample.path] for sample in inspection.train}
        unseen_parts = tuple(sample for sample in good if part_of[sample.path] not in trained)
        return _parted(rest, seen, same, unseen_parts, "names")
    normals, good_prints = fingerprints(inspection.train), fingerprints(good)
    told = tells_parts_apart([*normals, *good_prints])
    duplicates = near_duplicates(defects, known, others=good_prints, copies_only=not told)
    same = [one for one, duplicate in zip(defects, duplicates, strict=True) if duplicate]
    if not told:
        return _parted(rest, seen, same, None, "copies")
    familiar = near_duplicates(good_prints, normals)
    unseen_parts = tuple(one for one, known_part in zip(good, familiar, strict=True) if not known_part)
    return _parted(rest, seen, same, unseen_parts, "likeness")


def leave_out_seen(
    samples: Sequence[Sample], root: Path, seen: Sequence[str]
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Separate samples that training has seen from those that may be scored.

    Args:
        samples: test samples below `root`.
        root: root folder of the inspection set.
        seen: paths relative to `root`, with forward slashes, as the package's manifest lists them.
    Returns:
        (rest, left_out), each in the order of `samples`.
    """
    # A copy of the set may keep its names in another composition of Unicode.
    names = set(map(composed, seen))
    is_seen = [composed(shown_path(sample.path, root)) in names for sample in samples]
    rest, left_out = (
        tuple(sample for sample, one in zip(samples, is_seen, strict=True) if one == wanted) for wanted in (False, True)
    )
    return rest, left_out


def _parted(
    rest: Sequence[Sample],
    seen: tuple[Sample, ...],
    same_part: Sequence[Sample],
    unseen_parts: tuple[Sample, ...] | None,
    told_by: Literal["names", "likeness", "copies"],
) -> TestImages:
    left_out = set(same_part)
    scored = tuple(sample for sample in rest if sample not in left_out)
    return TestImages(scored, seen, tuple(same_part), unseen_parts, told_by)


def _seen_parts(training: Mapping[str, Any], parts: PartNames) -> set[str]:
    """Parts by the names given now, or for a seen anomaly that these lack, by the names that training was given."""
    found: set[str] = set()
    recorded = training.get("seen_parts") or [None] * len(training["seen"])
    if len(recorded) != len(training["seen"]):
        raise PackageError(
            f"manifest.json: training.seen names {len(training['seen'])} anomalies, training.seen_parts the parts "
            f"of {len(recorded)}; copy the package again from its source"
        )
    for name, then in zip(training["seen"], recorded, strict=True):
        part = parts.of_name(name) or then
        if part is None:
            raise DataError(f"{parts.text}: does not say which part {name} shows, an anomaly that training has seen")
        found.add(part)
    return found
