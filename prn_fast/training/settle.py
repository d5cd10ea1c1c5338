"""What settings leave open, decided by the data: the side of the images, and how many defects training sees."""

import dataclasses

from prn_fast.data.samples import InspectionSet, draw_seen
from prn_fast.training.image_size import propose_size
from prn_fast.training.settings import DEFAULT_SEEN, SIZES, TrainingSettings


def settle(settings: TrainingSettings, inspection: InspectionSet) -> tuple[TrainingSettings, list[str]]:
    """Settings that leave neither side nor seen anomalies open, and a line for people about each choice of note.

    Raises:
        DataError: more anomalies are asked for than there are; an unreadable image or mask.
    """
    lines = []
    seen = settings.seen
    anomalies = sum(sample.label for sample in inspection.anomalies or inspection.test)
    if seen is None:
        # The others are left to test with. Anomalies of a training side are not scored, so that all may be seen.
        seen = DEFAULT_SEEN if anomalies >= DEFAULT_SEEN else anomalies if inspection.anomalies else anomalies // 2
        if seen < DEFAULT_SEEN:
            lines.append(
                f"{_counted(anomalies)} found: training sees {seen} of them, not {DEFAULT_SEEN}; "
                "--seen N sets another number"
            )
    side = settings.image_size
    if side is None and settings.tiles:
        side = SIZES[0]
    elif side is None:
        drawn, _ = draw_seen(inspection.anomalies or inspection.test, seen, settings.seed)
        proposed = propose_size(inspection, drawn)
        side = proposed.side
        lines.append(str(proposed))
    return dataclasses.replace(settings, seen=seen, image_size=side), lines


def _counted(anomalies: int) -> str:
    return {0: "no defect was", 1: "1 defect was"}.get(anomalies, f"{anomalies} defects were")
