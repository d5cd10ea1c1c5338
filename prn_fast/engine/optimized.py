"""The engine that needs PyTorch alone: the optimized formulation with folded batch norms, float32, on any device."""

from typing import ClassVar

from prn_fast.engine.eager import EagerEngine
from prn_fast.kernels import OPTIMIZED
from prn_fast.model.engine_graph import EngineGraph
from prn_fast.model.prn import PRN
from prn_fast.package import Package


class OptimizedEngine(EagerEngine):
    """The graph that engines are built of, run by PyTorch itself: the best of a package that none was built of."""

    backend: ClassVar[str] = "optimized"

    def network(self, package: Package) -> PRN:
        """See `EagerEngine.network`."""
        return EngineGraph(package.model(), OPTIMIZED).model
