"""The network: one PRN for every backbone, image size and formulation of its operations."""

from importlib import import_module
from typing import Any

# Loaded on first use: the configuration must be readable where torch is not installed or not wanted.
_HOME_OF = {
    "PRN": "prn_fast.model.prn",
    "load_prnet": "prn_fast.model.prnet",
    "PRNConfig": "prn_fast.model.config",
    "PRESETS": "prn_fast.model.config",
    "preset": "prn_fast.model.config",
}
__all__ = [*_HOME_OF]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'prn_fast.model' has no attribute {name!r}")
