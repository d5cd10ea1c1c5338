"""Which part each image shows, as a user has named it: by a table, or by a pattern of names."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from prn_fast.data.samples import InspectionSet
from prn_fast.errors import ConfigError, DataError
from prn_fast.paths import composed, shown_path

# The message if nobody has named the parts and likeness cannot separate them.
UNTOLD = (
    "likeness cannot decide which images show the same part: there are few of them, or all parts look alike. Where "
    "several pictures show one part, name the parts with --parts"
)
_HEADING = ["image", "part"]
# What names of several pictures of one part look like: they differ in a last number, which may follow a word.
_NUMBERED = re.compile(r"([^/]+)[-_ .][A-Za-z]*\d+\.\w+$")
# Fewer groups of such names, or a larger one, are series of pictures, not parts.
_MIN_PARTS, _LARGEST_PART = 8, 1 / 8


class PartNames:
    """Names of parts.

    Attributes:
        text: what names them: the path of a table, or a pattern.
    """

    def __init__(self, text: str, table: Mapping[str, str] | None, pattern: re.Pattern[str] | None) -> None:
        self.text, self._table, self._pattern = text, table, pattern

    @classmethod
    def read(cls, text: str) -> Self:
        """From the path of a table, or else a pattern.

        A table is a CSV file of two columns, image and part (a heading of these names is passed over); an image is
        given by its path relative to the folder of the set, or by its name alone where no other image has it. A pattern
        is a regular expression with one group, which finds the part's name in an image's path relative to the folder.

        Raises:
            ConfigError: neither a file nor such a pattern. DataError: a table that cannot be used; its line is named.
        """
        path = Path(text)
        if path.is_file():
            return cls(str(path.resolve()), _read_table(path), None)
        try:
            pattern = re.compile(text)
        except re.error as error:
            raise ConfigError(f"--parts {text!r}: no such file, and no regular expression ({error})") from None
        if pattern.groups != 1:
            raise ConfigError(
                f"--parts {text!r}: no such file, and a pattern must have one group, the part's name, such as "
                r"'part(\d+)_'; this one has "
                f"{pattern.groups or 'none'}"
            )
        return cls(text, None, pattern)

    def of_name(self, name: str) -> str | None:
        """The part that an image shows, by its path relative to the set's folder; None if it is not named."""
        name = composed(name)
        if self._pattern is not None:
            found = self._pattern.search(name)
            return (found[1] or None) if found else None
        assert self._table is not None
        return self._table.get(name) or self._table.get(name.rpartition("/")[2])

    def of_set(self, inspection: InspectionSet) -> dict[Path, str]:
        """The part of each image of a set.

        Raises:
            DataError: an image whose part is not named, or a name in the table that two images have.
        """
        samples = (*inspection.train, *inspection.validation, *inspection.test, *inspection.anomalies)
        names = {sample.path: composed(shown_path(sample.path, inspection.root)) for sample in samples}
        if self._table is not None:
            _refuse_ambiguous(names.values(), self._table, self.text)
        parts = {path: part for path, name in names.items() if (part := self.of_name(name)) is not None}
        if missing := [path for path in names if path not in parts]:
            raise DataError(
                f"{missing[0]}: {self.text} does not say which part it shows"
                f"{f', nor of {len(missing) - 1} other images' if len(missing) > 1 else ''}; add it"
            )
        return parts


def numbered_names(inspection: InspectionSet) -> str | None:
    """A note, if the names of a set's images look like those of parts with several pictures each; None otherwise."""
    names = [sample.path.name for sample in inspection.train]
    others = [sample.path.name for sample in (*inspection.validation, *inspection.test, *inspection.anomalies)]
    found = [match[1] for name in names if (match := _NUMBERED.search(name))]
    pictures = Counter(found)
    if (
        len(found) < len(names)
        or not all(map(_NUMBERED.search, others))
        or len(pictures) < _MIN_PARTS
        or min(pictures.values()) < 2
        or max(pictures.values()) > _LARGEST_PART * len(names)
    ):
        return None
    return (
        f"by their names, such as {names[0]}, the {len(names)} normal images may be pictures of {len(pictures)} parts. "
        "If so, hold out whole parts, or thresholds promise too few false alarms for new ones: "
        f"--parts '{_NUMBERED.pattern}'"
    )


def _read_table(path: Path) -> dict[str, str]:
    table: dict[str, str] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for row in reader:
                row = [cell.strip() for cell in row]
                if not any(row) or (not table and [cell.lower() for cell in row] == _HEADING):
                    continue
                if len(row) != 2 or not all(row):
                    raise DataError(f"{path}, line {reader.line_num}: must hold an image and its part, not {row}")
                image = composed(row[0]).removeprefix("./")
                if table.setdefault(image, row[1]) != row[1]:
                    raise DataError(f"{path}, line {reader.line_num}: {image} shows {table[image]} by a line above")
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table of images and parts ({error})") from None
    if not table:
        raise DataError(f"{path}: names no image; each line holds an image and its part")
    return table


def _refuse_ambiguous(names: Iterable[str], table: Mapping[str, str], text: str) -> None:
    by_name: dict[str, str] = {}
    for name in names:
        short = name.rpartition("/")[2]
        if name in table or short not in table:
            continue
        if short in by_name:
            raise DataError(
                f"{text}: {short} may be {by_name[short]} or {name}; give paths relative to the set's folder"
            )
        by_name[short] = name
