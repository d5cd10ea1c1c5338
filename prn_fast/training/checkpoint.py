"""State of an unfinished run on disk, so that it can be resumed."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from prn_fast.errors import ConfigError, StorageError, one_line
from prn_fast.files import replace_file, replacing, reporting, require_writable

ENDING = ".training"
STATE, IDENTITY = "state.pt", "settings.json"


class Checkpoint:
    """The folder OUTPUT.training beside a package in the making.

    Args:
        output: the package, NAME.prn.
        identity: what the run that goes on must agree on with the run that was interrupted.
    Raises:
        StorageError: the folder cannot be written.
    """

    def __init__(self, output: Path, identity: dict[str, Any]) -> None:
        self.folder = output.with_name(output.name + ENDING)
        self.identity = identity
        require_writable(self.folder)

    @property
    def exists(self) -> bool:
        """Whether there is a state, of whichever run."""
        return (self.folder / STATE).is_file()

    def save(self, state: dict[str, Any]) -> None:
        """Write the state; an interruption leaves the one before.

        Raises:
            StorageError: it cannot be written, as on a full disk; the state before is kept.
        """
        identity = self.folder / IDENTITY
        content = (json.dumps(self.identity, indent=2) + "\n").encode()
        with reporting(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self.folder / STATE) as partial:
                try:
                    torch.save(state, partial)
                except RuntimeError as error:  # so PyTorch reports a full disk
                    kept = "the state before is kept" if (self.folder / STATE).is_file() else "nothing is kept yet"
                    raise StorageError(
                        f"{self.folder / STATE}: cannot be written ({one_line(error)}; {_free_space(self.folder)}), "
                        f"{kept}; make room and go on with --resume"
                    ) from None
                if not identity.is_file() or identity.read_bytes() != content:
                    # The state of another run must not be mistaken for this one's.
                    (self.folder / STATE).unlink(missing_ok=True)
                    replace_file(identity, content)

    def check(self) -> None:
        """A ConfigError if there is no state, or it belongs to another run; the state itself is not read."""
        if not self.exists:
            raise ConfigError(f"{self.folder}: there is nothing to resume; {self._advice()}")
        try:
            saved = json.loads((self.folder / IDENTITY).read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"{self.folder / IDENTITY}: cannot be read ({one_line(error)}), so it is unknown which run "
                "this is; run without --resume"
            ) from None
        if not isinstance(saved, dict):
            raise ConfigError(f"{self.folder / IDENTITY}: holds no settings of a run; run without --resume")
        different = [name for name in self.identity if saved.get(name) != self.identity[name]]
        if different:
            name = different[0]
            raise ConfigError(
                f"{self.folder}: was made with {name}={saved.get(name)}, now it is {self.identity[name]}; "
                "resume with the same settings, or run without --resume"
            )

    def load(self) -> dict[str, Any]:
        """The last state; a ConfigError if there is none, it is damaged, or it belongs to another run."""
        self.check()
        try:
            return torch.load(self.folder / STATE, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ConfigError(
                f"{self.folder / STATE}: cannot be read ({one_line(error)}); run without --resume"
            ) from None

    def _advice(self) -> str:
        """What to do where there is no checkpoint of this name: perhaps there is one of another."""
        others = sorted(path.parent for path in self.folder.parent.glob(f"*{ENDING}/{STATE}"))
        if not others:
            return "run again without --resume"
        return (
            f"but there is {others[0]}: resume with --output {str(others[0]).removesuffix(ENDING)}, or rename that "
            f"folder to {self.folder.name}"
        )

    def remove(self) -> None:
        """Forget the run."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _free_space(folder: Path) -> str:
    """How much is free where a folder lies, in words."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return "free space unknown"
    return f"{free / 1e6:,.0f} MB free"
