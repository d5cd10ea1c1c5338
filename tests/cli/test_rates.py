"""The table of false-alarm rates: what is promised, how sure that is, and what is found, side by side."""

from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from prn_fast.cli.rates import rates_table
from prn_fast.training.calibration import Scored, calibration_entry
from prn_fast.training.conformal import rate_bound


@pytest.mark.parametrize("normals", [76, 200])
def test_each_rate_shows_what_is_expected_what_is_sure_and_what_is_found(normals):
    rng = np.random.default_rng(normals)
    good, found = rng.uniform(0, 0.5, normals).astype(np.float32), rng.uniform(0.3, 1, 40).astype(np.float32)
    scored = Scored(np.zeros((normals, 4, 4, 1), np.uint8), good)
    entry = calibration_entry(scored, found, None, source="training", defects="generated")
    out = StringIO()
    Console(file=out, width=140).print(rates_table(entry, "generated defects"))
    rows = {line.split()[1]: line for line in out.getvalue().splitlines() if line.startswith("│")}
    assert "extrapolated" in rows["0.1%"]
    if normals == 76:
        # 0.02 of 77 is one image, 0.05 three: the rates that are promised are 1 / 77 and 3 / 77.
        assert "extrapolated" in rows["1.0%"]
        assert "1.3%" in rows["2.0%"]
        assert f"{rate_bound(76, 1):.1%}" in rows["2.0%"]
        assert "3.9%" in rows["5.0%"]
        assert "2.6%" in rows
    else:
        assert "1.0%" in rows
        assert f"{rate_bound(200, 2):.1%}" in rows["1.0%"]
    assert all(f"of {len(found)} (" in line for line in rows.values())
