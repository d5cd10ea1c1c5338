"""Decisions about predictions: kept at once, undone one by one, and written as folders that other commands read.

    OUTPUT/
        decisions.jsonl                      every decision and every undo, in order
        masks/NUMBER.png                     what was painted for a decision
        train/good/NAME                      "good after all": copies of the images
        test/KIND/NAME                       "defect"
        ground_truth/KIND/STEM_mask.png

The log is what counts: the folders are made of it, and mended from it at each start. They are laid out as MVTec AD.
Images are copied; nothing is written where they came from. Files of others in the same folders are left alone.
"""

import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.data.images import read_image, write_image
from prn_fast.data.layouts.mvtec import MASK_ENDING
from prn_fast.data.masks import read_mask
from prn_fast.data.samples import GOOD
from prn_fast.errors import ConfigError, DataError, LinescanError, StorageError
from prn_fast.files import replacing, reporting
from prn_fast.linescan.sinks.record_file import FileInUse, RecordFile, read_records
from prn_fast.package import now
from prn_fast.paths import composed
from prn_fast.review.predictions import Predicted

LOG, MASKS = "decisions.jsonl", "masks"
DEFAULT_KIND = "defect"
_KIND = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
_LONGEST_STEM = 120  # characters, of which each may take four bytes of a name


class Mark(StrEnum):
    """What a person says of a prediction."""

    GOOD = "good"
    DEFECT = "defect"
    UNCLEAR = "unclear"


@dataclass(frozen=True)
class Decision:
    """One decision.

    Attributes:
        number: in the order of the log, from 1.
        name: of the image, as `Predicted.name`.
        mark: what was decided.
        kind: of the defect; empty for the other marks.
        file: name of the copy.
        time: UTC, ISO 8601.
    """

    number: int
    name: str
    mark: Mark
    kind: str
    file: str
    time: str

    @property
    def image(self) -> PurePosixPath | None:
        """Where the copy goes below the output; None for what is unclear."""
        if self.mark == Mark.GOOD:
            return PurePosixPath("train", GOOD, self.file)
        return PurePosixPath("test", self.kind, self.file) if self.mark == Mark.DEFECT else None

    @property
    def mask(self) -> PurePosixPath | None:
        """Where the mask goes below the output; None where there is none."""
        if self.mark != Mark.DEFECT:
            return None
        return PurePosixPath("ground_truth", self.kind, f"{PurePosixPath(self.file).stem}{MASK_ENDING}.png")

    @property
    def painted(self) -> PurePosixPath | None:
        """Where the mask is kept for as long as the decision may be undone or brought back."""
        return PurePosixPath(MASKS, f"{self.number:06d}.png") if self.mark == Mark.DEFECT else None


class Decisions:
    """The decisions of one output folder, which one process has at a time.

    Args:
        output: made if needed; what was decided there before is kept, and can be undone.
        items: what is decided about.
    Attributes:
        output: the folder.
        notes: for people.
    Raises:
        ConfigError: another prn-review has the folder open, or it lies among the images.
        DataError: the log is damaged.
    """

    def __init__(self, output: Path, items: Iterable[Predicted]) -> None:
        self.output = output
        self.notes: list[str] = []
        self._items = {one.name: one for one in items}
        self._refuse_sources()
        with reporting(output):
            output.mkdir(parents=True, exist_ok=True)
        try:
            self._log = RecordFile(output / LOG, own=True)
        except FileInUse:
            raise ConfigError(f"{output}: another prn-review works there; choose another output") from None
        try:
            self._replay()
            self._mend()
        except BaseException:
            self._log.close()
            raise

    def _refuse_sources(self) -> None:
        target = Path(os.path.realpath(self.output))
        for folder in {one.path.parent for one in self._items.values()}:
            source = Path(os.path.realpath(folder))
            if source.is_relative_to(target) or target == source:
                raise ConfigError(f"{self.output}: the images lie in it; choose another output")

    def _replay(self) -> None:
        self._stack: list[Decision] = []
        self._files: dict[str, str] = {}
        self._ever: list[Decision] = []
        try:
            records = read_records(self.output / LOG)
            for number, record in enumerate(records, 1):
                self._take(number, record)
        except (LinescanError, KeyError, ValueError, TypeError, IndexError) as error:
            raise DataError(f"{self.output / LOG}: is damaged ({error}); move it away or mend it") from None
        self._records = len(records)

    def _take(self, number: int, record: dict[str, Any]) -> None:
        if record["mark"] == "undo":
            self._stack.pop()
            return
        one = Decision(
            number, str(record["name"]), Mark(record["mark"]), record["kind"], record["file"], str(record["time"])
        )
        if PurePosixPath(one.file).name != one.file or (one.kind and not is_kind(one.kind)):
            raise ValueError(f"line {number} names no file or kind")
        self._stack.append(one)
        self._ever.append(one)
        self._files[one.name] = one.file

    # -- what was decided ---------------------------------------------------------------------------------------

    def of(self, name: str) -> Decision | None:
        """The decision about an image that holds; None where there is none."""
        return next((one for one in reversed(self._stack) if one.name == name), None)

    def current(self) -> dict[str, Decision]:
        """The decisions that hold, by the image's name."""
        return {one.name: one for one in self._stack}

    def counts(self) -> Counter[str]:
        """How many images have each mark."""
        return Counter(str(one.mark) for one in self.current().values())

    def mask_of(self, decision: Decision) -> NDArray[np.bool_] | None:
        """What was painted for a decision, bool (H, W); None for other marks than "defect"."""
        return None if decision.painted is None else read_mask(self.output / decision.painted)

    # -- deciding -----------------------------------------------------------------------------------------------

    def decide(self, name: str, mark: Mark, kind: str = "", mask: NDArray[np.bool_] | None = None) -> Decision:
        """Keep a decision, and write what follows of it.

        Args:
            name: of the image.
            mark: what it is.
            kind: of a defect, which becomes a folder's name.
            mask: of a defect, bool (H, W) of the image's size, with at least one pixel.
        Raises:
            DataError: the image cannot be read, or a defect has no mask.
            ConfigError: a name that is none of the predictions, or a kind that cannot be a folder's name.
            StorageError: it cannot be written; what was decided before holds.
        """
        item = self._items.get(name)
        if item is None:
            raise ConfigError(f"{name}: is none of these predictions")
        if mark == Mark.DEFECT:
            if not is_kind(kind):
                raise ConfigError(f"{kind!r} cannot name a kind of defect; use up to 40 letters, digits, - and _")
            if mask is None or not mask.any():
                raise DataError(f"{name}: mark where the defect is, with the brush or a box")
            if mask.all():
                raise DataError(f"{name}: the mask covers the whole image; mark the defect alone")
        if mark != Mark.UNCLEAR:
            shape = read_image(item.path, 1).shape[:2]
            if mark == Mark.DEFECT and mask is not None and mask.shape != shape:
                raise DataError(f"{name}: the mask has {mask.shape} pixels, the image {shape}")
        before = self.of(name)
        one = Decision(self._records + 1, name, mark, kind if mark == Mark.DEFECT else "", self._file_name(item), now())
        if one.painted is not None and mask is not None:
            self._write_image(self.output / one.painted, mask)
        self._log.write({name: value for name, value in asdict(one).items() if name != "number"})
        self._records += 1
        self._stack.append(one)
        self._ever.append(one)
        self._files[name] = one.file
        try:
            self._change(before, one)
        except StorageError:
            # Where even this cannot be written, the next start mends the folders.
            with suppress(StorageError):
                self.undo()
            raise
        return one

    def undo(self) -> str | None:
        """Take the last decision back; what was decided of the same image before holds again.

        Returns:
            the image's name; None where nothing is left to undo.
        """
        if not self._stack:
            return None
        last = self._stack[-1]
        self._log.write({"mark": "undo", "name": last.name, "time": now()})
        self._records += 1
        self._stack.pop()
        self._change(last, self.of(last.name))
        return last.name

    def close(self) -> None:
        """Let another process have the folder."""
        self._log.close()

    # -- the folders --------------------------------------------------------------------------------------------

    def _change(self, before: Decision | None, after: Decision | None) -> None:
        if before is not None:
            self._remove(before)
        if after is not None:
            self._export(after)

    def _export(self, one: Decision) -> None:
        if one.image is None:
            return
        item = self._items.get(one.name)
        target = self.output / one.image
        if one.mask is not None and one.painted is not None:
            self._copy(self.output / one.painted, self.output / one.mask)
        if item is not None:
            self._copy(item.path, target)

    def _copy(self, source: Path, target: Path) -> None:
        with reporting(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as partial:
                shutil.copyfile(source, partial)

    def _write_image(self, target: Path, image: NDArray[np.bool_]) -> None:
        with reporting(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as partial:
                write_image(partial, image)

    def _remove(self, one: Decision) -> None:
        for place in (one.image, one.mask):
            if place is None:
                continue
            file = self.output / place
            with reporting(file), suppress(FileNotFoundError, NotADirectoryError):
                file.unlink()
            with suppress(OSError):  # not empty
                file.parent.rmdir()

    def _mend(self) -> None:
        """Make the folders what the log says, wherever the last process was killed."""
        current = self.current()
        wanted = {place for one in current.values() for place in (one.image, one.mask)}
        for one in self._ever:
            if one.image not in wanted:
                self._remove(one)
        missing = 0
        for one in current.values():
            places = [place for place in (one.image, one.mask) if place is not None]
            if all((self.output / place).is_file() for place in places):
                continue
            if one.name in self._items:
                self._export(one)
            else:
                missing += 1
        if missing:
            self.notes.append(
                f"{missing} decisions concern images that are not among these predictions, and whose copies are gone"
            )

    def _file_name(self, item: Predicted) -> str:
        """A name for the copy whose stem no other file in the folders has."""
        if item.name in self._files:
            return self._files[item.name]
        plain = PurePosixPath(item.name)
        flat = "__".join(part for part in plain.with_suffix("").parts if part not in ("/", ".."))
        suffix = item.path.suffix
        taken = {_comparable(PurePosixPath(file).stem) for file in self._files.values()}
        for folder in ("train", "test"):
            taken |= {_comparable(path.stem) for path in (self.output / folder).glob("*/*")}
        stem = flat[:_LONGEST_STEM]
        digest = hashlib.sha256(item.name.encode("utf-8", "surrogatepass")).hexdigest()
        # As the layout reads it, an image whose own name ends like a mask's would be taken apart.
        for candidate in (stem, f"{stem}-{digest[:8]}", f"{stem}-{digest}"):
            if _comparable(candidate) not in taken and not candidate.endswith(MASK_ENDING):
                return f"{candidate}{suffix}"
        raise DataError(f"{item.name}: its copy finds no free name in {self.output}; choose another output")


def is_kind(text: str) -> bool:
    """Whether a text can be a kind of defect, which is a folder's name."""
    return bool(_KIND.fullmatch(text)) and text.lower() != GOOD


def _comparable(stem: str) -> str:
    """As a file system may compare names that ignores case."""
    return composed(stem).casefold()
