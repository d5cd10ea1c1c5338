"""Names of engines: BACKEND:PRECISION, and after a slash the way to run it where not all images run whole."""

from typing import Any

EARLY, SCREEN = "early", "screen"
# What `open_engine` is given for each way.
WAYS: dict[str, dict[str, Any]] = {EARLY: {"early_exit": True}, SCREEN: {"screen_only": True}}


def with_way(name: str, way: str) -> str:
    """ "openvino:int8/early" of "openvino:int8" and "early"; without a way, the name as it is."""
    return f"{name}/{way}" if way else name


def split_way(name: str) -> tuple[str, str]:
    """The name without its way, and the way; "" for an engine that runs all images whole."""
    plain, _, way = name.partition("/")
    return plain, way
