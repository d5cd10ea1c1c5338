"""prn-serve: packages on NVIDIA's Triton Inference Server, for many lines and other programs."""

import argparse
import math
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from prn_fast.arguments import positive, whole
from prn_fast.cli.common import Parser, command
from prn_fast.cli.outputs import try_outputs
from prn_fast.errors import ConfigError
from prn_fast.local_server import parse_address
from prn_fast.paths import shown_path
from prn_fast.serving.repository import Serving, export
from prn_fast.serving.tritonserver import Ports, TritonServer
from prn_fast.serving.watch import CANARY_SECONDS, Watch

if TYPE_CHECKING:
    from prn_fast.package import Package
    from prn_fast.serving.native import NativeGraph

DESCRIPTION = """Serve packages from one machine to many lines.

  prn-serve export tiles.prn /srv/models        # a model repository, for any Triton server with prn_fast
  prn-serve run /srv/models                     # the server of PyPI's nvidia-pytriton, restarted if it fails
  prn-serve check grpc://rack:8001/tiles        # a real inference, compared with known answers
  prn-inspect tiles.prn --source aravis: --engine grpc://rack:8001/tiles"""
EXIT_NOT_READY = 1


def _milliseconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of milliseconds from 0 to a million")
    return value


def make_parser() -> argparse.ArgumentParser:
    """Arguments of prn-serve."""
    parser = Parser(prog="prn-serve", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    export = commands.add_parser("export", help="write packages into a model repository")
    export.add_argument("packages", type=Path, nargs="+", metavar="PACKAGE", help="NAME.prn; served as NAME")
    export.add_argument("repository", type=Path, metavar="DIR", help="model repository; made if it is missing")
    export.add_argument("--name", default="", help="serve the only package under this name")
    export.add_argument(
        "--native",
        metavar="FORM",
        help='for a backend of the server, without Python: "onnx", or a TensorRT engine of the package, such as '
        "tensorrt:fp16; for other programs, since lines need packages",
    )
    export.add_argument(
        "--engine", default="", metavar="NAME", help="engine, such as openvino:int8 (default: the best)"
    )
    export.add_argument(
        "--batch",
        type=whole(1, 4096),
        default=Serving.batch,
        metavar="N",
        help="most images in a batch (default: %(default)s)",
    )
    export.add_argument(
        "--delay-ms",
        type=_milliseconds,
        default=Serving.delay_ms,
        metavar="MS",
        help="time to wait for more images (default: %(default)g)",
    )
    export.add_argument(
        "--queue",
        type=whole(1),
        default=Serving.queue,
        metavar="N",
        help="requests that may wait; more are refused (default: %(default)s)",
    )
    export.add_argument(
        "--deadline-ms",
        type=_milliseconds,
        default=Serving.deadline_ms,
        metavar="MS",
        help="refuse requests that waited longer (default: %(default)g, never)",
    )
    export.add_argument(
        "--instances",
        type=whole(1, 256),
        default=Serving.instances,
        metavar="N",
        help="engines in parallel (default: %(default)s)",
    )
    export.add_argument("--gpu", action="store_true", help="run --engine on the server's GPUs, --instances on each")
    export.add_argument(
        "--versions",
        type=whole(1, 100),
        default=Serving.versions,
        metavar="N",
        help="number of newest calibrations to serve (default: %(default)s)",
    )

    run = commands.add_parser("run", help="run a server on a model repository until it is stopped")
    run.add_argument("repository", type=Path, metavar="DIR", help="model repository, as `prn-serve export` writes it")
    run.add_argument(
        "--host", default=Ports.host, help="address to listen on (default: %(default)s, this machine only)"
    )
    for name, port in (("grpc", Ports.grpc), ("http", Ports.http)):
        run.add_argument(
            f"--{name}-port",
            type=whole(0, 65535),
            default=port,
            metavar="PORT",
            help=f"port for {name} (default: {port}; 0 takes a free one)",
        )
    run.add_argument(
        "--metrics",
        default=None,
        metavar="[HOST]:PORT",
        help=f"figures for Prometheus at /metrics (default: port {Ports.metrics} of --host; port 0 takes a free one)",
    )
    run.add_argument(
        "--canary-s",
        type=positive,
        default=CANARY_SECONDS,
        metavar="S",
        help="seconds between checks with known answers (default: %(default)g)",
    )
    run.add_argument(
        "--log", type=Path, metavar="FILE", help="file to append the server's messages to (default: stderr)"
    )

    check = commands.add_parser("check", help="ask served packages for known answers; exit code 1 if one is not ready")
    check.add_argument(
        "addresses", nargs="+", metavar="ADDRESS", help="address of a served package, such as grpc://rack:8001/tiles"
    )
    check.add_argument(
        "--wait",
        type=positive,
        default=None,
        metavar="S",
        help="seconds to wait until all are ready (default: ask once)",
    )
    return parser


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Exit codes: 0 done, 1 `check` found that a package is not ready, 2 bad input, or a server that does not start.
    """
    arguments = make_parser().parse_args(argv)
    return {"export": _export, "run": _run, "check": _check}[arguments.action](arguments)


def _export(arguments: argparse.Namespace) -> int:
    from prn_fast.package import Package

    if arguments.name and len(arguments.packages) > 1:
        raise ConfigError("--name is for one package; export the others separately")
    serving = Serving(
        arguments.engine,
        arguments.batch,
        arguments.delay_ms,
        arguments.queue,
        arguments.deadline_ms,
        arguments.instances,
        arguments.gpu,
        arguments.versions,
    )
    packages = [Package.open(path) for path in arguments.packages]
    names = [arguments.name or package.path.stem for package in packages]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"two packages are called {sorted(twice)[0]}; export one of them with --name")
    try_outputs(folders=[arguments.repository])
    for package, name in zip(packages, names, strict=True):
        done = export(package, arguments.repository, serving, name, _native(package, arguments.native))
        what = "new" if done.is_new else "as before"
        print(f"{shown_path(arguments.repository / done.name)}: version {done.version}, {what}")
    program = "prn-serve run " if arguments.native is None else "tritonserver --model-repository="
    print(f"next: {program}{shown_path(arguments.repository)}")
    return 0


def _native(package: "Package", form: str | None) -> "NativeGraph | None":
    if form is None:
        return None
    from prn_fast.serving.native import ONNX, of_onnx, of_tensorrt

    if form != ONNX:
        return of_tensorrt(package, form)
    from prn_fast.build.served import served_onnx

    return of_onnx(served_onnx(package), package)


def _run(arguments: argparse.Namespace) -> int:
    try_outputs(files=[arguments.log])
    metrics_host, metrics_port = arguments.host, Ports.metrics
    if arguments.metrics is not None:
        metrics_host, metrics_port = parse_address("--metrics", arguments.metrics, Ports.metrics)
    ports = Ports(arguments.host, arguments.grpc_port, arguments.http_port, metrics_port, metrics_host)
    with TritonServer(arguments.repository, ports, arguments.log) as server:
        watch = Watch(server, arguments.canary_s, lambda line: print(line, flush=True))
        in_main_thread = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if in_main_thread else ()
        before = {number: signal.signal(number, lambda *_: watch.stop()) for number in numbers}
        try:
            watch.run()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from prn_fast.engine.kserve import Address
    from prn_fast.engine.remote import RemoteEngine
    from prn_fast.errors import EngineError
    from prn_fast.extras import require_extra

    require_extra("serve", "tritonclient")
    for address in arguments.addresses:
        Address.parse(address)
    end = time.monotonic() + (arguments.wait or 0.0)
    waiting = list(arguments.addresses)
    while True:
        faults = {}
        for address in waiting:
            try:
                with RemoteEngine(address, patience=0.0, in_flight=1, shared_memory="off") as engine:
                    told = engine.description
                    print(f"{engine.name}: ready, version {engine.version}, {told.package} with {told.engine}")
            except EngineError as error:
                faults[address] = str(error)
        waiting = list(faults)
        if not waiting or time.monotonic() >= end:
            break
        time.sleep(0.2)
    for fault in faults.values():
        print(f"not ready: {fault}", file=sys.stderr)
    return EXIT_NOT_READY if faults else 0


if __name__ == "__main__":
    sys.exit(main())
