"""Defects as pictures."""

from pathlib import Path

from prn_fast.data.images import write_image
from prn_fast.files import reporting
from prn_fast.linescan.defects import Defect
from prn_fast.linescan.sinks.base import Sink, made_folder

# Hidden, so that who reads the folder as images does not take maps for pictures of the web.
MAPS = ".maps"


class CropSink(Sink):
    """A PNG of each defect with what is around it, and its anomaly map by the same name in the folder `.maps`.

    The inspector's setting `crops` must be on.

    Args:
        folder: made if needed; pictures there are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = made_folder(folder)

    @property
    def name(self) -> str:
        """See `Sink.name`."""
        return str(self._folder)

    def defect(self, defect: Defect) -> None:
        """See `Sink.defect`."""
        if defect.crop is None:
            return
        name = f"line{defect.first_line:012d}-x{defect.left:05d}-{defect.severity}"
        path = self._folder / f"{name}.png"
        again = 1
        while path.exists():
            again += 1
            path = self._folder / f"{name}-{again}.png"
        with reporting(path):
            if defect.crop_map is not None:
                maps = made_folder(self._folder / MAPS)
                write_image(maps / path.name, defect.crop_map)
            write_image(path, defect.crop)
