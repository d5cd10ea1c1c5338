"""The default for the side that images are resized to, from the sizes of the seen defects and of the images.

A defect is found where it covers some places of the backbone's maps; one that shrinks to a few pixels is lost, however
well the network is trained. Work and memory grow with the square of the side, and no side shows more than the images
hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prn_fast.data.images import image_size
from prn_fast.data.samples import InspectionSet, Sample, load_sample
from prn_fast.errors import ConfigError

SIZES = (256, 320, 384, 512)
# One place of the map at stride 8.
WANTED_PIXELS = 64
# Share of the seen defects that may be smaller: one odd mask should not make every image four times the work.
SMALLER_SHARE = 0.25
# Headers to read; more add nothing.
MAX_IMAGES = 50


@dataclass(frozen=True)
class ProposedSize:
    """A side, and why.

    Attributes:
        side: one of `SIZES`.
        image_side: median of the shorter sides of the training images, pixels.
        defect_pixels: what the smaller seen defects cover at that side, a quarter of them less; None if none are seen.
    """

    side: int
    image_side: float
    defect_pixels: float | None

    @property
    def cost(self) -> float:
        """Work of an image, as a multiple of that at the smallest side."""
        return (self.side / SIZES[0]) ** 2

    def __str__(self) -> str:
        defects = (
            "no defects are seen"
            if self.defect_pixels is None
            else (f"a quarter of the seen defects cover {self.defect_pixels:.0f} pixels or fewer then")
        )
        return (
            f"image size {self.side} px chosen: the images' shorter side is {self.image_side:.0f} px, {defects}; "
            f"{self.cost:.1f} times the work of {SIZES[0]} px; --image-size sets another"
        )


def propose_size(inspection: InspectionSet, seen: Sequence[Sample]) -> ProposedSize:
    """The smallest side at which the seen defects are large enough, no larger than the images make sensible.

    Args:
        inspection: whose training images are looked at.
        seen: anomalies with masks that training may see.
    Raises:
        DataError: an unreadable image or mask.
    """
    paths = [sample.path for sample in inspection.train]
    chosen = [paths[index] for index in np.unique(np.linspace(0, len(paths) - 1, MAX_IMAGES).round().astype(int))]
    image_side = float(np.median([min(image_size(path)) for path in chosen]))
    # The first side that does not shrink the images is the last that shows more of them.
    useful = [side for side in SIZES if side <= image_side]
    useful += [side for side in SIZES if side > image_side][: 0 if image_side in SIZES else 1]
    masks = [mask for sample in seen if (mask := load_sample(sample, channels=1)[1]) is not None]
    if not masks:
        return ProposedSize(SIZES[0], image_side, None)
    share = float(np.quantile([mask.mean() for mask in masks], SMALLER_SHARE))
    side = next((side for side in useful if share * side**2 >= WANTED_PIXELS), max(useful))
    return ProposedSize(side, image_side, share * side**2)


def parse_size(text: str) -> int | None:
    """A side as the command line has it; None for "auto". Errors: ConfigError for anything else."""
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f'--image-size must be a number of pixels or "auto", not {text!r}') from None
