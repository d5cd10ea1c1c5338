"""Scores all shards of an archive that have no results yet, in this process or on a Ray cluster."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from prn_fast.archive.images import Archive, Shard
from prn_fast.archive.results import write_rows
from prn_fast.archive.scorer import Scorer, ScoringSettings


def score_shards(shards: list[Shard], archive: Archive, settings: ScoringSettings, output: Path) -> Iterator[int]:
    """Score shards in this process, and write their results; yields the number of images after each shard.

    Raises:
        PRNError: as `Scorer` and `write_rows`.
    """
    with closing(Scorer(settings, archive.root)) as scorer:
        for shard in shards:
            write_rows(output, shard.number, scorer.score(shard))
            yield len(shard.names)
