"""State of an unfinished run on disk, so that it can be resumed."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from prn_fast.errors import ConfigError
from prn_fast.model.weights import one_line

STATE, IDENTITY = "state.pt", "settings.json"


class Checkpoint:
    """The folder OUTPUT.training beside a package in the making.

    Args:
        output: the package, NAME.prn.
        identity: what the run that goes on must agree on with the run that was interrupted.
    """

    def __init__(self, output: Path, identity: dict[str, Any]) -> None:
        self.folder = output.with_name(output.name + ".training")
        self.identity = identity

    def save(self, state: dict[str, Any]) -> None:
        """Write the state; an interruption leaves the one before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / IDENTITY).write_text(json.dumps(self.identity, indent=2) + "\n")
        partial = self.folder / f"{STATE}.partial"
        torch.save(state, partial)
        os.replace(partial, self.folder / STATE)

    def load(self) -> dict[str, Any]:
        """The last state; a ConfigError if there is none, it is damaged, or it belongs to another run."""
        if not (self.folder / STATE).is_file():
            raise ConfigError(f"{self.folder}: there is nothing to resume; run again without --resume")
        saved = json.loads((self.folder / IDENTITY).read_text())
        different = [name for name in self.identity if saved.get(name) != self.identity[name]]
        if different:
            name = different[0]
            raise ConfigError(
                f"{self.folder}: was made with {name}={saved.get(name)}, now it is {self.identity[name]}; "
                "resume with the same settings, or run without --resume"
            )
        try:
            return torch.load(self.folder / STATE, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ConfigError(
                f"{self.folder / STATE}: cannot be read ({one_line(error)}); run without --resume"
            ) from None

    def remove(self) -> None:
        """Forget the run."""
        shutil.rmtree(self.folder, ignore_errors=True)
