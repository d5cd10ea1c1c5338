"""The native core, or one clear error where the package was installed without a C++ compiler."""

from prn_fast.errors import LinescanError

try:
    from prn_fast.linescan._native import (
        ABI_VERSION,
        DROP_REASONS,
        MISSING_REASONS,
        PIXEL_FORMATS,
        Ledger,
        LineRing,
        Strip,
        Tiler,
        pixel_format_name,
        row_bytes,
    )
except ModuleNotFoundError as error:
    raise LinescanError(
        "the native line ring is not installed: it is compiled when prn-fast is; "
        "install a C++17 compiler (Debian: apt-get install g++) and run pip install prn-fast again"
    ) from error

__all__ = [
    "ABI_VERSION",
    "DROP_REASONS",
    "MISSING_REASONS",
    "PIXEL_FORMATS",
    "Ledger",
    "LineRing",
    "Strip",
    "Tiler",
    "pixel_format_name",
    "row_bytes",
]
