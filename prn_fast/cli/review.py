"""prn-review: go through predictions by hand."""

import argparse
import signal
import sys
import threading
from pathlib import Path

from prn_fast.cli.common import Parser, command, counted
from prn_fast.cli.console import PlainConsole
from prn_fast.cli.outputs import try_outputs
from prn_fast.errors import ConfigError
from prn_fast.local_server import LOOPBACK, parse_address
from prn_fast.paths import shown_path

DESCRIPTION = """Review predictions in a browser, worst first.

FOLDER is what prn-eval --images, prn-score or prn-inspect --crops has written. Each image is marked "good after all",
"defect" or "unclear"; defects are marked with a brush or a box. OUTPUT is then laid out as MVTec AD:
  OUTPUT/train/good, OUTPUT/test/KIND, OUTPUT/ground_truth/KIND/NAME_mask.png
which prn-train --data OUTPUT reads, and prn-calibrate --good OUTPUT/train/good. Images are copied, and none is changed.
Every decision is saved at once and can be undone, even after a restart. Ctrl-C ends the command."""
DEFAULT_PORT = 8323


def make_parser() -> Parser:
    """Arguments of prn-review."""
    parser = Parser(prog="prn-review", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="predictions, or pictures of defects")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="folder of the predicted images (default: as the predictions say)"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for decisions (default: FOLDER-reviewed)")
    parser.add_argument("--kind", metavar="NAME", help="kind of new defects; the page can change it (default: defect)")
    parser.add_argument(
        "--pixel-threshold",
        type=float,
        metavar="T",
        help="threshold of anomaly maps, for outlines and proposed masks (default: as the predictions say)",
    )
    parser.add_argument(
        "--address",
        default=f"{LOOPBACK}:{DEFAULT_PORT}",
        metavar="[HOST]:PORT",
        help="address of the page, to which a secret token is added (default: %(default)s; port 0 takes a free one)",
    )
    return parser


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = make_parser().parse_args(sys.argv[1:] if argv is None else argv)
    from prn_fast.review.decisions import DEFAULT_KIND, Decisions, is_kind
    from prn_fast.review.predictions import read_predictions
    from prn_fast.review.server import ReviewPage

    kind = arguments.kind or DEFAULT_KIND
    if not is_kind(kind):
        raise ConfigError(f"--kind is {kind!r}; use up to 40 letters, digits, - and _; 'good' is no kind of defect")
    host, port = parse_address("--address", arguments.address, DEFAULT_PORT)
    console = PlainConsole()
    predictions = read_predictions(arguments.folder, arguments.images, arguments.pixel_threshold)
    output = arguments.output or _beside(arguments.folder)
    try_outputs(folders=[output])
    decisions = Decisions(output, predictions.items)
    try:
        page = ReviewPage(predictions, decisions, kind, host, port)
        try:
            unreadable = [one for one in predictions.items if one.reason]
            for note in [*predictions.notes, *decisions.notes]:
                print(f"note: {note}", file=sys.stderr)
            if unreadable:
                print(
                    f"note: {counted(len(unreadable), 'image')} cannot be shown; the first is {unreadable[0].name} "
                    f"({unreadable[0].reason})",
                    file=sys.stderr,
                )
            console.say(f"{counted(len(predictions.items), 'image')} to review: {page.url}\nCtrl-C ends it")
            sys.stdout.flush()
            _wait_for_signal()
        finally:
            page.close()
        counts = decisions.counts()
        console.say(
            f"good after all {counts['good']}, defect {counts['defect']}, unclear {counts['unclear']}, "
            f"of {len(predictions.items)}: {shown_path(output)}"
        )
    finally:
        decisions.close()
    return 0


def _beside(folder: Path) -> Path:
    path = folder.resolve()
    return folder.parent / f"{path.name}-reviewed"


def _wait_for_signal() -> None:
    """Until Ctrl-C, SIGTERM or SIGHUP."""
    ended = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: ended.set()) for number in numbers}
    try:
        # In pieces: a signal is taken between them.
        while not ended.wait(0.2):
            pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
