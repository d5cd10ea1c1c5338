"""Every layout: told by its folder names, read with its split, and what is missing is named."""

import pytest

from prn_fast.data.layouts import LAYOUTS, detect_layout, load_inspection_set
from prn_fast.data.samples import load_samples
from prn_fast.errors import ConfigError, DataError


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
    for name, marked in (("MT_Crack/Imgs/exp1_num_9", True), ("MT_Uneven/Imgs/exp1_num_8", False)):
        write(f"set/{name}.jpg")
        write(f"set/{name}.png", marked)


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


def test_an_empty_mask_of_the_magnetic_tiles_is_left_out(tmp_path, write):
    magnetic_tile(write)
    assert {sample.kind for sample in load_inspection_set(tmp_path / "set").test} == {"good", "crack"}


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
