"""prn-inspect: inspect what a line camera sees, live."""

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live

from prn_fast.cli.common import command
from prn_fast.errors import ConfigError

if TYPE_CHECKING:
    from prn_fast.linescan.inspection import Inspection
    from prn_fast.linescan.inspector import Settings
    from prn_fast.linescan.sinks import Sink

DESCRIPTION = """Inspect a web as its lines arrive: every line is inspected, missing or dropped, and counted.

Sources, with their options behind a question mark (`aravis:NAME?width=4096&line_rate=24000`):
  aravis:[NAME or ADDRESS]   GigE Vision and USB3 Vision cameras
  pylon:[SERIAL NUMBER]      Basler cameras
  gentl:[FILE.cti]           any camera with a GenTL producer
  dir:FOLDER                 recorded images, joined to one web
  synthetic:[MATERIAL]       a drawn web with planted defects

It ends with its source, after --lines, or on Ctrl-C."""
DASHBOARD_PORT = 8321


def make_parser() -> argparse.ArgumentParser:
    """Arguments of prn-inspect."""
    parser = argparse.ArgumentParser(
        prog="prn-inspect", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("package", type=Path, metavar="PACKAGE", help="model package, NAME.prn")
    parser.add_argument("--source", required=True, metavar="KIND:WHERE", help="where lines come from, see above")
    parser.add_argument("--engine", metavar="NAME", help="such as openvino:int8 (default: the package's best)")
    parser.add_argument("--lines", type=int, default=0, metavar="N", help="end after this many lines")

    what = parser.add_argument_group("what is a defect")
    what.add_argument("--threshold", type=float, metavar="T", help="of the anomaly map (default: the package's)")
    what.add_argument("--min-area", type=int, default=16, metavar="PIXELS", help="ignore smaller regions (default 16)")
    what.add_argument("--overlap", type=int, default=32, metavar="PIXELS", help="of neighbouring tiles (default 32)")
    what.add_argument("--pixel-mm", type=float, metavar="MM", help="width of a pixel on the web")
    what.add_argument("--line-mm", type=float, metavar="MM", help="web between two lines, from the encoder")
    what.add_argument(
        "--severity",
        default="200,2000",
        metavar="MAJOR,CRITICAL",
        help="areas from which a defect is major, critical: mm² where sizes are given, else pixels (default 200,2000)",
    )

    load = parser.add_argument_group("overload")
    load.add_argument("--depth", type=int, default=8, metavar="STRIPS", help="that may wait (default 8)")
    load.add_argument("--budget-ms", type=float, metavar="MS", help="drop strips that waited longer")

    where = parser.add_argument_group("where defects go")
    where.add_argument("--jsonl", type=Path, metavar="FILE", help="JSON lines, appended")
    where.add_argument("--parquet", type=Path, metavar="DIR", help="Parquet files")
    where.add_argument("--crops", type=Path, metavar="DIR", help="a picture of each")
    where.add_argument("--mqtt", metavar="mqtt://HOST[:PORT]/TOPIC", help="a broker")
    where.add_argument(
        "--dashboard",
        nargs="?",
        const=f":{DASHBOARD_PORT}",
        metavar="[HOST]:PORT",
        help=f"serve a live page (default 127.0.0.1:{DASHBOARD_PORT}; other hosts let the network see it)",
    )
    return parser


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command. Exit codes: 0 ended or stopped by Ctrl-C, 2 bad input or the line was stopped by an error."""
    arguments = make_parser().parse_args(sys.argv[1:] if argv is None else argv)
    from prn_fast.linescan.dashboard import Dashboard
    from prn_fast.linescan.inspection import Inspection, describe_ledger
    from prn_fast.linescan.inspector import open_inspector
    from prn_fast.linescan.sources import open_source

    if arguments.lines < 0 or arguments.depth < 1:
        raise ConfigError("--lines must be at least 0, and --depth at least 1")
    settings = _settings(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    with ExitStack() as open_things:
        source = open_things.enter_context(open_source(arguments.source))
        inspector = open_inspector(
            arguments.package, source.width, source.pixel_format, engine=arguments.engine, settings=settings
        )
        open_things.enter_context(inspector.engine)
        title = f"{arguments.package.name} ({inspector.engine.name}), {source.name}"
        observers: list[Any] = []
        if arguments.dashboard:
            host, port = _address(arguments.dashboard)
            threshold = inspector.settings.threshold
            assert threshold is not None
            dashboard = Dashboard(title, source.width, threshold, host, port)
            open_things.callback(dashboard.close)
            observers.append(dashboard.add)
            console.print(f"dashboard: {dashboard.url}", highlight=False, soft_wrap=True)
        inspection = Inspection(
            source,
            inspector,
            _sinks(arguments),
            depth=arguments.depth,
            budget=None if arguments.budget_ms is None else arguments.budget_ms / 1e3,
            lines=arguments.lines,
            observers=observers,
        )
        if arguments.dashboard:
            dashboard.watch(inspection)
        with _stopped_by_signals(inspection), _shown(inspection, title, console):
            snapshot = inspection.run()
    console.print(f"ledger: {describe_ledger(snapshot)}", highlight=False, soft_wrap=True)
    return 0


def _settings(arguments: argparse.Namespace) -> "Settings":
    from prn_fast.linescan.defects import Scale, SeverityLimits
    from prn_fast.linescan.inspector import Settings

    sizes = (arguments.pixel_mm, arguments.line_mm)
    if (sizes[0] is None) != (sizes[1] is None):
        raise ConfigError("give both --pixel-mm and --line-mm, or neither")
    try:
        major, critical = (float(value) for value in arguments.severity.split(","))
    except ValueError:
        raise ConfigError(f"--severity is {arguments.severity!r}; give two numbers, such as 200,2000") from None
    return Settings(
        overlap=arguments.overlap,
        threshold=arguments.threshold,
        min_area=arguments.min_area,
        limits=SeverityLimits(major, critical),
        scale=None if sizes[0] is None else Scale(*sizes),
        crops=arguments.crops is not None or arguments.dashboard is not None,
    )


def _sinks(arguments: argparse.Namespace) -> "list[Sink]":
    from prn_fast.linescan.sinks import CropSink, JSONLinesSink, MQTTSink, ParquetSink

    kinds = ((arguments.jsonl, JSONLinesSink), (arguments.parquet, ParquetSink), (arguments.crops, CropSink))
    sinks: list[Sink] = [kind(where) for where, kind in kinds if where is not None]
    if arguments.mqtt is not None:
        sinks.append(MQTTSink(arguments.mqtt))
    return sinks


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"--dashboard is {text!r}; give [HOST]:PORT, such as :{DASHBOARD_PORT}")
    return host.strip("[]") or "127.0.0.1", int(port)


@contextmanager
def _stopped_by_signals(inspection: "Inspection") -> Iterator[None]:
    """Ctrl-C and SIGTERM end the inspection as its source's end does: the ledger is closed, sinks are told."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: inspection.stop()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _shown(inspection: "Inspection", title: str, console: Console) -> Iterator[None]:
    """The state of an inspection on the console; elsewhere than on a terminal, only its end."""
    from prn_fast.linescan.terminal import as_renderable

    with Live(
        console=console,
        get_renderable=lambda: as_renderable(inspection.snapshot(), title),
        refresh_per_second=4,
    ):
        yield
