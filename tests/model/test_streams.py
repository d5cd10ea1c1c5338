"""Branches of a captured graph: where they begin and end. That they run at the same time only a GPU can tell."""

from contextlib import contextmanager

import pytest
import torch

from prn_fast.kernels import FUSED, OPTIMIZED
from prn_fast.model.engine_graph import EngineGraph
from prn_fast.model.streams import beside_each_other, one_by_one
from tests.small_package import small_config, small_model


class Recorded:
    """A GPU's streams: notes what waits for what, and where calls run."""

    def __init__(self, monkeypatch):
        self.events, self.current, self.made = [], "main", 0
        recorded = self

        class Stream:
            def __init__(self, name=None):
                if name is None:
                    recorded.made += 1
                    name = f"branch {recorded.made}"
                self.name = name

            def wait_stream(self, other):
                recorded.events.append((self.name, "waits for", other.name))

        @contextmanager
        def stream(one):
            recorded.current, before = one.name, recorded.current
            yield
            recorded.current = before

        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream("main"))
        monkeypatch.setattr(torch.cuda, "stream", stream)

    def call(self, name):
        def run():
            self.events.append((self.current, "runs", name))
            return torch.tensor([ord(name)])

        return run


@pytest.fixture
def streams(monkeypatch):
    return Recorded(monkeypatch)


@pytest.mark.parametrize("captured", [False, True])
def test_results_are_in_order_and_every_branch_begins_after_and_ends_before_the_rest(streams, monkeypatch, captured):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: captured)
    found = beside_each_other([streams.call(name) for name in "abc"])
    assert [chr(one) for one in found] == ["a", "b", "c"]
    if not captured:
        assert streams.events == [("main", "runs", name) for name in "abc"]
        return
    assert streams.events == [
        ("branch 1", "waits for", "main"),
        ("branch 1", "runs", "b"),
        ("branch 2", "waits for", "main"),
        ("branch 2", "runs", "c"),
        ("main", "runs", "a"),
        ("main", "waits for", "branch 1"),
        ("main", "waits for", "branch 2"),
    ]


def test_the_fused_network_runs_its_scales_beside_each_other():
    model = small_model(small_config())
    assert EngineGraph(model, FUSED).model.run_scales is beside_each_other
    assert EngineGraph(model, OPTIMIZED).model.run_scales is one_by_one
    assert model.run_scales is one_by_one
