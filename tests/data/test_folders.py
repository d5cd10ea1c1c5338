"""Which files of a folder are images, what is passed over, and how it is told."""

import os
import socket

import pytest

from prn_fast.data.folders import IMAGE_SUFFIXES, PassedOver, find_images, list_images, rows, summary
from prn_fast.errors import DataError


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(paths, root):
    return [path.relative_to(root).as_posix() for path in paths]


def reasons(listing, root):
    return {one.path.relative_to(root).as_posix(): one.why for one in listing.passed_over}


def test_images_at_any_depth(tmp_path):
    touch(tmp_path, "b.png", "a/z.jpg", "a/b/c.TIFF", "a/notes.txt")
    listing = find_images(tmp_path)
    assert names(listing.images, tmp_path) == ["a/b/c.TIFF", "a/z.jpg", "b.png"]
    assert reasons(listing, tmp_path) == {"a/notes.txt": ".txt"}


def test_images_of_a_folder_alone(tmp_path):
    touch(tmp_path, "b.PNG", "a.jpg", "notes.txt", ".hidden.png")
    (tmp_path / "inner.png").mkdir()
    assert names(list_images(tmp_path), tmp_path) == ["a.jpg", "b.PNG"]
    assert reasons(find_images(tmp_path, below=False), tmp_path) == {"inner.png": "folder", "notes.txt": ".txt"}


def test_every_suffix_of_an_image_is_one(tmp_path):
    touch(tmp_path, *(f"a{suffix}" for suffix in IMAGE_SUFFIXES), *(f"b{suffix.upper()}" for suffix in IMAGE_SUFFIXES))
    assert len(list_images(tmp_path)) == 2 * len(IMAGE_SUFFIXES)
    assert {".webp", ".ppm", ".pgm", ".pnm", ".jfif", ".jpe"} <= set(IMAGE_SUFFIXES)


def test_links_are_followed_and_a_circle_of_them_ends(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    touch(tmp_path, "root/z/1.png", "elsewhere/2.png", "elsewhere/below/3.png", "single.png")
    (root / "a").symlink_to(elsewhere)
    (root / "b").symlink_to(elsewhere)
    (root / "c.png").symlink_to(tmp_path / "single.png")
    (root / "d").symlink_to(root / "z")
    (elsewhere / "up").symlink_to(root)
    listing = find_images(root)
    assert names(listing.images, root) == ["a/2.png", "a/below/3.png", "c.png", "z/1.png"]
    again = "second name of a folder"
    assert reasons(listing, root) == {"a/up": again, "b": again, "d": again}


def test_what_cannot_be_an_image_is_named_and_never_opened(tmp_path, monkeypatch):
    touch(tmp_path, "a.png", "movie.gif", "README")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    (tmp_path / ".#lock").symlink_to("user@host")
    (tmp_path / "null.png").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as one:
        # The name of a socket may be 107 bytes long; from its folder it is short.
        monkeypatch.chdir(tmp_path)
        one.bind("socket.png")
        listing = find_images(tmp_path)
    assert names(listing.images, tmp_path) == ["a.png"]
    assert reasons(listing, tmp_path) == {
        "README": "file without suffix",
        "circle.png": "dangling link",
        "gone.png": "dangling link",
        "movie.gif": ".gif",
        "null.png": "device",
        "pipe.png": "FIFO",
        "socket.png": "socket",
    }


def test_hidden_folders_are_not_inspected(tmp_path):
    hidden = [".Trash-1000", ".ipynb_checkpoints", "@eaDir", "__MACOSX"]
    touch(tmp_path, "a.png", "cam/b.png", *(f"{name}/a.png" for name in hidden), "cam/@eaDir/b.png")
    listing = find_images(tmp_path)
    assert names(listing.images, tmp_path) == ["a.png", "cam/b.png"]
    assert reasons(listing, tmp_path) == dict.fromkeys([*hidden, "cam/@eaDir"], "hidden folder")


def test_an_unreadable_folder_is_named(tmp_path, monkeypatch):
    touch(tmp_path, "a.png", "closed/b.png")
    scan = os.scandir

    def scandir(path):
        if os.path.basename(path) == "closed":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert reasons(find_images(tmp_path), tmp_path) == {"closed": "unreadable folder"}
    with pytest.raises(DataError, match=r"closed: cannot be read \(Permission denied\)"):
        find_images(tmp_path / "closed")


def test_the_summary_counts_all_and_names_what_could_have_been_an_image(tmp_path):
    found = [PassedOver(tmp_path / f"{index}.txt", ".txt") for index in range(3)]
    found += [PassedOver(tmp_path / "left" / "3.png", "dangling link"), PassedOver(tmp_path / ".x", "hidden folder")]
    assert summary(found, tmp_path) == "passed over: 3 .txt, 1 dangling link, 1 hidden folder: left/3.png"
    pages = [PassedOver(tmp_path / "scan.tif", "further page")] * 2
    assert summary(pages, tmp_path) == "passed over: 2 further pages: scan.tif"
    folders = [PassedOver(tmp_path / str(index), "second name of a folder") for index in range(12)]
    assert summary(folders, tmp_path) == (
        "passed over: 12 second names of a folder: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"
    )
    assert summary([], tmp_path) == ""
    assert list(rows(found[2:4], tmp_path)) == [
        {"path": "2.txt", "why": ".txt"},
        {"path": "left/3.png", "why": "dangling link"},
    ]


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match="nowhere: folder not found"):
        find_images(tmp_path / "nowhere")


def test_file_in_place_of_a_folder(tmp_path):
    touch(tmp_path, "a.png")
    with pytest.raises(DataError, match=r"a\.png: this is a file"):
        list_images(tmp_path / "a.png")


def test_folder_without_images(tmp_path):
    touch(tmp_path, "inner/picture.heic")
    with pytest.raises(DataError, match=r"no images in this folder \(passed over: 1 \.heic: inner/picture\.heic\)"):
        find_images(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images in this folder; put"):
        list_images(tmp_path / "empty")
