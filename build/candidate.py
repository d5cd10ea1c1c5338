"""What a builder returns: an engine to verify, and how to verify it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prn_fast.build.profiles import BatchProfile
from prn_fast.engine.base import Engine
from prn_fast.errors import EngineError

ENGINE_RUN = "engine run"
GRAPH_RUN = "graph verified, engine not run"


@dataclass(frozen=True)
class BuildOptions:
    """What a caller may ask of a builder.

    Attributes:
        batch: sizes of a batch that the engine takes; None leaves it to the builder.
        capabilities: GPUs to build for, by compute capability such as "8.9"; None leaves it to the builder.
        on_share: called with a phase of a long step and the share of it that is done, 0..1.
    """

    batch: BatchProfile | None = None
    capabilities: tuple[str, ...] | None = None
    on_share: Callable[[str, float], None] = lambda phase, share: None

    def refuse(self, backend: str, *names: str) -> None:
        """An EngineError if one of the named options, which the backend does not use, is set."""
        for name in names:
            if getattr(self, name) is not None:
                raise EngineError(f"engines of {backend} are built without {name}: they fit any; leave it out")


@dataclass(frozen=True)
class ScreenCandidate:
    """A version of the screen to be verified.

    Attributes:
        record: what the manifest should say of it, JSON-ready.
        stand_in, finish: as those of a `Candidate`; the stand-in runs the screen alone.
    """

    record: dict[str, Any]
    stand_in: Callable[[], Engine] | None = None
    finish: Callable[[], dict[str, Any]] = dict


@dataclass(frozen=True)
class Candidate:
    """An engine to be verified.

    Attributes:
        folder: of its files.
        record: what the manifest should say of its build, JSON-ready.
        stand_in: where the engine cannot run, opens the graph that it is built from, which is verified instead. None if
            the engine itself is run.
        finish: called once the candidate has passed; completes its folder and adds to the record.
        screens: yields one version of the screen after the other, best first. Its files are in the folder under the
            name "screen" and replace those of the version before.
    """

    folder: Path
    record: dict[str, Any]
    stand_in: Callable[[], Engine] | None = None
    finish: Callable[[], dict[str, Any]] = dict
    screens: Callable[[], Iterator[ScreenCandidate]] = lambda: iter(())

    @property
    def verified(self) -> str:
        """What was verified: `ENGINE_RUN` or `GRAPH_RUN`."""
        return ENGINE_RUN if self.stand_in is None else GRAPH_RUN
