"""prn-inspect: inspect what a line camera sees, live."""

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.live import Live

from prn_fast.arguments import positive, whole
from prn_fast.cli.common import Parser, command
from prn_fast.cli.console import PlainConsole
from prn_fast.cli.outputs import try_outputs
from prn_fast.drift import WINDOW, describe_drift
from prn_fast.engine.kserve import is_address
from prn_fast.errors import ConfigError
from prn_fast.files import replace_file
from prn_fast.linescan import DEFAULT_DEPTH
from prn_fast.linescan.defects import MIN_AREA, SeverityLimits
from prn_fast.local_server import LOOPBACK, parse_address
from prn_fast.model.config import TILE_OVERLAP

if TYPE_CHECKING:
    from prn_fast.linescan.inspection import Inspection
    from prn_fast.linescan.inspector import InspectionSettings
    from prn_fast.linescan.sinks import Sink

DESCRIPTION = """Inspect a web as its lines arrive: every line is inspected, missing or dropped, and counted.

Sources, with their options behind a question mark (`aravis:NAME?width=4096&line_rate=24000`):
  aravis:[NAME or ADDRESS]   GigE Vision and USB3 Vision cameras
  pylon:[SERIAL NUMBER]      Basler cameras
  gentl:[FILE.cti]           any camera with a GenTL producer
  dir:FOLDER                 recorded images, joined to one web
  synthetic:[MATERIAL]       a drawn web with planted defects

The inspection ends with its source, after --lines, or on Ctrl-C, SIGTERM or SIGHUP. Then the ledger is printed.
Exit codes: 0 ended, 1 ended but lost messages to a file or broker, 2 stopped by an error or bad input,
130 interrupted before it began."""
DASHBOARD_PORT = 8321
METRICS_PORT = 8322
OPCUA_PORT = 4840  # OPC UA's own
EXIT_LOST_MESSAGES = 1


def make_parser() -> Parser:
    """Arguments of prn-inspect."""
    parser = Parser(prog="prn-inspect", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "package",
        type=lambda text: text if is_address(text) else Path(text),
        metavar="PACKAGE",
        help="model package, NAME.prn, or the address of a server that runs one",
    )
    parser.add_argument("--source", required=True, metavar="KIND:WHERE", help="where lines come from, see above")
    parser.add_argument(
        "--engine",
        metavar="NAME",
        help="engine, such as openvino:int8, or grpc://HOST:8001/NAME for a server that runs PACKAGE "
        "(default: the best in PACKAGE)",
    )
    parser.add_argument(
        "--lines", type=whole(0), default=0, metavar="N", help="end after this many lines (default: %(default)s, never)"
    )

    what = parser.add_argument_group("what is a defect")
    what.add_argument(
        "--threshold", type=float, metavar="T", help="threshold of the anomaly map (default: the package's)"
    )
    what.add_argument(
        "--min-area",
        type=whole(1),
        default=MIN_AREA,
        metavar="PIXELS",
        help="ignore smaller regions (default: %(default)s)",
    )
    what.add_argument(
        "--overlap",
        type=whole(0),
        default=TILE_OVERLAP,
        metavar="PIXELS",
        help="overlap of neighbouring tiles (default: %(default)s)",
    )
    what.add_argument(
        "--pixel-mm", type=positive, metavar="MM", help="width of a pixel on the web (default: sizes are in pixels)"
    )
    what.add_argument(
        "--line-mm", type=positive, metavar="MM", help="distance between two lines on the web, from the encoder"
    )
    what.add_argument(
        "--severity",
        default=f"{SeverityLimits.major:g},{SeverityLimits.critical:g}",
        metavar="MAJOR,CRITICAL",
        help="smallest areas of a major and a critical defect: mm² if sizes are given, else pixels "
        "(default: %(default)s)",
    )

    what.add_argument(
        "--drift-window",
        type=whole(0),
        default=WINDOW,
        metavar="TILES",
        help="tiles that are compared with the package's calibration, to notice when light, lens or product change "
        "(default: %(default)s); 0 compares none",
    )

    load = parser.add_argument_group("overload")
    load.add_argument(
        "--depth",
        type=whole(1),
        default=DEFAULT_DEPTH,
        metavar="STRIPS",
        help="strips that may wait for the engine (default: %(default)s)",
    )
    load.add_argument(
        "--budget-ms", type=positive, metavar="MS", help="drop strips that waited longer (default: never)"
    )

    where = parser.add_argument_group("where defects go")
    where.add_argument("--jsonl", type=Path, metavar="FILE", help="file to append JSON lines to")
    where.add_argument("--parquet", type=Path, metavar="DIR", help="folder for Parquet files")
    where.add_argument("--crops", type=Path, metavar="DIR", help="folder for a picture of each defect, and its map")
    where.add_argument(
        "--mqtt",
        metavar="mqtt://HOST[:PORT]/TOPIC[?queue=FILE]",
        help="MQTT broker; messages that it has not confirmed wait in FILE",
    )
    where.add_argument("--webhook", metavar="URL", help="web server that gets messages by HTTP POST")
    where.add_argument(
        "--webhook-key", type=Path, metavar="FILE", help="file with the secret that signs them (HMAC-SHA256)"
    )
    where.add_argument("--webhook-queue", type=Path, metavar="FILE", help="file in which they wait for the server")
    where.add_argument(
        "--opcua",
        nargs="?",
        const=f":{OPCUA_PORT}",
        metavar="[HOST]:PORT",
        help="serve state, recipe and results by OPC UA, with the names of the machine vision specification "
        f"(default: {LOOPBACK}:{OPCUA_PORT})",
    )
    where.add_argument(
        "--opcua-certificates",
        type=Path,
        metavar="DIR",
        help="folder with the server's certificate.pem and key.pem, and the certificates of clients in trusted/",
    )
    where.add_argument(
        "--dashboard",
        nargs="?",
        const=f":{DASHBOARD_PORT}",
        metavar="[HOST]:PORT",
        help=f"serve a live page (default: {LOOPBACK}:{DASHBOARD_PORT}); with another host, the network can open it "
        "by the printed address with its secret token",
    )
    where.add_argument(
        "--metrics",
        nargs="?",
        const=f":{METRICS_PORT}",
        metavar="[HOST]:PORT",
        help=f"serve figures for Prometheus at /metrics (default: {LOOPBACK}:{METRICS_PORT})",
    )
    return parser


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Exit codes: 0 ended or stopped by a signal, 1 so too, but messages to a sink were lost, 2 bad input or the line was
    stopped by an error, 130 interrupted before the inspection began.
    """
    arguments = make_parser().parse_args(sys.argv[1:] if argv is None else argv)
    with _Signals() as signals:
        return _run(arguments, signals)


def _run(arguments: argparse.Namespace, signals: "_Signals") -> int:
    from prn_fast.linescan.dashboard import Dashboard
    from prn_fast.linescan.inspection import STOP_SECONDS, Inspection, check_limits
    from prn_fast.linescan.inspector import open_inspector
    from prn_fast.linescan.metrics import Metrics
    from prn_fast.linescan.snapshot import describe_ledger, describe_sinks
    from prn_fast.linescan.sources import open_source
    from prn_fast.package import Package

    budget = None if arguments.budget_ms is None else arguments.budget_ms / 1e3
    check_limits(arguments.depth, budget, arguments.lines)
    settings = _settings(arguments)
    try_outputs(files=[arguments.jsonl], folders=[arguments.parquet, arguments.crops])
    package = arguments.package if is_address(arguments.package) else Package.open(arguments.package)
    name, digest = (package.path.name, package.digest) if isinstance(package, Package) else (package, "")
    sinks = _sinks(arguments, name, digest)
    address = None if arguments.dashboard is None else parse_address("--dashboard", arguments.dashboard, DASHBOARD_PORT)
    metrics_address = None if arguments.metrics is None else parse_address("--metrics", arguments.metrics, METRICS_PORT)
    console = PlainConsole()
    with ExitStack() as open_things:
        source = open_source(arguments.source)
        closing_source = open_things.enter_context(ExitStack())
        closing_source.callback(source.close)
        for note in source.notes:
            print(note, file=sys.stderr)
        inspector = open_inspector(
            package, source.width, source.pixel_format, engine=arguments.engine, settings=settings
        )
        open_things.enter_context(inspector.engine)
        for note in [] if inspector.drift is None else inspector.drift.notes:
            print(note, file=sys.stderr)
        if arguments.crops is not None:
            run = {"package": name, "pixel_threshold": inspector.settings.threshold}
            replace_file(arguments.crops / "run.json", (json.dumps(run, indent=2) + "\n").encode())
        title = f"{name} ({inspector.engine.name}), {source.name}"
        observers: list[Any] = []
        if address is not None:
            threshold = inspector.settings.threshold
            assert threshold is not None
            dashboard = Dashboard(title, source.width, threshold, *address)
            open_things.callback(dashboard.close)
            observers.append(dashboard.add)
            console.say(f"dashboard: {dashboard.url}")
        inspection = Inspection(
            source,
            inspector,
            sinks,
            depth=arguments.depth,
            budget=budget,
            lines=arguments.lines,
            observers=observers,
        )
        if address is not None:
            dashboard.watch(inspection)
        if metrics_address is not None:
            identity = {
                "package": name,
                "digest": digest,
                "engine": inspector.engine.name,
                "source": source.name,
            }
            metrics = Metrics(inspection.snapshot, identity, *metrics_address)
            open_things.callback(metrics.close)
            console.say(f"metrics: {metrics.url}")
        try:
            with signals.ending(inspection), _shown(inspection, title, console):
                inspection.run()
        finally:
            if inspection.ended:
                snapshot = inspection.snapshot()
                lines = [f"ledger: {describe_ledger(snapshot)}", *describe_sinks(snapshot)]
                if snapshot.drift is not None:
                    lines.append(describe_drift(snapshot.drift))
                if snapshot.engine_away_seconds:
                    lines.append(f"{inspector.engine.name}: was away for {snapshot.engine_away_seconds:.1f} s")
                if inspection.source_left:
                    # Its thread is still in there: closing it now could crash.
                    closing_source.pop_all()
                    lines.append(f"{source.name}: did not stop within {STOP_SECONDS:g} s and was left behind")
                for line in lines:
                    console.say(line)
    return EXIT_LOST_MESSAGES if snapshot.lost else 0


def _settings(arguments: argparse.Namespace) -> "InspectionSettings":
    from prn_fast.linescan.defects import PixelSize, SeverityLimits
    from prn_fast.linescan.inspector import InspectionSettings

    sizes = (arguments.pixel_mm, arguments.line_mm)
    if (sizes[0] is None) != (sizes[1] is None):
        raise ConfigError("give both --pixel-mm and --line-mm, or neither")
    try:
        major, critical = (float(value) for value in arguments.severity.split(","))
    except ValueError:
        raise ConfigError(f"--severity is {arguments.severity!r}; give two numbers, such as 200,2000") from None
    return InspectionSettings(
        overlap=arguments.overlap,
        threshold=arguments.threshold,
        min_area=arguments.min_area,
        limits=SeverityLimits(major, critical),
        scale=None if sizes[0] is None else PixelSize(*sizes),
        crops=arguments.crops is not None or arguments.dashboard is not None,
        drift_window=arguments.drift_window,
    )


def _sinks(arguments: argparse.Namespace, name: str, digest: str) -> "list[Sink]":
    from prn_fast.linescan.sinks import CropSink, JSONLinesSink, MQTTSink, OPCUASink, ParquetSink, WebhookSink
    from prn_fast.linescan.sinks.opcua import Recipe

    kinds = ((arguments.jsonl, JSONLinesSink), (arguments.parquet, ParquetSink), (arguments.crops, CropSink))
    sinks: list[Sink] = [kind(where) for where, kind in kinds if where is not None]
    if arguments.mqtt is not None:
        sinks.append(MQTTSink(arguments.mqtt))
    if arguments.webhook is not None:
        sinks.append(WebhookSink(arguments.webhook, arguments.webhook_key, arguments.webhook_queue))
    elif arguments.webhook_key or arguments.webhook_queue:
        raise ConfigError("--webhook-key and --webhook-queue belong to a webhook; give --webhook URL, too")
    if arguments.opcua is not None:
        address = parse_address("--opcua", arguments.opcua, OPCUA_PORT)
        recipe = Recipe(name, digest)
        sinks.append(OPCUASink(*address, recipe, arguments.opcua_certificates))
    elif arguments.opcua_certificates:
        raise ConfigError("--opcua-certificates belongs to a server; give --opcua [HOST]:PORT, too")
    return sinks


class _Signals:
    """Makes Ctrl-C, SIGTERM and SIGHUP end the command alike.

    Before the inspection begins they interrupt it, as Ctrl-C does everywhere; from then on they end the inspection as
    its source's end does: the ledger is closed, and sinks are notified.
    """

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._inspection: Inspection | None = None
        self._before: dict[int, Any] = {}
        self._terminals: list[int] = []

    def __enter__(self) -> "_Signals":
        # Of SIGHUP this is found out now: afterwards the terminal is gone.
        self._terminals = [number for number in (1, 2) if os.isatty(number)]
        # Only the main thread may set handlers; in another one, whoever began it ends it.
        numbers = self.NUMBERS if threading.current_thread() is threading.main_thread() else ()
        for number in numbers:
            # What `nohup` or a shell told to ignore stays ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def ending(self, inspection: "Inspection") -> Iterator[None]:
        """While this lasts, and after it, signals end the inspection."""
        self._inspection = inspection
        yield

    def _take(self, number: int, _: object) -> None:
        if number == signal.SIGHUP:
            # Writing to a terminal that is gone is an error, and must not keep the end from the sinks.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for terminal in self._terminals:
                os.dup2(nowhere, terminal)
            os.close(nowhere)
        if self._inspection is None:
            raise KeyboardInterrupt
        self._inspection.stop()


@contextmanager
def _shown(inspection: "Inspection", title: str, console: PlainConsole) -> Iterator[None]:
    """The state of an inspection on the console; elsewhere than on a terminal, only its end."""
    from prn_fast.linescan.terminal import as_renderable

    if not console.is_terminal:
        try:
            yield
        finally:
            console.print(as_renderable(inspection.snapshot(), title))
        return
    with Live(
        console=console,
        get_renderable=lambda: as_renderable(inspection.snapshot(), title),
        refresh_per_second=4,
    ):
        yield


if __name__ == "__main__":
    sys.exit(main())
