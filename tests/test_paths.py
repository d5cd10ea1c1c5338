"""Paths as text."""

import json
import os
import unicodedata
from pathlib import Path, PurePath

from prn_fast.paths import LONGEST_NAME, composed, derived_paths, find_spelling, natural_order, shown_path


def test_paths_are_shown_with_forward_slashes_below_their_root():
    assert shown_path(Path("/data/a/b.png"), Path("/data")) == "a/b.png"
    assert shown_path(Path("/data/a/b.png"), Path("/else")) == "/data/a/b.png"
    assert shown_path("a/[1] é.png") == "a/[1] é.png"


def test_names_that_are_not_utf_8_can_be_written_anywhere():
    path = Path(os.fsdecode(b"caf\xe9.png"))
    assert shown_path(path) == r"caf\xe9.png"
    assert json.dumps(shown_path(path), ensure_ascii=False).encode()


def test_numbers_in_names_are_ordered_as_such():
    names = ["10.png", "9.png", "a10b2.png", "a9b10.png", "a10b1.png", "02.png", "2.png", "b.png", "٣.png"]
    ordered = [path.name for path in sorted(map(Path, names), key=natural_order)]
    assert ordered == ["02.png", "2.png", "٣.png", "9.png", "10.png", "a9b10.png", "a10b1.png", "a10b2.png", "b.png"]


def test_a_name_is_found_in_another_composition(tmp_path):
    nfc, nfd = (unicodedata.normalize(form, "Öl.png") for form in ("NFC", "NFD"))
    assert composed(nfd) == nfc != nfd
    assert find_spelling(tmp_path / nfc) == tmp_path / nfc
    (tmp_path / nfd).touch()
    assert find_spelling(tmp_path / nfc) == tmp_path / nfd
    (tmp_path / nfc).touch()
    assert find_spelling(tmp_path / nfc) == tmp_path / nfc
    assert find_spelling(tmp_path / "nowhere" / nfc) == tmp_path / "nowhere" / nfc


def test_derived_paths_keep_the_names_of_their_sources():
    paths = [PurePath("a.png"), PurePath("a.jpg"), PurePath("below/a.png")]
    assert derived_paths(paths, ".png") == [PurePath(f"{path}.png") for path in paths]


def test_derived_paths_neither_clash_nor_grow_too_long(tmp_path):
    long = "é" * 120
    paths = [
        *(PurePath(name) for name in ("a.png", "a.png.png/a.png", "a.png.png/b.png")),
        *(PurePath(f"{long}{end}.png") for end in ("xxxxxx1", "xxxxxx2", "\udcff")),
    ]
    derived = derived_paths(paths, ".png")
    assert len(set(derived)) == len(paths)
    for path in derived:
        assert len(os.fsencode(path.name)) <= LONGEST_NAME
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    assert derived[0].name.startswith("a.png-")
    assert all(path.name.startswith("é" * 100) for path in derived[3:])
