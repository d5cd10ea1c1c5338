"""Sources of lines behind one interface; each camera library is imported only when its kind of source is opened.

A source is named KIND:WHERE?OPTION=VALUE&OPTION=VALUE, such as `aravis:Basler-22334455?line_rate=24000`. WHERE is taken
as it stands, without escapes; a question mark in the name of a file or folder that exists belongs to the name.
"""

import inspect
import os
from importlib import import_module
from typing import Any, get_type_hints
from urllib.parse import parse_qsl

from prn_fast.errors import ConfigError, printable
from prn_fast.linescan.sources.base import Block, Event, Gap, Source
from prn_fast.linescan.sources.options import check_options

SOURCES = {
    "aravis": "prn_fast.linescan.sources.aravis.AravisSource",
    "pylon": "prn_fast.linescan.sources.pylon.PylonSource",
    "gentl": "prn_fast.linescan.sources.gentl.GenTLSource",
    "dir": "prn_fast.linescan.sources.folder.FolderSource",
    "synthetic": "prn_fast.linescan.sources.synthetic.SyntheticSource",
}
_TRUTHS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def open_source(text: str) -> Source:
    """Open the source named by a text; its options are the keyword arguments of the source's class.

    Raises:
        ConfigError: unknown kind or option, or a value of the wrong type.
        LinescanError: the library is not installed, or there is no such camera.
        DataError: a folder without usable images.
    """
    kind, _, rest = text.partition(":")
    if kind not in SOURCES:
        kinds = ", ".join(SOURCES)
        raise ConfigError(f"source '{printable(text)}': unknown kind '{printable(kind)}'; choose one of {kinds}")
    where, query = _split(rest)
    module, name = SOURCES[kind].rsplit(".", 1)
    source = getattr(import_module(module), name)
    return source(where, **_options(text, source, query))


def _split(rest: str) -> tuple[str, str]:
    """The part before the options, and the options."""
    marks = [index for index, character in enumerate(rest) if character == "?"]
    for mark in (len(rest), *reversed(marks)):
        if os.path.exists(rest[:mark]):
            return rest[:mark], rest[mark + 1 :]
    where, _, query = rest.partition("?")
    return where, query


def _options(text: str, source: type[Source], query: str) -> dict[str, Any]:
    """Keyword arguments of a source's class, from the part of its name behind the question mark, checked."""
    name_of_source = f"source '{printable(text)}'"
    hints = get_type_hints(source.__init__)
    known = [name for name, one in inspect.signature(source).parameters.items() if one.kind is one.KEYWORD_ONLY]
    options: dict[str, Any] = {}
    try:
        given = parse_qsl(query, keep_blank_values=True, errors="strict")
    except ValueError:
        raise ConfigError(f"{name_of_source}: an option holds characters that are not UTF-8") from None
    for name, value in given:
        if name not in known:
            raise ConfigError(f"{name_of_source}: unknown option '{printable(name)}'; choose from {', '.join(known)}")
        if name in options:
            raise ConfigError(f"{name_of_source}: {name} is given more than once")
        wanted = hints[name]
        try:
            options[name] = _TRUTHS[value.lower()] if wanted is bool else wanted(value)
        except (ValueError, KeyError):
            raise ConfigError(
                f"{name_of_source}: {name} is '{printable(value)}'; give a value of type {wanted.__name__}"
            ) from None
    check_options(name_of_source, **options)
    return options


__all__ = ["SOURCES", "Block", "Event", "Gap", "Source", "open_source"]
