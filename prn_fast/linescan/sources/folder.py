"""Recorded images played as if they came from a camera."""

import time
from collections.abc import Iterator
from pathlib import Path

from prn_fast.data.folders import find_images, summary
from prn_fast.data.images import read_image, stored_channels
from prn_fast.data.pages import read_pages
from prn_fast.errors import ConfigError, DataError
from prn_fast.linescan.sources.base import Block, Event, Source
from prn_fast.linescan.sources.options import BLOCK_LINES
from prn_fast.paths import natural_order, shown_path


class FolderSource(Source):
    """The images of a folder in the natural order of their names (2 before 10), joined to one web.

    All pages of a TIFF are played, one after the other.

    Args:
        where: the folder.
        lines: lines in a block.
        line_rate: lines per second; 0 plays as fast as the lines are inspected.
        repeat: how many times to play all of them; 0 never ends.
    """

    def __init__(self, where: str, *, lines: int = BLOCK_LINES, line_rate: float = 0.0, repeat: int = 1) -> None:
        if not where:
            raise ConfigError("source 'dir:': name the folder, such as dir:recordings/today")
        listing = find_images(where, below=False)
        self._images = sorted(listing.images, key=natural_order)
        self._channels = max(map(stored_channels, self._images))
        self._repeat = repeat
        width = read_image(self._images[0], self._channels).shape[1]
        super().__init__(
            f"dir:{shown_path(where)}", width, "Mono8" if self._channels == 1 else "RGB8", lines, line_rate or None
        )
        self.live = bool(line_rate)
        if listing.passed_over:
            self.notes = (f"{self.name}: {summary(listing.passed_over, Path(where))}",)

    def events(self) -> Iterator[Event]:
        """See `Source.events`; a DataError names an image that is damaged or of another width."""
        line, start, played = 0, time.monotonic_ns(), 0
        while not self._repeat or played < self._repeat:
            for path in self._images:
                for image in read_pages(path, self._channels):
                    if image.shape[1] != self.width:
                        raise DataError(
                            f"{path}: is {image.shape[1]} pixels wide, the first image of the folder {self.width}; "
                            "a web has one width"
                        )
                    for top in range(0, len(image), self.lines):
                        rows = image[top : top + self.lines]
                        due = time.monotonic_ns()
                        if self.line_rate:
                            due = start + int((line + len(rows)) / self.line_rate * 1e9)
                        if not self.wait_until(due):
                            return
                        yield Block(rows[:, :, 0] if self._channels == 1 else rows, line, due)
                        line += len(rows)
            played += 1
