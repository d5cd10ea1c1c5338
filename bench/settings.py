"""What a bench measures, and for how long: these are the defaults of prn-bench, too."""

from dataclasses import dataclass

from prn_fast.model.config import TILE_OVERLAP

CLOSED_LOOPS = ("single-stream", "multi-stream")
OPEN_LOOPS = ("offline", "server", "line-camera")
SCENARIOS = CLOSED_LOOPS + OPEN_LOOPS
# Validation images that engines are checked on.
CHECK_IMAGES = 64


@dataclass(frozen=True)
class ClosedLoopSettings:
    """What closed loops measure.

    Attributes:
        batches: images in one call.
        seconds: for all timing together; checks come on top.
        seed: of the order of images and engines.
        defect_share: share (0..1) of the timed images that have a defect; None draws from all alike.
    """

    batches: tuple[int, ...] = (1, 8)
    seconds: float = 20.0
    seed: int = 0
    defect_share: float | None = 0.01


@dataclass(frozen=True)
class ScenarioSettings:
    """What to run beyond the closed loops.

    Attributes:
        names: of `OPEN_LOOPS`.
        batch: most images in one call, offline and server.
        p99_ms: the bound of the server scenario.
        camera_width, overlap: pixels, of the line camera and of neighbouring tiles.
    """

    names: tuple[str, ...] = ()
    batch: int = 8
    p99_ms: float = 100.0
    camera_width: int = 4096
    overlap: int = TILE_OVERLAP
