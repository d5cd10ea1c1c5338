"""Scoring on a Ray cluster: actors that hold one engine each take shards from a queue."""

import logging
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prn_fast.archive.images import Archive, Shard
from prn_fast.archive.results import write_rows
from prn_fast.archive.scorer import Scorer, ScoringSettings
from prn_fast.errors import ConfigError, DataError, EngineError, PackageError, PRNError, StorageError, one_line
from prn_fast.extras import require_extra

LOCAL = "local"
# Nothing large goes through Ray's memory: actors read images and write results themselves.
_OBJECT_STORE_BYTES = 128 << 20
_ERRORS: dict[str, type[PRNError]] = {
    kind.__name__: kind for kind in (ConfigError, DataError, EngineError, PackageError, StorageError)
}


@dataclass(frozen=True)
class Cluster:
    """Where shards are scored, and by how many actors.

    Attributes:
        address: of a Ray cluster, such as "10.0.0.5:6379" or "auto"; "local" starts one on this machine, which ends
            with the run.
        actors: processes with one engine each; None takes as many as the cluster has processors for.
        gpus: GPUs that each actor gets; a fraction lets several share one.
    """

    address: str
    actors: int | None = None
    gpus: float = 0.0


@dataclass(frozen=True)
class _Task:
    """A shard to score, with all that an actor needs to know of the run."""

    shard: Shard
    settings: ScoringSettings
    root: Path
    output: Path


class _Actor:
    """One engine in one process of the cluster. Errors are answers: Ray would repeat the call, or hide their kind."""

    def __init__(self) -> None:
        self._scorer: Scorer | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        task: _Task = pickle.loads(row["task"])
        try:
            if self._scorer is None:
                self._scorer = Scorer(task.settings, task.root)
            write_rows(task.output, task.shard.number, self._scorer.score(task.shard))
        except PRNError as error:
            return {"images": 0, "error": type(error).__name__, "message": str(error)}
        return {"images": len(task.shard.names), "error": "", "message": ""}


def score_on_ray(
    shards: list[Shard], archive: Archive, settings: ScoringSettings, output: Path, cluster: Cluster
) -> Iterator[int]:
    """As `score_shards`, on a cluster, whose machines all see images, package and output under the same paths.

    An actor that dies is replaced, and its shard scored again: a shard's file is written whole, and is the same however
    often it is written.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers.
        PRNError: the first error of an actor.
    """
    require_extra("ray", "ray", "pandas")
    import ray
    import ray.data
    from ray.exceptions import RayError

    if not shards:
        return
    tasks = [_Task(shard, settings, archive.root.absolute(), output.absolute()) for shard in shards]
    threads = settings.threads or 1
    with connected(cluster.address, threads * cluster.actors if cluster.actors else None):
        actors = cluster.actors or max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        rows = [{"task": pickle.dumps(task)} for task in tasks]
        found = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _Actor,  # type: ignore[arg-type]  # Ray makes one in each process, and calls that
            concurrency=min(actors, len(shards)),
            num_cpus=threads,
            num_gpus=cluster.gpus,
        )
        try:
            for row in found.iter_rows():
                if row["error"]:
                    raise _ERRORS.get(row["error"], PRNError)(row["message"])
                yield int(row["images"])
        except RayError as error:
            raise ConfigError(f"Ray: {one_line(error)}; run the same command to continue") from error


@contextmanager
def connected(address: str, processors: int | None = None) -> Iterator[None]:
    """A connection to a Ray cluster, for as long as the block runs.

    Args:
        address: of the cluster; "local" starts one on this machine, which ends with the block.
        processors: of a local cluster; None takes all that this process may use.
    Raises:
        ConfigError: no cluster answers.
    """
    import ray

    # Ray reports its use to its makers unless told otherwise.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == LOCAL:
        # Ray's workers would give way to everything else on this machine; so they run at the command's own priority.
        os.environ.setdefault("RAY_worker_niceness", "0")
        options |= {
            "num_cpus": processors or len(os.sched_getaffinity(0)),
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"--ray {address}: no cluster can be used there ({one_line(error)})") from None
    try:
        yield
    finally:
        ray.shutdown()
