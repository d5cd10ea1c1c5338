"""Independent parts of a network beside each other on a GPU."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def one_by_one(calls: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
    """The results of some calls, in order."""
    return [call() for call in calls]


def beside_each_other(calls: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
    """As `one_by_one`; while a CUDA graph is captured, each call but the first is a branch of it, on its own stream.

    Outside of a capture they run in turn: memory that one stream frees must not be taken by another too early, which
    within a graph the two waits below see to.
    """
    if not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
        return one_by_one(calls)
    main = torch.cuda.current_stream()
    branches = [torch.cuda.Stream() for _ in calls[1:]]
    results: list[Tensor | None] = [None] * len(calls)
    for number, branch in enumerate(branches, start=1):
        branch.wait_stream(main)
        with torch.cuda.stream(branch):
            results[number] = calls[number]()
    results[0] = calls[0]()
    for branch in branches:
        main.wait_stream(branch)
    return [one for one in results if one is not None]
