"""Every layout: told by its folder names, read with its split, and what is missing is named."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

from prn_fast.data.layouts import LAYOUTS, detect_layout, load_inspection_set
from prn_fast.data.samples import load_samples
from prn_fast.errors import ConfigError, DataError
from prn_fast.paths import shown_path


def mvtec(write):
    for name in ("train/good/0", "train/good/1", "test/good/0", "test/crack/0"):
        write(f"set/{name}.png")
    write("set/ground_truth/crack/0_mask.png", True)


def mvtec_ad2(write):
    for name in ("train/good/0", "train/good/1", "validation/good/2", "test_public/good/0", "test_public/bad/1"):
        write(f"set/{name}.png")
    write("set/test_public/ground_truth/bad/1_mask.png", True)


def btad(write):
    for name in ("train/ok/0000", "train/ok/0001", "test/ok/0000", "test/ko/0001"):
        write(f"set/{name}.bmp")
    write("set/ground_truth/ko/0001.png", True)


VISA_ROWS = [
    "candle,train,normal,set/Data/Images/Normal/9.JPG,",
    "set,train,normal,set/Data/Images/Normal/0.JPG,",
    "set,train,normal,set/Data/Images/Normal/1.JPG,",
    "set,test,normal,set/Data/Images/Normal/2.JPG,",
    "set,test,anomaly,set/Data/Images/Anomaly/0.JPG,set/Data/Masks/Anomaly/0.png",
]


def visa(write):
    for name in ("Normal/0", "Normal/1", "Normal/2", "Anomaly/0"):
        write(f"set/Data/Images/{name}.JPG")
    root = write("set/Data/Masks/Anomaly/0.png", True).parents[4]
    (root / "split_csv").mkdir()
    (root / "split_csv" / "1cls.csv").write_text("\n".join(["object,split,label,image,mask", *VISA_ROWS]))


def kolektor_sdd(write):
    # The hash puts kos04 on the test side, and the others on the training side.
    for item in ("kos01", "kos04", "kos05"):
        for part in (0, 1):
            write(f"set/{item}/Part{part}.jpg")
            write(f"set/{item}/Part{part}_label.bmp", item == "kos01" and part == 1)


def kolektor_sdd2(write):
    for name, marked in (
        ("train/0", False),
        ("train/1", False),
        ("train/2", True),
        ("test/3", False),
        ("test/4", True),
    ):
        write(f"set/{name}.png")
        write(f"set/{name}_GT.png", marked)


def dagm(write):
    for name in ("Train/0576", "Train/0577", "Train/0578", "Test/0001", "Test/0002"):
        write(f"set/{name}.PNG")
    write("set/Train/Label/0578_label.PNG", True)
    write("set/Test/Label/0002_label.PNG", True)


def magnetic_tile(write):
    # The hash of the file name puts the first and the third on the test side.
    for name in ("MT_Free/Imgs/exp1_num_1", "MT_Free/Imgs/exp1_num_2", "MT_Free/Imgs/exp1_num_3", "MT_Free/Imgs/x"):
        write(f"set/{name}.jpg")
    write("set/MT_Crack/Imgs/exp1_num_9.jpg")
    write("set/MT_Crack/Imgs/exp1_num_9.png", True)


WRITERS = [mvtec, mvtec_ad2, btad, visa, kolektor_sdd, kolektor_sdd2, dagm, magnetic_tile]


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.__name__)
def test_a_set_is_recognised_and_read(tmp_path, write, writer):
    writer(write)
    root = tmp_path / "set"
    assert detect_layout(root) == writer.__name__
    found = load_inspection_set(root)
    assert found == load_inspection_set(root, writer.__name__)
    assert len(found.train) >= 2
    assert sum(not sample.label for sample in found.test) >= 1
    anomalies = [sample for sample in (*found.test, *found.anomalies) if sample.label]
    assert len(anomalies) == (2 if writer in (kolektor_sdd2, dagm) else 1)
    assert all(not sample.label for sample in (*found.train, *found.validation))
    assert found.passed_over == ()
    # No image is on two sides, and every image and mask can be read.
    everything = (*found.train, *found.validation, *found.test, *found.anomalies)
    assert len({sample.path for sample in everything}) == len(everything)
    _, masks = load_samples(everything, 64, 1)
    assert [bool(mask.any()) for mask in masks] == [bool(sample.label) for sample in everything]


def test_every_layout_is_written_here():
    assert {writer.__name__ for writer in WRITERS} == set(LAYOUTS)


def test_published_splits_are_kept(tmp_path, write):
    visa(write)
    found = load_inspection_set(tmp_path / "set")
    assert [sample.path.name for sample in found.train] == ["0.JPG", "1.JPG"]
    assert [(sample.path.name, sample.label) for sample in found.test] == [("2.JPG", 0), ("0.JPG", 1)]


def test_held_out_normals_of_the_set_are_its_validation(tmp_path, write):
    mvtec_ad2(write)
    assert [sample.path.name for sample in load_inspection_set(tmp_path / "set").validation] == ["2.png"]


def test_items_of_kolektor_sdd_are_on_one_side(tmp_path, write):
    kolektor_sdd(write)
    found = load_inspection_set(tmp_path / "set")
    good_test = {sample.path.parent.name for sample in found.test if not sample.label}
    assert good_test
    assert not good_test & {sample.path.parent.name for sample in found.train}


def test_an_empty_mask_of_the_magnetic_tiles_is_left_out_and_named(tmp_path, write):
    magnetic_tile(write)
    write("set/MT_Uneven/Imgs/exp1_num_8.jpg")
    write("set/MT_Uneven/Imgs/exp1_num_8.png", False)
    found = load_inspection_set(tmp_path / "set")
    assert {sample.kind for sample in found.test} == {"good", "crack"}
    assert [(one.path.name, one.why) for one in found.passed_over] == [
        ("exp1_num_8.jpg", "unused image"),
        ("exp1_num_8.png", "unused image"),
    ]


@pytest.mark.parametrize(
    ("writer", "missing", "message"),
    [
        (mvtec_ad2, "test_public/ground_truth/bad/1_mask.png", "no mask for this image"),
        (btad, "ground_truth/ko/0001.png", "no mask for this image"),
        (visa, "Data/Masks/Anomaly/0.png", "but missing"),
        (visa, "Data/Images/Normal/1.JPG", "line 4, but missing"),
        (visa, "../split_csv/1cls.csv", "split file is missing"),
        (kolektor_sdd, "kos01/Part1_label.bmp", "no mask for this image"),
        (kolektor_sdd2, "test/4_GT.png", "no mask for this image"),
        (dagm, "Test/0002.PNG", "no image for this label"),
        (magnetic_tile, "MT_Crack/Imgs/exp1_num_9.png", "no mask for this image"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_missing_file_is_named(tmp_path, write, writer, missing, message):
    writer(write)
    (tmp_path / "set" / missing).unlink()
    with pytest.raises(DataError, match=message) as error:
        load_inspection_set(tmp_path / "set", writer.__name__)
    assert missing.split("/")[-1].split(".")[0].removesuffix("_mask") in str(error.value)


def test_what_has_no_place_in_the_layout_is_named(tmp_path, write):
    mvtec(write)
    root = tmp_path / "set"
    for name in ("train/good/camera 2/5.png", "train/bad/1.png", "test/@eaDir/0.png"):
        write(f"set/{name}")
    (root / "train" / "good" / "gone.png").symlink_to("nowhere.png")
    pages = [Image.fromarray(np.full((40, 48), level, np.uint8)) for level in (9, 99, 200)]
    pages[0].save(root / "train" / "good" / "pages.tif", save_all=True, append_images=pages[1:])
    found = load_inspection_set(root)
    assert [sample.path.name for sample in found.train] == ["0.png", "1.png", "pages.tif"]
    assert [(shown_path(one.path, root), one.why) for one in found.passed_over] == [
        ("train/bad/1.png", "unused image"),
        ("train/good/camera 2/5.png", "unused image"),
        ("test/@eaDir", "hidden folder"),
        ("train/good/gone.png", "dangling link"),
        ("train/good/pages.tif", "further page"),
        ("train/good/pages.tif", "further page"),
    ]


def test_links_in_a_set_are_followed(tmp_path, write):
    visa(write)
    for name in ("Data/Images/Normal", "Data/Masks/Anomaly/0.png"):
        place = tmp_path / "set" / name
        target = tmp_path / "elsewhere" / place.name
        target.parent.mkdir(exist_ok=True)
        place.rename(target)
        place.symlink_to(target)
    found = load_inspection_set(tmp_path / "set")
    assert [sample.path.name for sample in found.train] == ["0.JPG", "1.JPG"]
    assert found.passed_over == ()


# The names of KolektorSDD's images are fixed, and plain ASCII.
@pytest.mark.parametrize(
    "writer", [one for one in WRITERS if one is not kolektor_sdd], ids=lambda writer: writer.__name__
)
def test_masks_are_found_in_another_composition_of_unicode(tmp_path, write, writer):
    """As after a copy by way of a file system that takes names apart."""
    root = tmp_path / "set"
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))

    def accented(name, *marked):
        folder, _, file = name.rpartition("/")
        letter = decomposed if marked or "Label" in folder or "_GT" in file else composed
        return write(f"{folder}/{letter}{file}", *marked)

    writer(accented)
    if writer is visa:
        table = tmp_path / "split_csv" / "1cls.csv"
        lines = [line.replace("Normal/", f"Normal/{decomposed}") for line in table.read_text().splitlines()]
        lines = [line.replace("Anomaly/", f"Anomaly/{composed}") for line in lines]
        table.write_text("\n".join(lines), encoding="utf-8")
    found = load_inspection_set(root, writer.__name__)
    anomalies = [sample for sample in (*found.test, *found.anomalies) if sample.label]
    assert anomalies
    assert all(sample.mask.name.startswith(decomposed) for sample in anomalies)


def test_folders_of_masks_are_found_in_another_composition_of_unicode(tmp_path, write):
    composed, decomposed = (unicodedata.normalize(form, "Öl") for form in ("NFC", "NFD"))
    mvtec(write)
    write(f"set/test/{composed}/0.png")
    write(f"set/ground_truth/{decomposed}/0_mask.png", True)
    found = load_inspection_set(tmp_path / "set")
    assert composed in {sample.kind for sample in found.test}


@pytest.mark.parametrize("writer", [mvtec, magnetic_tile], ids=lambda writer: writer.__name__)
def test_names_that_are_not_utf_8_are_read(tmp_path, write, writer):
    def odd(name, *marked):
        folder, _, file = name.rpartition("/")
        return write(f"{folder}/\udcff{file}", *marked)

    writer(odd)
    assert len(load_inspection_set(tmp_path / "set").train) >= 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("set,train,normal,../secret.png,", "outside"),
        ("set,train,anomaly,set/Data/Images/Anomaly/0.JPG,", "an anomaly among the training images"),
        ("set,extra,normal,set/Data/Images/Normal/0.JPG,", "unknown split"),
    ],
)
def test_a_wrong_row_of_a_split_is_named(tmp_path, write, row, message):
    visa(write)
    with (tmp_path / "split_csv" / "1cls.csv").open("a") as file:
        file.write(f"\n{row}\n")
    with pytest.raises(DataError, match=f"line 7.*{message}"):
        load_inspection_set(tmp_path / "set")


def test_a_folder_of_several_products_points_to_one(tmp_path, write):
    mvtec(write)
    with pytest.raises(DataError, match=r"several products.*set"):
        load_inspection_set(tmp_path)


def test_unknown_layouts_are_refused(tmp_path, write):
    write("else/picture.png")
    with pytest.raises(DataError, match="train/good"):
        load_inspection_set(tmp_path / "else")
    with pytest.raises(ConfigError, match="unknown layout 'coco'"):
        load_inspection_set(tmp_path / "else", "coco")
    with pytest.raises(DataError, match="folder not found"):
        load_inspection_set(tmp_path / "nowhere")
