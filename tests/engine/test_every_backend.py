"""What every engine does, as one table that is run on every backend this machine has (`backends.TABLE`)."""

import copy
import os
import pickle

import numpy as np
import pytest
import torch

from prn_fast.errors import EngineError
from prn_fast.package import Package
from tests.engine.backends import BATCH, PARAMETERS, STAND_INS, TABLE
from tests.engine.sharing import said_by_a_fork, wrong_answers
from tests.small_package import SIDE, textured_images

# More than two batches, and an odd one over.
IMAGES = textured_images(2 * BATCH + 1, 1, 77)


@pytest.fixture(scope="module", params=PARAMETERS)
def backend(request):
    return request.param


@pytest.fixture(scope="module")
def engine(request, backend):
    """One for all that leaves it as it was."""
    with TABLE[backend].open(request.getfixturevalue) as opened:
        yield opened


@pytest.fixture(scope="module")
def truth(request, backend):
    return TABLE[backend].truth(request.getfixturevalue, IMAGES)


# -- answers -----------------------------------------------------------------------------------------------------------


def test_answers_are_right_whatever_the_number_of_images(engine, backend, truth):
    """Also again, and in another number: nothing of an earlier call shows."""
    for count in (len(IMAGES), 1, BATCH, len(IMAGES)):
        found = engine.infer(IMAGES[:count])
        assert found.scores.dtype == found.maps.dtype == np.float32
        assert (found.scores.shape, found.maps.shape) == ((count,), (count, SIDE, SIDE))
        assert np.abs(found.maps - truth[:count]).mean(axis=(1, 2)).max() <= TABLE[backend].mean_map


def test_an_image_gets_its_own_answer_in_any_company(engine, backend):
    whole = engine.infer(IMAGES)
    order = np.random.default_rng(3).permutation(len(IMAGES))
    for found, chosen in [
        (engine.infer(IMAGES[order]), order),
        *((engine.infer(IMAGES[[index]]), [index]) for index in (0, 3)),
    ]:
        np.testing.assert_allclose(found.raw_scores, whole.raw_scores[chosen], atol=TABLE[backend].score)
        assert np.abs(found.maps - whole.maps[chosen]).mean(axis=(1, 2)).max() <= TABLE[backend].mean_map


def test_a_stream_gives_the_answers_of_single_calls_in_order(engine, backend):
    """Of images and batches of any size; what is put in may change once the next is asked for."""
    whole, buffer = engine.infer(IMAGES), np.empty_like(IMAGES[:1])

    def images():
        for image in (IMAGES[0], IMAGES[1:4], IMAGES[4:]):
            if image.ndim == 3:
                buffer[0] = image
                yield buffer[0]
                buffer[:] = 0
            else:
                yield image

    found = list(engine.infer_many(images()))
    assert [len(one.scores) for one in found] == [1, 3, len(IMAGES) - 4]
    maps = np.concatenate([one.maps for one in found])
    assert np.abs(maps - whole.maps).mean(axis=(1, 2)).max() <= TABLE[backend].mean_map
    with pytest.raises(EngineError, match="no images"):
        list(engine.infer_many([IMAGES[:1], IMAGES[:0]]))
    # One that is left before its end holds nothing up.
    assert len(next(engine.infer_many(IMAGES)).scores) == 1


def test_verdicts_are_those_of_the_package(engine, backend, request):
    """At its threshold, on its own validation images: what is clearly on one side of it stays there."""
    images = Package.open(request.getfixturevalue("built_package_path")).validation().images[::3]
    truth = TABLE[backend].truth(request.getfixturevalue, images)
    scores = np.sort(truth.reshape(len(truth), -1))[:, -100:].mean(axis=1)
    if backend in STAND_INS:
        scores = truth.mean(axis=(1, 2))
    sure = np.abs(scores - engine.threshold) > TABLE[backend].score
    assert sure.sum() >= len(images) // 2
    np.testing.assert_array_equal(engine.infer(images).defective[sure], (scores >= engine.threshold)[sure])


# -- images ------------------------------------------------------------------------------------------------------------


def channel_first(images):
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)


def every_second(images):
    wide = np.zeros((2 * len(images), SIDE, 2 * SIDE, 3), np.uint8)
    wide[::2, :, ::2, 1:2] = images
    return wide[::2, :, ::2, 1:2]


def read_only(images):
    images = images.copy()
    images.flags.writeable = False
    return images


class ByInterface:
    """What other libraries offer: an address and a shape."""

    def __init__(self, images):
        self.images, self.__array_interface__ = images, images.__array_interface__


# Each of the same images.
VIEWS = {
    "negative strides": lambda images: images[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
    "channels reversed": lambda images: images[..., ::-1],
    "Fortran order": np.asfortranarray,
    "channel first": channel_first,
    "every second": every_second,
    "read-only": read_only,
    "of bytes": lambda images: np.frombuffer(images.tobytes(), np.uint8).reshape(images.shape),
    "memoryview": memoryview,
    "array interface": ByInterface,
    "subclass": lambda images: images.view(type("Own", (np.ndarray,), {})),
    "unaligned": lambda images: np.frombuffer(b"x" + images.tobytes(), np.uint8, offset=1).reshape(images.shape),
    "torch": torch.from_numpy,
    "torch, channel first": lambda images: torch.from_numpy(channel_first(images)),
    "torch, every second": lambda images: torch.from_numpy(every_second(images)),
    "torch parameter": lambda images: torch.nn.Parameter(torch.from_numpy(images), requires_grad=False),
}


@pytest.mark.filterwarnings("error")
def test_every_array_that_numpy_can_view_gives_the_same_answers(engine):
    images = IMAGES[: BATCH + 1]
    expected = engine.infer(images)
    for name, view in VIEWS.items():
        found = engine.infer(view(images))
        np.testing.assert_array_equal(found.maps, expected.maps, err_msg=name)
        np.testing.assert_array_equal(found.raw_scores, expected.raw_scores, err_msg=name)


REFUSED = [
    (np.zeros((1, SIDE, SIDE, 1), np.float32), "images have dtype float32"),
    (np.zeros((1, SIDE, SIDE, 1), bool), "images have dtype bool"),
    (np.zeros((SIDE, SIDE, 1), np.uint8), r"takes \(N, 64, 64, 1\)"),
    (np.zeros((1, SIDE, SIDE, 3), np.uint8), r"takes \(N, 64, 64, 1\)"),
    (np.zeros((1, 1, SIDE, SIDE), np.uint8), r"takes \(N, 64, 64, 1\)"),
    (np.zeros((0, SIDE, SIDE, 1), np.uint8), "no images"),
    ([[1, 2], [3, 4]], "must be a numpy array or a torch tensor, not list"),
    (None, "must be a numpy array or a torch tensor, not NoneType"),
    ("abc", "must be a numpy array or a torch tensor, not str"),
    (b"abc", r"images have dtype \|S3"),
    (torch.zeros(1, SIDE, SIDE, 1, dtype=torch.bfloat16), "images cannot be read as a numpy array: .*BFloat16"),
    (torch.zeros(1, SIDE, SIDE, 1, dtype=torch.uint8, device="meta"), "images cannot be read as a numpy array: "),
    (torch.zeros(1, SIDE, SIDE, 1, dtype=torch.uint8).to_sparse(), "images cannot be read as a numpy array: "),
]


@pytest.mark.parametrize(("images", "message"), REFUSED)
def test_bad_input_is_refused_in_one_line_before_anything_runs(engine, images, message):
    with pytest.raises(EngineError, match=message) as caught:
        engine.infer(images)
    assert "\n" not in str(caught.value)


# -- threads, forks, copies, and the end -------------------------------------------------------------------------------


def test_each_thread_gets_the_answers_to_its_own_images(engine):
    assert wrong_answers(engine) == 0


def test_an_engine_of_the_process_before_a_fork_says_so(engine):
    engine.infer(IMAGES[:1])
    said = said_by_a_fork(lambda: list(engine.infer_many(IMAGES[:1])))
    assert "was opened by process" in said
    said = said_by_a_fork(lambda: engine.infer(IMAGES[:1]))
    assert said.startswith(f"EngineError: {engine.name} was opened by process {os.getpid()}, and process ")
    assert said.endswith("open an engine in the process that uses it")
    assert len(engine.infer(IMAGES[:1]).scores) == 1


@pytest.mark.parametrize("act", [pickle.dumps, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"])
def test_engines_are_neither_pickled_nor_copied(engine, act):
    with pytest.raises(EngineError, match=r"cannot be pickled or copied: .*open an engine in the process that uses it"):
        act(engine)


def test_a_closed_engine_says_so(backend, request):
    with TABLE[backend].open(request.getfixturevalue) as opened:
        opened.close()
        opened.close()
        with pytest.raises(EngineError, match=r"is closed; open it again$"):
            opened.infer(IMAGES[:1])
