"""What Triton's Python backend runs: a package, opened with the engine that suits the server's machine.

`model.py` of an exported version is one line that imports this class. Tensors pass by DLPack, since the backend of
former servers silently misreads numpy 2.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prn_fast.engine import open_engine
from prn_fast.engine.base import is_defective
from prn_fast.engine.parity import TOLERANCES, precision_of
from prn_fast.engine.served import ABOUT, IDENTITY, IMAGES, Canary, Description, answers
from prn_fast.errors import EngineError, PRNError
from prn_fast.package import Package
from prn_fast.serving.figures import ServedFigures
from prn_fast.serving.repository import (
    CANARY,
    ENGINE_PARAMETER,
    GPU_ENGINES,
    canary_images,
    package_folder,
)


class TritonPythonModel:
    """Serves one version of one exported package."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the package, and compare its engine with the known answers; the server refuses the model otherwise."""
        import triton_python_backend_utils as backend  # the server brings it

        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        package = Package.open(package_folder(folder))
        name = config.get("parameters", {}).get(ENGINE_PARAMETER, {}).get("string_value") or None
        options: dict[str, Any] = {"batch": int(config["max_batch_size"])}
        if args["model_instance_kind"] == "GPU" and name is not None and name.partition(":")[0] in GPU_ENGINES:
            options["device"] = GPU_ENGINES[name.partition(":")[0]](int(args["model_instance_device_id"]))
        self.engine = open_engine(package, name, **options)
        known = json.loads((folder / CANARY).read_text(encoding="utf-8"))
        images = canary_images(package)
        reference = Canary(images, np.array(known["scores"], np.float32), np.array(known["levels"], np.float32))
        found = self.engine.infer(images)
        tolerance = TOLERANCES[precision_of(self.engine.name)]
        # What leaves early has the screen's score and map.
        whole = ~found.exited
        known_whole = replace(reference, scores=reference.scores[whole], levels=reference.levels[whole])
        limits = tolerance.score, tolerance.mean_map
        faults = known_whole.faults(found.raw_scores[whole], found.maps[whole], limits) if whole.any() else []
        if is_defective(reference.scores[~whole], self.engine.threshold).any():
            faults.append("a defective image leaves early")
        if faults:
            raise EngineError(f"{package.path}: {self.engine.name} gives wrong answers on this machine: {faults[0]}")
        # Clients compare with this engine's own answers, which differ by rounding alone.
        description = Description.of(package, self.engine, Canary.ask(self.engine, images))
        self.about: dict[str, NDArray[Any]] = {
            ABOUT: np.frombuffer(description.to_json(), np.uint8),
            IDENTITY: np.array([description.identity], np.int64),
        }
        labels = {
            "model": args["model_name"],
            "version": args["model_version"],
            "instance": args["model_instance_name"],
        }
        self.figures: ServedFigures | None = None
        try:
            self.figures = ServedFigures(package, self.engine, labels, images, backend)
        except backend.TritonModelException as error:  # as from a server that was started without metrics
            backend.Logger.log_warn(f"{args['model_name']}: has no metrics of its own ({error})")
        # The server asks these before it is ready, and nothing tells them from other requests.
        self.warm_up_images = sum(int(one["batch_size"]) for one in config.get("model_warmup", []))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests, all of them in one inference."""
        import triton_python_backend_utils as backend  # the server brings it

        images = [_numpy(backend.get_input_tensor_by_name(request, IMAGES)) for request in requests]
        together = np.concatenate(images)
        try:
            detections = self.engine.infer(together)
        except PRNError as error:
            told = backend.TritonError(f"engine: {error}")
            return [backend.InferenceResponse(error=told) for _ in requests]
        found = answers(detections)
        responses, start = [], 0
        for request, part in zip(requests, images, strict=True):
            own = slice(start, start + len(part))
            start += len(part)
            wanted = request.requested_output_names()
            tensors = [_tensor(backend, name, values[own]) for name, values in found.items() if name in wanted]
            tensors += [
                _tensor(backend, name, np.tile(values, (len(part), 1)))
                for name, values in self.about.items()
                if name in wanted
            ]
            responses.append(backend.InferenceResponse(tensors))
        if self.warm_up_images > 0:
            self.warm_up_images -= len(together)
        elif self.figures is not None:
            asked = np.repeat([_is_asked(request) for request in requests], [len(part) for part in images])
            self.figures.add(together, detections, asked)
        return responses

    def finalize(self) -> None:
        """The server unloads the model."""
        self.engine.close()


def _is_asked(request: Any) -> bool:
    """Whether somebody wants to know what is on the images, and does not only ask what is served."""
    return not {ABOUT, IDENTITY}.issuperset(request.requested_output_names())


def _numpy(tensor: Any) -> NDArray[np.uint8]:
    return torch.from_dlpack(tensor).numpy()


def _tensor(backend: Any, name: str, values: NDArray[Any]) -> Any:
    return backend.Tensor.from_dlpack(name, torch.from_numpy(np.ascontiguousarray(values)))
