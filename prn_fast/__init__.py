"""prn_fast: accelerated inference for Prototypical Residual Networks (PRN).

The names below load on first use, so that a process which only runs an engine never imports training code.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_HOME_OF = {
    "PRN": "prn_fast.model",
    "PRNConfig": "prn_fast.model",
    "load_prnet": "prn_fast.model",
    "Package": "prn_fast.package",
    "Detections": "prn_fast.engine",
    "Engine": "prn_fast.engine",
    "open_engine": "prn_fast.engine",
    "PRNError": "prn_fast.errors",
}
__all__ = [*_HOME_OF, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'prn_fast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
