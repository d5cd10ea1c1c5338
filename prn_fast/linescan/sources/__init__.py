"""Sources of lines behind one interface; each camera library is imported only when its kind of source is opened.

A source is named KIND:WHERE?OPTION=VALUE&OPTION=VALUE, such as `aravis:Basler-22334455?line_rate=24000`.
"""

import inspect
from importlib import import_module
from typing import Any, get_type_hints
from urllib.parse import parse_qsl

from prn_fast.errors import ConfigError
from prn_fast.linescan.sources.base import Block, Event, Gap, Source

SOURCES = {
    "aravis": "prn_fast.linescan.sources.aravis.AravisSource",
    "pylon": "prn_fast.linescan.sources.pylon.PylonSource",
    "gentl": "prn_fast.linescan.sources.gentl.GenTLSource",
    "dir": "prn_fast.linescan.sources.folder.FolderSource",
    "synthetic": "prn_fast.linescan.sources.synthetic.SyntheticSource",
}
_TRUTHS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def open_source(text: str) -> Source:
    """Open the source that a text names; its options are the keyword arguments of the source's class.

    Raises:
        ConfigError: unknown kind or option, or a value of the wrong type.
        LinescanError: the library is not installed, or there is no such camera.
        DataError: a folder without usable images.
    """
    kind, _, rest = text.partition(":")
    if kind not in SOURCES:
        raise ConfigError(f"source {text!r}: unknown kind {kind!r}; choose one of {', '.join(SOURCES)}")
    where, _, query = rest.partition("?")
    module, name = SOURCES[kind].rsplit(".", 1)
    source = getattr(import_module(module), name)
    return source(where, **_options(text, source, query))


def _options(text: str, source: type[Source], query: str) -> dict[str, Any]:
    """Keyword arguments of a source's class, from the part of its name behind the question mark."""
    hints = get_type_hints(source.__init__)
    known = [name for name, one in inspect.signature(source).parameters.items() if one.kind is one.KEYWORD_ONLY]
    options = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            raise ConfigError(f"source {text!r}: unknown option {name!r}; choose from {', '.join(known)}")
        wanted = hints[name]
        try:
            options[name] = _TRUTHS[value.lower()] if wanted is bool else wanted(value)
        except (ValueError, KeyError):
            raise ConfigError(f"source {text!r}: {name} is {value!r}; give a value of type {wanted.__name__}") from None
    return options


__all__ = ["SOURCES", "Block", "Event", "Gap", "Source", "open_source"]
