"""How many bytes an operation has to move, for GB/s in the benchmark and to compare formulations.

A model, not a measurement: each tensor counts once for each kernel that reads or writes it, as if no cache kept it
between kernels and a perfect cache kept it inside one.
"""

from dataclasses import dataclass

FLOAT_BYTES = 4  # of a float32 value


@dataclass(frozen=True)
class BytesMoved:
    """Bytes read from and written to device memory."""

    read: int
    written: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.read + self.written
