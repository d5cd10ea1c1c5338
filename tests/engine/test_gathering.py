"""Early exit from recorded graphs, with stand-ins for streams, events and graphs: whose answer is whose, and when."""

import numpy as np
import pytest
import torch

from prn_fast.engine.early_exit import Screening, moved
from prn_fast.engine.gathering import Gathering, StayingFirst
from prn_fast.engine.recorded import RecordedGraph, powers_of_two
from prn_fast.errors import EngineError
from tests.engine.host_cuda import host_cuda

SIDE, BATCH = 16, 8
CUT, THRESHOLD, PIXEL_THRESHOLD = 0.3, 0.62, 0.41


@pytest.fixture
def log():
    """What ran and what the host waited for, in order; nothing of what `make` did."""
    log: list[str] = []
    with host_cuda() as cuda:
        cuda.on_wait = lambda: log.append("host waits")
        yield log


class Screen(torch.nn.Module):
    """Image i is grey of value i, and that is its score, too, as a share of 255; NaN for the value 77."""

    def __init__(self, log=None):
        super().__init__()
        self.log = [] if log is None else log

    def forward(self, images):
        self.log.append(f"screen {len(images)}")
        maps = images[:, ::8, ::8, 0].float() / 255
        maps = torch.where(images[:, ::8, ::8, 0] == 77, torch.nan, maps)
        return maps.mean((1, 2)), maps


def make(log):
    def network(images):
        """The map is the image itself."""
        log.append(f"network {len(images)}")
        maps = images[..., 0].float() / 255
        return maps.mean((1, 2)), maps

    images = torch.zeros(BATCH, SIDE, SIDE, 1, dtype=torch.uint8)
    graphs = {size: RecordedGraph(network, images[:size], None, None) for size in powers_of_two(BATCH)}
    subject = Gathering(Screen(log), graphs, images, Screening(CUT, THRESHOLD, PIXEL_THRESHOLD), None)
    log.clear()
    return subject


def grey(values):
    return np.repeat(np.uint8(values), SIDE * SIDE).reshape(-1, SIDE, SIDE, 1)


def wrong(subject, values):
    """How many images have an answer that is not their own."""
    values = np.asarray(values)
    scores, maps, exited = subject.answers(grey(values))
    leaves = np.float32(values / 255) < np.float32(CUT)
    expected = np.where(leaves, moved(values / 255, CUT, PIXEL_THRESHOLD), values / 255)
    faults = (exited != leaves) | (np.abs(maps - expected[:, None, None]).max(axis=(1, 2)) > 1e-5)
    faults |= leaves != (scores < THRESHOLD) * leaves
    faults |= ~leaves & (np.abs(scores - values / 255) > 1e-5)
    return int(faults.sum())


RNG = np.random.default_rng(4)
MIXES = {
    "one leaves": [3],
    "one stays": [200],
    "all leave": list(range(30)),
    "none leaves": list(range(200, 230)),
    "one of many stays": [*range(20), 250, *range(20)],
    "half": RNG.permutation([*range(20), *range(200, 220)]).tolist(),
    "most": RNG.permutation([*range(5), *range(150, 190)]).tolist(),
}


@pytest.mark.parametrize("mix", MIXES)
def test_each_image_gets_its_own_answer(log, mix):
    subject = make(log)
    assert wrong(subject, MIXES[mix]) == 0
    assert wrong(subject, MIXES[mix][::-1]) == 0  # nothing of the call before shows
    if mix == "all leave":
        assert not any(name.startswith("network") for name in log)


def test_images_that_lie_on_the_device_are_taken_there(log):
    values = np.array(MIXES["half"])
    scores, _, exited = make(log).answers(torch.from_numpy(grey(values)))
    np.testing.assert_allclose(scores[~exited], values[~exited] / 255, atol=1e-6)


def test_the_network_runs_on_what_all_pieces_left_together(log):
    """One image stays of each piece of eight: they run as one batch, not one by one."""
    assert wrong(make(log), [200 if number % BATCH == 3 else 1 for number in range(BATCH * BATCH)]) == 0
    assert [name for name in log if name.startswith("network")] == ["network 8"]


def test_a_piece_is_screened_while_the_host_waits_for_the_one_before(log):
    subject = make(log)
    subject.answers(grey([1] * (4 * BATCH)))
    # Each lane is waited for before it is filled again, too, which costs nothing: its copy has long ended.
    screens = [place for place, name in enumerate(log) if name.startswith("screen")]
    waits = [place for place, name in enumerate(log) if name == "host waits"]
    assert len(screens) == 4
    assert screens[1] < waits[2], "the second piece is on its way before the first one's count is waited for"
    for number in range(1, 3):
        between = log[screens[number] + 1 : screens[number + 1]]
        assert "host waits" in between


def test_a_score_that_is_not_a_number_goes_to_the_network(log):
    scores, _, exited = make(log).answers(grey([1, 77, 2]))
    np.testing.assert_array_equal(exited, [True, False, True])
    assert scores[1] == pytest.approx(77 / 255)


def test_who_stays_comes_first_in_order():
    scores, _, order, staying = StayingFirst(Screen(), CUT)(torch.from_numpy(grey([1, 200, 77, 3, 250, 2])))
    assert order.tolist() == [1, 2, 4, 0, 3, 5]
    assert staying.tolist() == [3]
    assert scores.isnan().tolist() == [False, False, True, False, False, False]


def test_the_cut_is_the_same_on_both_sides_to_the_last_bit(log):
    """A score that is the cut, rounded to float32, stays, whichever way it was rounded."""
    for cut in (0.1, 0.3, 0.7, 1 / 3):

        class Fixed(torch.nn.Module):
            def forward(self, images, cut=cut):
                scores = torch.full((len(images),), cut)
                return scores, scores[:, None, None].expand(-1, 2, 2).clone()

        _, _, _, staying = StayingFirst(Fixed(), cut)(torch.zeros(3, SIDE, SIDE, 1, dtype=torch.uint8))
        assert staying.item() == int((~(np.full(3, cut, np.float32) < cut)).sum()) == 3


# -- planted faults ----------------------------------------------------------------------------------------------------


def test_an_order_mixed_up_in_the_gathering_shows(log, monkeypatch):
    subject, select = make(log), torch.index_select
    monkeypatch.setattr(torch, "index_select", lambda x, d, rows, out: select(x, d, rows.flip(0), out=out))
    assert wrong(subject, MIXES["half"]) > 0


def test_a_network_that_is_never_started_shows(log):
    subject = make(log)
    for graph in subject._network.values():
        graph.graph.replay = lambda: None
    assert wrong(subject, MIXES["half"]) > 0


def test_another_count_on_the_device_than_on_the_host_is_refused(log):
    subject = make(log)
    subject._screening = Screening(0.9, THRESHOLD, PIXEL_THRESHOLD)
    with pytest.raises(EngineError, match=r"lets 0 of 1 images leave early, and by their scores 1 do; do not use"):
        subject.answers(grey([200]))
