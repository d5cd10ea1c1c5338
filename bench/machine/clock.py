"""The clock that is measured with."""

from collections.abc import Callable

# Nanoseconds from any start.
Clock = Callable[[], int]
MILLISECOND = 1e6
