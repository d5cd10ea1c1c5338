import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prn_fast.json_text import json_text

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=30)


@given(VALUES)
def test_it_reads_as_it_was(value):
    assert json.loads(json_text(value)) == value


def test_what_is_short_stands_on_one_line():
    value = {"name": "a", "latencies": list(range(100)), "sizes": [{"side": 1, "figures": [1, 2]}, {"side": 2}]}
    assert json_text(value).splitlines() == [
        "{",
        ' "name": "a",',
        f' "latencies": {value["latencies"]},',
        ' "sizes": [',
        "  {",
        '   "side": 1,',
        '   "figures": [1, 2]',
        "  },",
        '  {"side": 2}',
        " ]",
        "}",
    ]


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": {"b": [float("nan")]}}])
def test_what_json_has_no_word_for_is_refused(value):
    with pytest.raises(ValueError, match="JSON compliant"):
        json_text(value)
