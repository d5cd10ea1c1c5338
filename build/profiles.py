"""The batch that an engine takes: one size, or a range from the smallest to the largest, tuned for one in between."""

from dataclasses import dataclass

from prn_fast.engine.base import MAX_BATCH
from prn_fast.errors import EngineError


@dataclass(frozen=True)
class BatchProfile:
    """Smallest, usual and largest number of images in one run."""

    smallest: int
    usual: int
    largest: int

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.usual <= self.largest <= MAX_BATCH:
            raise EngineError(
                f"batch {self}: write MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX <= {MAX_BATCH}, such as 1:8:32, or "
                "one number"
            )

    @classmethod
    def parse(cls, text: str) -> "BatchProfile":
        """Of "1:8:32", or of "8", which means that size alone."""
        try:
            numbers = [int(part) for part in text.split(":")]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 3):
            raise EngineError(f"batch {text!r}: write MIN:OPT:MAX, such as 1:8:32, or one number")
        return cls(*(numbers * 3 if len(numbers) == 1 else numbers))

    def __str__(self) -> str:
        return f"{self.smallest}:{self.usual}:{self.largest}"


DEFAULT_PROFILE = BatchProfile(1, 8, 32)
