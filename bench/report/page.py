"""One self-contained HTML page from sections: style, pictures and plots are inside, nothing is loaded from a network.

Sections come from `sections.bench_sections`, `image_section`, or anywhere else as a title and HTML.
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from prn_fast.errors import DataError

_MEDIA_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg"}


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading.

    Attributes:
        title: plain text.
        html: markup, put into the page as it is; `render` makes it from a template with all values escaped.
    """

    title: str
    html: str

    @property
    def anchor(self) -> str:
        """The section's id on the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") or "section"


def render_page(title: str, sections: Sequence[Section], subtitle: str = "") -> str:
    """The whole page: light or dark as the reader's system asks, readable on a phone and on paper.

    Args:
        title, subtitle: plain text.
        sections: in the order of the page.
    """
    return render("page.html", title=title, subtitle=subtitle, sections=sections)


def image_section(title: str, images: Sequence[tuple[bytes | Path, str]], text: str = "") -> Section:
    """A section of pictures, embedded in the page.

    Args:
        images: PNG or JPEG, as bytes or as a path, each with a caption that says what is to be seen.
        text: a plain paragraph above them.
    Errors: DataError for a file that cannot be read or is neither PNG nor JPEG.
    """
    pictures = [(data_uri(image), caption) for image, caption in images]
    return Section(title, render("images.html", text=text, pictures=pictures))


def table_section(
    title: str,
    columns: Sequence[str] = (),
    rows: Sequence[tuple[int | None, Sequence[object]]] = (),
    *,
    text: str = "",
    plots: Sequence[tuple[str, Markup]] = (),
    texts: int = 1,
) -> Section:
    """A section of a paragraph, wide plots and a table, each of which may be missing.

    Args:
        columns: headings.
        rows: the number of the engine's colour, None for none, and a cell for each column.
        text: plain.
        plots: each with its caption.
        texts: number of columns, from the left, that hold words; the others hold figures.
    """
    return Section(title, render("table.html", text=text, plots=plots, columns=columns, rows=rows, texts=texts))


def data_uri(image: bytes | Path) -> str:
    """A picture as a data URI."""
    if isinstance(image, Path):
        try:
            content, name = image.read_bytes(), str(image)
        except OSError as error:
            raise DataError(f"{image}: cannot be read: {error.strerror}") from None
    else:
        content, name = image, "picture"
    for magic, media_type in _MEDIA_TYPES.items():
        if content.startswith(magic):
            return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
    raise DataError(f"{name}: is neither PNG nor JPEG")


def render(template: str, **values: Any) -> str:
    """A template of this folder, all values escaped except those that are markup already."""
    return _environment().get_template(template).render(**values)


def _environment() -> Environment:
    from prn_fast.bench.report import formatting

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": formatting.number,
        "interval": formatting.interval_text,
        "signed": formatting.signed,
        "memory": formatting.describe_memory,
    }
    return environment
