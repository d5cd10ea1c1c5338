"""The study of a fading lamp: its webs, what it counts, and its record."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from prn_fast.bench.figures import FIGURES
from prn_fast.bench.linescan.drift import (
    Line,
    doubled,
    drawn_web,
    drift_figures,
    main,
    measure_line,
    study_line,
    web,
)
from prn_fast.data.images import write_image
from tests.small_package import textured_images


def test_a_web_has_the_light_and_the_noise_that_it_should():
    tiles = np.full((3, 32, 32, 1), 100, np.uint8)
    light = np.linspace(1, 0.5, 50)
    drawn = np.concatenate(list(web(tiles, light, 0)))
    assert drawn.shape == (50, 32, 32, 1)
    np.testing.assert_allclose(drawn.mean(axis=(1, 2, 3)), 100 * light, atol=0.5)
    assert 1 < drawn[0].std() < 2
    assert len(np.unique(drawn.reshape(50, -1), axis=0)) == 50


class MeanEngine:
    """Scores an image by its mean, and keeps what it was given."""

    def __init__(self):
        self.seen = []

    def infer(self, images):
        self.seen.append(images)
        return SimpleNamespace(raw_scores=images.mean(axis=(1, 2, 3)) / 255)


def test_the_tiles_that_calibrate_are_each_seen_once_by_the_same_camera():
    tiles = np.full((30, 16, 16, 1), 5, np.uint8) * np.arange(1, 31, dtype=np.uint8)[:, None, None, None]
    engine = MeanEngine()
    line = measure_line(engine, tiles, np.ones(40), scored=40, calibrating=12, seed=0)
    np.testing.assert_allclose(line.calibrating[:, 0] * 255, 5 * np.arange(1, 13), atol=0.5)
    seen = np.concatenate(engine.seen)
    assert (seen.std(axis=(1, 2, 3)) > 1).all(), "all have the camera's noise"
    assert line.unchanged[:, 0].min() * 255 > 60, "the web is made of the other tiles"


def test_a_longer_web_takes_each_tile_from_those_at_its_light():
    fading = np.stack([np.arange(500.0)] * 3, axis=1)
    drawn = drawn_web(fading, 2000, 0)[:, 0]
    assert np.abs(drawn - np.arange(2000) / 4).max() <= 26
    assert len(np.unique(drawn)) > 400
    assert drawn_web(fading, 500, 0) is fading


@pytest.mark.parametrize("at", [4000, None])
def test_false_alarms_have_doubled_where_they_stay_twice_as_many(at):
    alarms = np.zeros(10_000, bool)
    alarms[::50] = True  # 2 %
    alarms[1000:1300:10] = True  # by chance, many in one place
    if at is not None:
        alarms[at::20] = True
    found = doubled(alarms, 0.02)
    assert found is None if at is None else abs(found - at) <= 100


def test_a_line_without_a_false_alarm_has_not_twice_as_many_from_the_start():
    line = line_of(0.3)
    line.unchanged[:, 0] = line.calibrating[:, 0].min()
    line.fading[:2000, 0] = line.calibrating[:, 0].min()
    found = study_line(line, 0.3, None, "fp32", 4000, 2000, 0)
    assert found["false_alarm_rate"] == 0
    assert found["doubled"] >= 1900


def line_of(faded: float, count: int = 4000) -> Line:
    """Scores that rise as brightness falls."""

    def figures(number, light, seed):
        rng = np.random.default_rng(seed)
        logits = -3 + 0.5 * rng.standard_normal(number) + 1.5 * (1 - light)
        return np.stack(
            [1 / (1 + np.exp(-logits)), 100 * light + rng.standard_normal(number), rng.normal(20, 1, number)], axis=1
        )

    light = 1 - faded * np.arange(count) / count
    return Line(figures(100, 1.0, 1), figures(2000, 1.0, 2), figures(count, light, 3))


def test_a_line_that_fades_is_told_in_time_and_an_unchanged_one_is_not():
    told = study_line(line_of(0.3), 0.3, None, "fp32", 10_000, 20_000, 0)
    assert [one["reference"] for one in told["watched"]] == [
        "calibration with tiles of the line",
        "first tiles of the line",
    ]
    for one in told["watched"]:
        assert one["in_time"]
        assert one["fading"]["watch"] < one["fading"]["act"] < told["doubled"]
        assert "act" not in one["unchanged"]
    assert told["steps"][0]["light"] == pytest.approx(0.9925)
    assert sum(step["tiles"] for step in told["steps"]) == 10_000
    assert told["steps"][-1]["quantiles"]["brightness"][25] == pytest.approx(70.75, abs=0.5)
    # A lamp that stays is none that was seen in time.
    steady = study_line(line_of(0.0), 0.0, None, "fp32", 10_000, 20_000, 0)
    assert not any(one["in_time"] for one in steady["watched"])


def test_the_command_records_its_run_and_pages_show_it(package, tmp_path, capsys):
    folder = tmp_path / "good"
    folder.mkdir()
    for number, image in enumerate(textured_images(20, 1, 3)):
        write_image(folder / f"{number}.png", image)
    file = tmp_path / "results" / "some-cpu" / "linescan" / "drift-small.json"
    file.parent.mkdir(parents=True)
    short = ["--calibrating", "12", "--run", "60", "--scored", "60", "--tiles", "2000", "--unchanged", "2400"]
    assert main([str(package.path), "--good", str(folder), "--json", str(file), "--allow-dirty", *short]) == 0
    record = json.loads(file.read_text())
    assert record["package"]["name"] == package.path.name
    assert record["web"] == "a web of 8 real images"
    assert record["watched"][0]["reference"] == "package"
    shown = FIGURES["drift"](tmp_path / "results")
    assert drift_figures(record) in shown
    assert record["command"] in shown
    capsys.readouterr()
    for wrong, message in [
        (["--good", str(folder), "--fade", "1.5"], "no share of the light"),
        (["--good", str(folder), "--calibrating", "20", *short[2:]], "20 of 20 tiles cannot calibrate"),
        (["--material", "cheese"], "unknown material cheese"),
    ]:
        assert main([str(package.path), *wrong]) == 2
        assert message in capsys.readouterr().err
