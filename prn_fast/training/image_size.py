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
from prn_fast.training.settings import SIZES

# One place of the map at stride 16, the coarsest whose features are compared with those of normal images one by one.
WANTED_PIXELS = 256
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
        defect_share: what the smaller seen defects cover of an image, a quarter of them less; None if none are seen.
    """

    side: int
    image_side: float
    defect_share: float | None

    def pixels(self, side: int) -> float:
        """What such a defect covers at a side."""
        return (self.defect_share or 0.0) * side**2

    @property
    def cost(self) -> float:
        """Work of an image, as a multiple of that at the smallest side."""
        return (self.side / SIZES[0]) ** 2

    def __str__(self) -> str:
        why = f"the images' shorter side is {self.image_side:.0f} px"
        if self.defect_share is None:
            why += ", and no defects are seen"
        else:
            smaller = (
                f"a quarter of the seen defects cover {self.pixels(SIZES[0]):.0f} pixels or fewer at {SIZES[0]} px"
            )
            why += f", {smaller}, and {WANTED_PIXELS} are wanted"
            if self.side != SIZES[0]:
                why += f"; at {self.side} px they are {self.pixels(self.side):.0f}"
        cost = "" if self.side == SIZES[0] else f"; {self.cost:.1f} times the work of {SIZES[0]} px"
        return f"image size {self.side} px chosen: {why}{cost}; --image-size N sets another"


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
    return ProposedSize(side, image_side, share)


def parse_size(text: str) -> int | None:
    """A side as the command line has it; None for "auto". Errors: ConfigError for anything else."""
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f'--image-size must be a number of pixels or "auto", not {text!r}') from None
