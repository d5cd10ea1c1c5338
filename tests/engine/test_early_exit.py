"""Early exit in the base class and on backends: who leaves, with which answer, and whose answer is whose."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional

from prn_fast.build import build_engine
from prn_fast.engine import Detections, Engine, open_engine
from prn_fast.engine.base import Thresholds
from prn_fast.engine.early_exit import Screening, enlarge, logit, moved
from prn_fast.engine.openvino_streams import HELD, WAITING
from prn_fast.engine.parity import TOLERANCES, ScreenParity
from prn_fast.errors import EngineError
from prn_fast.training.metrics import image_metrics
from tests.small_package import SIDE, write_package

CUT, THRESHOLD, PIXEL_THRESHOLD = 0.3, 0.62, 0.41


class TwoStages(Engine):
    """Image i is grey of value i: the screen's score is set for each value, the network's map is the value itself."""

    def __init__(self, screen_scores, batch=4, alone=False):
        screening = Screening(CUT, THRESHOLD, PIXEL_THRESHOLD, alone)
        super().__init__("two stages", SIDE, 1, batch, None, Thresholds(THRESHOLD, PIXEL_THRESHOLD), screening)
        self.screen_scores = np.asarray(screen_scores, np.float32)
        self.whole: list[int] = []

    def screen(self, images):
        scores = self.screen_scores[images[:, 0, 0, 0]]
        return scores, np.broadcast_to(scores[:, None, None], (len(images), SIDE // 8, SIDE // 8))

    def run(self, images):
        assert len(images) <= self.batch
        values = images[:, 0, 0, 0]
        self.whole += values.tolist()
        maps = np.broadcast_to((values / np.float32(255))[:, None, None], (len(images), SIDE, SIDE))
        return maps[:, 0, 0], maps


class MixedUp(TwoStages):
    """The planted fault: what stays is gathered in another order."""

    def gathered(self, images, rows):
        return super().gathered(images, rows)[::-1]


class NeverWhole(TwoStages):
    """The planted fault: the network is not asked."""

    def fill(self, images, scores, maps):
        scores[:], maps[:] = 0.0, 0.0


def grey(count):
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, SIDE, SIDE, 1))


def wrong(engine, count):
    """How many of the images have an answer that is not their own, over mixes of images and ways to ask."""
    images, faults = grey(count), 0
    rng = np.random.default_rng(0)
    orders = [np.arange(count), *(rng.permutation(count) for _ in range(3))]
    for order in orders:
        cuts = np.unique([0, *rng.integers(0, count, 3), count])
        batches = [images[order[start:stop]] for start, stop in pairwise(cuts)]
        for found in (
            [engine.infer(images[order])],
            list(engine.infer_many(batches)),
            list(engine.infer_many(images[order])),
        ):
            maps = np.concatenate([one.maps for one in found])
            exited = np.concatenate([one.exited for one in found])
            scores = np.concatenate([one.raw_scores for one in found])
            leaves = engine.screen_scores[order] < CUT
            expected = np.where(leaves, moved(engine.screen_scores[order], CUT, PIXEL_THRESHOLD), order / 255)
            faults += int((exited != leaves).sum())
            faults += int((np.abs(maps - expected[:, None, None]).max(axis=(1, 2)) > 1e-4).sum())
            faults += int((scores[leaves] >= THRESHOLD).sum())
    return faults


MIXES = {
    "all leave": np.zeros(23),
    "none leaves": np.full(23, 0.9),
    "at the cut": np.full(23, CUT, np.float32),
    "one stays": np.eye(1, 23, 7)[0],
    "half": np.random.default_rng(5).random(23) * 2 * CUT,
}


@pytest.mark.parametrize("batch", [1, 3, 8, 64])
@pytest.mark.parametrize("mix", MIXES)
def test_each_image_gets_its_own_answer_for_any_mix_and_batch(mix, batch):
    engine = TwoStages(MIXES[mix], batch)
    assert wrong(engine, 23) == 0
    assert set(engine.whole) == set(np.flatnonzero(engine.screen_scores >= CUT))


def test_planted_faults_are_found():
    assert wrong(MixedUp(MIXES["half"]), 23) > 0
    assert wrong(NeverWhole(MIXES["one stays"]), 23) > 0


def test_who_leaves_is_below_both_thresholds_and_nan_never_leaves():
    scores = np.float32([0.0, CUT / 2, np.nextafter(np.float32(CUT), np.float32(0)), np.nan])
    maps = np.ones((4, 8, 8), np.float32)  # single pixels of an image that leaves may be high
    for threshold in (1e-6, 0.3, THRESHOLD, 1 - 1e-6):
        raw, full = np.full(4, np.nan, np.float32), np.full((4, SIDE, SIDE), np.nan, np.float32)
        leaves = Screening(CUT, threshold, threshold).answer(scores, maps, raw, full)
        np.testing.assert_array_equal(leaves, [True, True, True, False])
        assert (raw[:3].astype(float) < threshold).all()
        assert (full[:3].astype(float) < threshold).all()
        assert (np.diff(raw[:3]) >= 0).all()
        assert np.isnan(raw[3])
        assert np.isnan(full[3]).all()


def test_the_screen_alone_judges_at_its_cut_and_refuses_nan():
    scores = np.float32([0.1, CUT, 0.9])
    engine = TwoStages(scores, alone=True)
    found = engine.infer(grey(3))
    np.testing.assert_array_equal(found.defective, scores >= np.float32(CUT))
    np.testing.assert_array_equal(found.maps[:, 0, 0] >= PIXEL_THRESHOLD, [False, True, True])
    assert engine.whole == []
    with pytest.raises(EngineError, match="NaN"):
        TwoStages([np.nan], alone=True).infer(grey(1))


def test_a_map_keeps_its_place_and_range_when_it_is_enlarged():
    small = np.full((2, 8, 8), 0.25, np.float32)
    small[0] = 0
    small[0, 2, 5] = 1
    maps = np.full((4, 64, 64), np.nan, np.float32)
    enlarge(small, maps, np.array([3, 1]))
    assert np.unravel_index(maps[3].argmax(), maps[3].shape) in {(y, x) for y in (19, 20) for x in (43, 44)}
    assert 0 <= maps[3].min() <= maps[3].max() <= 1
    np.testing.assert_allclose(maps[1], 0.25, rtol=1e-6)
    assert np.isnan(maps[[0, 2]]).all()


def test_maps_are_enlarged_as_torch_does():
    small = np.random.default_rng(0).random((3, 32, 32), np.float32)
    maps = np.empty((3, 256, 256), np.float32)
    enlarge(small, maps, np.arange(3))
    wide = torch.from_numpy(small)[:, None].double()
    expected = functional.interpolate(wide, size=(256, 256), mode="bilinear", align_corners=False)[:, 0]
    np.testing.assert_allclose(maps, expected, atol=1e-6)


WAKES = """
import os
import time
import numpy as np
from prn_fast.engine.early_exit import Screening

def switches():  # of all other threads: one that sleeps has none
    counts = {}
    for thread in os.listdir("/proc/self/task"):
        if int(thread) != os.getpid():
            with open(f"/proc/self/task/{thread}/status") as status:
                counts[thread] = [int(line.split()[1]) for line in status if "ctxt_switches" in line]
    return counts

np.ones((500, 500), np.float32) @ np.ones((500, 500), np.float32)  # starts the library's threads, if it has any
screening, maps = Screening(0.5, 0.5, 0.5), np.empty((1, 256, 256), np.float32)
small = np.full((1, 32, 32), 0.1, np.float32)
screening.answer(np.float32([0.1]), small, np.empty(1, np.float32), maps)
time.sleep(0.5)  # until they have gone to sleep
before = switches()
for _ in range(50):
    screening.answer(np.float32([0.1]), small, np.empty(1, np.float32), maps)
print("woken" if switches() != before else "asleep")
"""


def test_an_answer_wakes_no_other_thread():
    """Else they spin on the cores that the engine needs: a matrix product took three times the screen's own time."""
    done = subprocess.run([sys.executable, "-c", WAKES], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["asleep"]


@pytest.fixture(scope="module")
def screened(tmp_path_factory):
    """A package with a screen that lets half of all go, and OpenVINO's graphs of both."""
    package = write_package(tmp_path_factory.mktemp("screened") / "small.prn", screen=True)
    entry = build_engine(package, "openvino", "fp32")
    assert entry["screen"] == package.screen_digest
    assert entry["early_exit"]["lost"] <= entry["early_exit"]["float_lost"]
    return package


@pytest.mark.long
@pytest.mark.parametrize("name", ["eager", "optimized", "openvino:fp32"])
def test_backends_let_go_what_the_screen_lets_go_and_nothing_else_changes(screened, name):
    images = screened.validation().images[::2]
    with (
        open_engine(screened, name, batch=4) as early,
        open_engine(screened, name, early_exit=False, batch=4) as whole,
        open_engine(screened, name, screen_only=True, batch=4) as alone,
    ):
        found, complete, screen = early.infer(images), whole.infer(images), alone.infer(images)
        streamed = list(early.infer_many([images[:1], *images[1:6], images[6:]]))
        early.warm_up(images[:1])
        with pytest.raises(EngineError, match="was opened with screen_only=True"):
            alone.infer_whole(images[:1])
    assert 0 < found.exited.sum() < len(images)
    assert not complete.exited.any()
    np.testing.assert_array_equal(found.exited, ~screen.defective)
    np.testing.assert_allclose(found.maps[~found.exited], complete.maps[~found.exited], atol=1e-5)
    np.testing.assert_allclose(found.maps[found.exited], screen.maps[found.exited], atol=1e-5)
    assert not found.defective[found.exited].any()
    assert (found.maps[found.exited] < early.pixel_threshold).all()
    assert [len(one.scores) for one in streamed] == [1] * 6 + [len(images) - 6]
    np.testing.assert_allclose(np.concatenate([one.maps for one in streamed]), found.maps, atol=1e-5)
    np.testing.assert_array_equal(np.concatenate([one.exited for one in streamed]), found.exited)


@pytest.mark.long
def test_a_stream_is_filled_again_before_it_runs_dry(screened):
    """Else all requests but the slowest stand still at the end of each batch."""
    images = screened.validation().images
    with open_engine(screened, "openvino:fp32") as engine:
        stream = engine.stream()
        count = WAITING * stream._requests  # full at once
        stream.close()
        events = []

        def batches():
            for number in range(6):
                events.append(f"put {number}")
                yield np.resize(images, (count, *images.shape[1:]))

        for number, found in enumerate(engine.infer_many(batches())):
            assert len(found.scores) == count
            events.append(f"taken {number}")
        assert events.index("put 1") < events.index("taken 0")
        for number in range(6 - HELD // WAITING):  # and no more are held than may be
            assert events.index(f"taken {number}") < events.index(f"put {number + HELD // WAITING}")


@pytest.mark.long
def test_each_image_gets_its_own_answer_from_streams_of_several_threads(screened):
    """For any mix of exits and batch sizes, with strips that follow each other."""
    images = screened.validation().images
    with open_engine(screened, "openvino:fp32") as engine:
        alone = [engine.infer(image[None]) for image in images]
        leaves = np.concatenate([one.exited for one in alone])
        assert 0 < leaves.sum() < len(images)

        def wrong(seed):
            rng = np.random.default_rng(seed)
            # Nearly all leave, nearly all stay, and anything between.
            odds = np.where(leaves, *rng.permutation([1.0, rng.choice([0.02, 0.3, 1.0])]))
            order = rng.choice(len(images), 60, p=odds / odds.sum())
            cuts = np.unique([0, *rng.integers(0, 60, rng.integers(1, 20)), 60])
            found = engine.infer_many(images[order[start:stop]] for start, stop in pairwise(cuts))
            faults = 0
            for one, (start, stop) in zip(found, pairwise(cuts), strict=True):
                for row, index in enumerate(order[start:stop]):
                    same = one.exited[row] == leaves[index]
                    faults += not (same and np.allclose(one.maps[row], alone[index].maps[0], atol=1e-5))
            return faults

        with ThreadPoolExecutor(3) as threads:
            assert sum(threads.map(wrong, range(9))) == 0


def test_without_a_screen_all_run_whole_and_the_screen_alone_is_refused(built_package_path):
    with open_engine(built_package_path, "optimized") as engine:
        assert engine.screening is None
    for name in ("optimized", "openvino:fp32"):
        with pytest.raises(EngineError, match="has no screen; add one: prn-train --add-screen"):
            open_engine(built_package_path, name, screen_only=True)


def test_a_screen_that_says_the_same_of_all_is_not_built_in():
    """The planted fault of a constant head, and that of one that cannot tell a flagged defect from normal images."""
    labels = np.repeat([0, 1], 4)
    whole = Detections.of(np.float32([0.1] * 4 + [0.9] * 4), np.zeros((8, 1, 1), np.float32))

    def screened(scores):
        scores = np.float32(scores)
        return Detections.of(scores, np.zeros((8, 1, 1), np.float32), CUT, scores < CUT)

    def faults(scores):
        good = screened([0.1] * 4 + [0.9] * 4)
        parity = ScreenParity.of(
            screened(scores), good, whole, labels, lambda found: image_metrics(found.raw_scores, labels).auroc
        )
        return parity.faults(TOLERANCES["int8"])

    assert faults([0.1] * 4 + [0.8] * 4) == []
    assert "0.0% of normal images leave, 100.0% in float32" in faults([0.5] * 8)
    assert "0.0% of normal images leave, 100.0% in float32" in faults([0.1] * 4 + [0.8] * 3 + [0.1])


def test_the_cut_moves_with_an_engines_scores():
    """An engine whose scores all are lower by the same logits lets the same images leave."""
    labels = np.repeat([0, 1], 4)
    maps = np.zeros((8, 1, 1), np.float32)
    whole = Detections.of(np.float32([0.1] * 4 + [0.9] * 3 + [0.2]), maps)
    logits = np.array([-3.0, -2.0, -1.0, 0.2, 0.5, 2.0, 3.0, -4.0])

    def screened(logits):
        scores = np.float32(1 / (1 + np.exp(-logits)))
        return Detections.of(scores, maps, 0.5, scores < 0.5)

    def auroc(found):
        return image_metrics(found.raw_scores, labels).auroc

    moved = ScreenParity.of(screened(logits - 0.8), screened(logits), whole, labels, auroc)
    assert moved.cut_shift == pytest.approx(-0.8, abs=1e-4)
    assert (moved.exit_share, moved.float_exit_share) == (0.75, 0.75)
    assert (moved.flagged, moved.lost, moved.float_lost) == (3, 0, 0)
    # One of the three that the network flags comes lower than all: by so much the cut goes down.
    lower = ScreenParity.of(screened(logits - np.eye(8)[5] * 3.2), screened(logits), whole, labels, auroc)
    assert lower.cut_shift == pytest.approx(-1.7, abs=1e-4)
    assert lower.lost == 0
    assert lower.exit_share == 0.5


def test_an_engine_is_opened_with_its_own_cut(screened):
    name = "openvino:fp32"
    shift = screened.engines[name]["early_exit"]["cut_shift"]
    with open_engine(screened, name) as engine:
        assert logit(engine.screening.cut) == pytest.approx(logit(screened.early_exit.cut) + shift)
    lower = Screening.of(screened, early_exit=True, screen_only=False, cut_shift=-0.7)
    assert logit(lower.cut) == pytest.approx(logit(screened.early_exit.cut) - 0.7)
