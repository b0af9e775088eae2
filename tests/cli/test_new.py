"""`segnl new`: from a folder as people have it to a recipe that trains."""

import shlex
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnl.cli.main import main
from segnl.core.config import read_file
from segnl.data.find import DATASETS
from segnl.labels.table import distinct_colour, read_tsv
from segnl.runs.recipe import load_recipe

COLOURS = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], np.uint8)


def ids(i: int) -> np.ndarray:
    random = np.random.default_rng(i)
    return np.kron(random.integers(0, 3, (5, 7)), np.ones((8, 8), int))[:37, :53].astype(np.uint8)


def write(root: Path, image: str, label: str, number: int, paint: Callable[[np.ndarray], Image.Image]) -> None:
    for name, picture in ((image, Image.new("RGB", (53, 37), (number, 9, 9))), (label, paint(ids(number)))):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(root / name)


def binary(label: np.ndarray) -> Image.Image:
    return Image.fromarray((label > 0).astype(np.uint8) * 255)


def palette(label: np.ndarray) -> Image.Image:
    image = Image.fromarray(np.where(label == 2, 255, label).astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 128, 0, 0] + [0] * 756 + [224, 224, 192])
    return image


def colours(label: np.ndarray) -> Image.Image:
    return Image.fromarray(COLOURS[label])


LAYOUTS = {
    "splits above": ("{split}/images/a{i}.jpg", "{split}/masks/a{i}.png", Image.fromarray),
    "splits below": ("images/{split}/a{i}.png", "labels/{split}/a{i}.png", Image.fromarray),
    "nested": ("images/{split}/town{i}/a.png", "labels/{split}/town{i}/a.png", Image.fromarray),
    "suffix beside": ("{split}/a{i}.jpg", "{split}/a{i}_mask.png", binary),
    "no splits": ("img/a{i}.jpg", "gt/a{i}_gt.png", binary),
    "jpeg and png": ("a{i}.jpg", "a{i}.png", Image.fromarray),
    "colours": ("images/a{i}.jpg", "annotations/a{i}.png", colours),
    "words in names": ("my {split}_images/A{i}.JPG", "my {split}_masks/A{i}.PNG", Image.fromarray),
    "a word above": ("pet_segmentation/{split}/a{i}.jpg", "pet_segmentation/{split}/a{i}_mask.png", binary),
    "cameras": ("cam{i}/{split}/images/a.jpg", "cam{i}/{split}/masks/a.png", Image.fromarray),
    "palette": ("JPEGImages/a{i}.jpg", "SegmentationClass/a{i}.png", palette),
}


@pytest.mark.parametrize("spelling", [("train", "val"), ("training", "validation")])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_becomes_a_recipe_with_all_its_pairs(layout, spelling, tmp_path, monkeypatch, capsys):
    image, label, paint = LAYOUTS[layout]
    if spelling[0] == "training" and "{split}" not in image:
        pytest.skip("this layout has no splits")
    root = tmp_path / "mine"
    for i in range(10):
        split = spelling[i >= 7]
        write(root, image.format(split=split, i=i), label.format(split=split, i=i), i, paint)
    monkeypatch.chdir(tmp_path)
    assert main(["new", str(root)]) == 0
    recipe = load_recipe(tmp_path / "mine.yaml")
    sizes = [len(DATASETS.find("folder")(recipe.data, split)) for split in ("train", "val")]
    assert sizes == ([7, 3] if "{split}" in image else [8, 2])
    data = DATASETS.find("folder")(recipe.data, "train")
    assert data.table.num_classes == (2 if paint in (binary, palette) else 3)
    assert set(np.unique(data.read(0).label)) <= {0, 1, 2, 255}
    assert "segnl train --config mine.yaml" in capsys.readouterr().out


BESIDE = {
    "overlays": ("images/a{i}.jpg", "masks/a{i}.png", ["overlays/a{i}.jpg", "vis/a{i}.jpg"]),
    "labelme2voc": ("JPEGImages/a{i}.jpg", "SegmentationClassPNG/a{i}.png", ["SegmentationObjectPNG/a{i}.png"]),
    "Vistas": ("{split}/images/a{i}.jpg", "{split}/v2.0/labels/a{i}.png", ["{split}/v2.0/instances/a{i}.png"]),
    "drone": ("d/original_images/a{i}.jpg", "d/label_images_semantic/a{i}.png", ["RGB_color_image_masks/a{i}.png"]),
    "whole name": ("ds0/img/a{i}.jpg", "ds0/masks_machine/a{i}.jpg.png", ["ds0/masks_human/a{i}.jpg.png"]),
    "Oxford pets": ("images/a{i}.jpg", "annotations/trimaps/a{i}.png", []),
    "SegNet": ("{split}/a{i}.png", "{split}annot/a{i}.png", []),
    "no split": ("a_tRain/images/a{i}.jpg", "a_tRain/images_tRain_masks/a{i}.png", []),
    "UAVid": ("uavid_{split}/s{i}/Images/a.png", "uavid_{split}/s{i}/Labels/a.png", []),
}


@pytest.mark.parametrize("layout", BESIDE)
def test_the_folders_that_share_most_names_are_paired(layout, tmp_path, monkeypatch, capsys):
    image, label, others = BESIDE[layout]
    for i in range(5):
        split = "val" if i > 2 else "train"
        names = image.format(split=split, i=i), label.format(split=split, i=i)
        write(tmp_path / "d", *names, 10 * i, lambda label, i=i: Image.fromarray(ids(i)))
        for name in others:
            other = name.format(split=split, i=i)
            paint = Image.fromarray if "Object" in name or "instances" in name else colours
            write(tmp_path / "d", other, other, i, paint)
    monkeypatch.chdir(tmp_path)
    assert main(["new", "d"]) == 0, capsys.readouterr().out
    recipe = load_recipe(tmp_path / "d.yaml")
    for split, count in (("train", 3), ("val", 2)) if "{split}" in image else (("train", 4), ("val", 1)):
        data = DATASETS.find("folder")(recipe.data, split)
        assert len(data) == count
        for number in range(count):
            pixels = data.read(number)
            np.testing.assert_array_equal(pixels.label, ids(int(pixels.image[0, 0, 0] + 5) // 10))


def test_a_split_is_told_by_a_word_of_its_folder_unless_that_leaves_pairs_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, folders, sizes in (
        ("a", ["my-val", "train set", "train set"], "2 training and 1 validation"),
        ("b", ["val loop", "town", "field"], "2 training and 1 validation"),
    ):
        for i, folder in enumerate(folders):
            write(tmp_path / name, f"{folder}/images/a{i}.jpg", f"{folder}/masks/a{i}.png", i, colours)
        assert main(["new", name]) == 0
        printed = capsys.readouterr().out
        assert sizes in printed
        assert ("splits: my-val 1, train set 2" if name == "a" else "images: */images/*; labels: */masks/*") in printed
    recipe = load_recipe(tmp_path / "a.yaml")
    assert DATASETS.find("folder")(recipe.data, "val").sample_ids == ["a0"]


def test_a_folder_for_each_camera_is_read_whole_and_what_is_left_out_is_counted(tmp_path, monkeypatch, capsys):
    for camera, count in ((1, 2), (2, 7), (3, 5)):
        for i in range(count):
            write(tmp_path / "cams", f"cam{camera}/images/a{i}.jpg", f"cam{camera}/masks/a{i}_gt.png", i, colours)
    Image.new("RGB", (53, 37)).save(tmp_path / "cams" / "cam3" / "images" / "new.jpg")
    for i in range(3):
        write(tmp_path / "cams", f"preview/a{i}.jpg", f"preview/b{i}.jpg", i, colours)
    monkeypatch.chdir(tmp_path)
    assert main(["new", "cams"]) == 0
    printed = capsys.readouterr().out
    assert "images: */images/*; labels: */masks/*_gt; 14 pairs" in printed
    assert "left out: 7 pictures without a partner or in other folders (6 in preview, 1 in cam3/images)" in printed
    assert "cams.yaml: 11 training and 3 validation images" in printed
    options = shlex.split(printed.partition("train with ")[2].partition("\n")[0])
    config = load_recipe(tmp_path / "cams.yaml", options[1:])
    splits = [DATASETS.find("folder")(config.data, split) for split in ("train", "val")]
    cameras = [{name.rpartition("/")[0] for name in data.sample_ids} for data in splits]
    assert cameras[0] | cameras[1] == {"cam1", "cam2", "cam3"}
    assert not cameras[0] & cameras[1]
    (tmp_path / "cams" / "cam2" / "masks" / "a3_gt.png").unlink()
    assert main(["check", "--config", "cams.yaml"]) != 0
    assert "expected cam2/masks/a3_gt" in capsys.readouterr().out.replace("\n", "")


def test_pairs_of_a_split_that_is_not_read_are_counted(tmp_path, monkeypatch, capsys):
    for i in range(5):
        split = "test" if i < 2 else "train"
        write(tmp_path / "two", f"{split}/images/a{i}.jpg", f"{split}/masks/a{i}.png", i, colours)
    monkeypatch.chdir(tmp_path)
    assert main(["new", "two"]) == 0
    assert "left out: 2 pairs of other splits; only train is read" in capsys.readouterr().out


def test_a_second_spelling_of_a_split_is_counted(tmp_path, monkeypatch, capsys):
    for i, split in enumerate(["Train", "Train", "train", "val", "validation"]):
        write(tmp_path / "two", f"{split}/images/a{i}.jpg", f"{split}/masks/a{i}.png", i, colours)
    monkeypatch.chdir(tmp_path)
    assert main(["new", "two"]) == 0
    printed = capsys.readouterr().out
    assert "left out: 1 in train, 1 in validation; a split is read from one folder: join or rename them" in printed
    assert "two.yaml: 2 training and 1 validation images" in printed


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("codes.txt", "a\n\nb\nc\n", "codes.txt is not used: line 2 holds no name"),
        ("codes.txt", "# mine\na\nb\nc\n", "codes.txt is not used: line 1 holds no name"),
        ("id2label.json", '{"0": "a", "1": "b", "1": "c", "2": "d"}', "id2label.json is not used: an id stands twice"),
        ("codes.txt", "\ufeffa\r\nb\r\nc\r\n\r\n", "classes: a, b, c;"),
        ("id2label.json", '{"0": "a", "1": "b", "2": "c"}', "classes: a, b, c;"),
    ],
)
def test_names_that_may_be_of_other_ids_are_not_used(file, content, says, tmp_path, monkeypatch, capsys):
    for i in range(3):
        write(tmp_path / "ids", f"images/a{i}.jpg", f"masks/a{i}.png", i, Image.fromarray)
    (tmp_path / "ids" / file).write_bytes(content.encode())
    monkeypatch.chdir(tmp_path)
    assert main(["new", "ids"]) == 0
    assert says in capsys.readouterr().out


def test_the_recipe_trains_and_is_scored(tmp_path, monkeypatch):
    for i in range(6):
        write(tmp_path / "pets", f"images/a{i}.jpg", f"masks/a{i}.png", i, binary)
    monkeypatch.chdir(tmp_path)
    assert main(["new", "pets", "--head", "fcn"]) == 0
    small = ["model.backbone.width=0.125", "train.max_steps=2", "train.batch_size=2", "data.workers=0"]
    small += ["model.head.channels=8", "train.pictures=false"]
    options = [word for override in small for word in ("--set", override)]
    assert main(["train", "--config", "pets.yaml", "--run", "pets", *options]) == 0
    assert main(["eval", "--checkpoint", "checkpoints/pets"]) == 0


def test_lists_of_a_voc_folder_are_its_splits(tmp_path, monkeypatch):
    for i in range(4):
        write(tmp_path / "voc", f"JPEGImages/a{i}.jpg", f"SegmentationClass/a{i}.png", i, palette)
    lists = tmp_path / "voc" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a0\na2\na3\n")
    (lists / "val.txt").write_text("a1\n")
    monkeypatch.chdir(tmp_path)
    assert main(["new", "voc"]) == 0
    assert read_file(tmp_path / "voc.yaml")["data"]["samples"] == "ImageSets/Segmentation/{split}.txt"
    assert (tmp_path / "voc" / "classes.tsv").read_text().splitlines()[2] == "1\tforeground\t128\t0\t0"


def test_a_table_of_colours_with_an_endless_cell_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for i in range(4):
        write(tmp_path / "c", f"images/a{i}.jpg", f"labels/a{i}.png", i, colours)
    (tmp_path / "c" / "class_dict.csv").write_text('"' + "0" * 200_000)
    assert main(["new", "c"]) == 3
    assert "class_dict.csv: field larger than field limit" in capsys.readouterr().err


def test_names_of_colours_are_taken_from_class_dict_csv(tmp_path, monkeypatch):
    for i in range(4):
        write(tmp_path / "c", f"images/a{i}.jpg", f"labels/a{i}.png", i, colours)
    (tmp_path / "c" / "class_dict.csv").write_text("name,r,g,b\rsky,0,0,0\rroad,128,0,0\rtree,0,128,0\r")
    monkeypatch.chdir(tmp_path)
    assert main(["new", "c"]) == 0
    label_map = read_file(tmp_path / "c.yaml")["data"]["label_map"]
    assert [*label_map.items()] == [("sky", ["#000000"]), ("road", ["#800000"]), ("tree", ["#008000"])]


@pytest.mark.parametrize(
    ("table", "names", "note"),
    [
        ("sky,0,0,0\nroad,128,0,0\ntree,0,128,0\n", ["sky", "road", "tree"], ""),
        ("sky,0,0,0\nroad,128,0,0\ntree,0,128,0\nvoid,1,1,1\n", ["sky", "road", "tree"], ""),
        ("a,0,0,0\nb,1,1,1\n", ["class_0", "class_1", "class_2"], "class_dict.csv is not used: 2 rows for ids to 2"),
    ],
)
def test_names_of_ids_are_the_rows_of_class_dict_csv(table, names, note, tmp_path, monkeypatch, capsys):
    for i in range(4):
        write(tmp_path / "c", f"frames/a{i}.jpg", f"annotated/a{i}.png", i, Image.fromarray)
    (tmp_path / "c" / "class_dict.csv").write_text("name,r,g,b\n" + table)
    monkeypatch.chdir(tmp_path)
    assert main(["new", "c"]) == 0
    rows = (tmp_path / "c" / "classes.tsv").read_text().splitlines()[1:]
    assert [row.split("\t")[1] for row in rows] == names
    assert note in capsys.readouterr().out


def test_names_of_ids_are_those_of_roboflow(tmp_path, monkeypatch, capsys):
    for i in range(5):
        split = "valid" if i > 3 else "train"
        write(tmp_path / "r", f"{split}/a{i}_jpg.rf.0b.jpg", f"{split}/a{i}_jpg.rf.0b_mask.png", i, Image.fromarray)
        (tmp_path / "r" / split / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, cat\n2, big, dog\n")
    monkeypatch.chdir(tmp_path)
    assert main(["new", "r"]) == 0
    assert "classes: background; cat; big, dog; rename them in classes.tsv" in capsys.readouterr().out


def test_nothing_that_exists_is_replaced(tmp_path, monkeypatch, capsys):
    for i in range(4):
        write(tmp_path / "m", f"images/a{i}.jpg", f"masks/a{i}.png", i, binary)
    table = "index\tname\tr\tg\tb\n0\tsky\t1\t1\t1\n255\tpet\t2\t2\t2\n"
    (tmp_path / "m" / "classes.tsv").write_text(table)
    monkeypatch.chdir(tmp_path)
    assert main(["new", "m"]) == 0
    assert (tmp_path / "m" / "classes.tsv").read_text() == table
    assert main(["new", "m"]) == 2
    assert "m.yaml: exists already" in capsys.readouterr().err
    links = [tmp_path / "x.yaml", tmp_path / "m" / "classes.tsv"]
    links[1].unlink()
    for link in links:
        link.symlink_to(tmp_path / "elsewhere")
        assert main(["new", "m", "--out", "x.yaml"]) == 2
        assert f"{link.name}: exists" in capsys.readouterr().err
        assert link.is_symlink()
        link.unlink()


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ([], "no pairs of images and labels (no files)"),
        (["frames/a.jpg", "b/c/a.png"], "(1 .png, 1 .jpg in b/c, frames); expected folders such as"),
        (["a.jpg", "b.jpg"], "no pairs of images and labels (2 .jpg)"),
        (["a.jpg", "a.json"], "perhaps annotations, but neither LabelMe nor COCO with outlines"),
        (["images/a.jpg", "labels/a.txt", "notes.json"], "perhaps YOLO labels: these need a data.yaml"),
        (
            ["images/img_1.jpg", "masks/mask_1.png"],
            "images such as images/img_1.jpg, labels such as masks/mask_1.png; ",
        ),
        (["images/a.jpg", "masks/a.npy"], "perhaps labels in a form that is not read: export them as PNG"),
        (["a.zip"], "segnl new FILE.zip reads it"),
        (["data-00000-of-00001.arrow", "state.json"], "write it with to_parquet"),
        (["aachen_000000_000019_gtFine_labelIds.png"], "is Cityscapes, which has recipes of its own"),
        (["ADE_train_00000001.png", "ADE_train_00000001.jpg"], "is ADE20K, which has recipes of its own"),
    ],
)
def test_a_folder_without_pairs_is_one_line_that_says_what_is_there(files, says, tmp_path, monkeypatch, capsys):
    (tmp_path / "x").mkdir()
    for name in files:
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert main(["new", "x"]) == 3
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("levels", [[0, 85, 170, 255], [0, 64, 128, 191, 255], [0, 128, 255], [0, 255]])
def test_evenly_spaced_grey_levels_are_a_class_each(levels, tmp_path, monkeypatch, capsys):
    for i in range(3):
        label = Image.fromarray(np.resize(np.array(levels, np.uint8), (37, 53)))
        write(tmp_path / "d", f"images/a{i}.png", f"labels/a{i}.png", i, lambda _, label=label: label)
    monkeypatch.chdir(tmp_path)
    assert main(["new", "d"]) == 0
    assert f"grey levels, a class each: {', '.join(map(str, levels))}" in capsys.readouterr().out
    assert [row.file_id for row in read_tsv(tmp_path / "d" / "classes.tsv")] == levels


def test_masks_with_smooth_edges_are_refused_unless_a_table_names_their_ids(tmp_path, monkeypatch, capsys):
    for i in range(3):
        smooth = binary(ids(i)).resize((40, 30)).resize((53, 37))
        write(tmp_path / "d", f"images/a{i}.png", f"labels/a{i}.png", i, lambda _, smooth=smooth: smooth)
    monkeypatch.chdir(tmp_path)
    assert main(["new", "d"]) == 3
    assert "values up to 255; expected one for each class. Were they saved as JPEG" in capsys.readouterr().err
    (tmp_path / "d" / "classes.tsv").write_text("index\tname\tr\tg\tb\n0\ta\t0\t0\t0\n255\tb\t9\t9\t9\n")
    assert main(["new", "d"]) == 0


def test_labels_that_hold_255_in_place_of_a_class_are_counted(tmp_path, monkeypatch, capsys):
    for i in range(5):
        paint = binary if i > 2 else lambda label: Image.fromarray((label > 0).astype(np.uint8))
        write(tmp_path / "d", f"images/a{i}.png", f"labels/a{i}.png", i, paint)
    monkeypatch.chdir(tmp_path)
    assert main(["new", "d"]) == 0
    assert "ignored: 255 (2 of 5 labels hold 0 and 255 only)" in capsys.readouterr().out


def test_a_second_mask_of_an_image_is_said(tmp_path, monkeypatch, capsys):
    for i in range(3):
        write(tmp_path / "d", f"benign ({i}).png", f"benign ({i})_mask.png", i, binary)
    binary(ids(1)).save(tmp_path / "d" / "benign (1)_mask_1.png")
    monkeypatch.chdir(tmp_path)
    assert main(["new", "d"]) == 0
    assert "to do: benign (1)_mask_1.png look like further masks of labels" in capsys.readouterr().out


def test_ids_that_the_folder_s_own_table_does_not_name_are_ignored(tmp_path, monkeypatch, capsys):
    for i in range(4):
        write(tmp_path / "m", f"images/a{i}.jpg", f"masks/a{i}.png", i, Image.fromarray)
    (tmp_path / "m" / "classes.tsv").write_text("index\tname\tr\tg\tb\n0\tsky\t1\t1\t1\n2\tpet\t2\t2\t2\n")
    monkeypatch.chdir(tmp_path)
    assert main(["new", "m"]) == 0
    assert read_file(tmp_path / "m.yaml")["data"]["ignore_ids"] == [1]
    assert "ignored: 1, which classes.tsv does not name" in capsys.readouterr().out


def test_colours_of_the_folder_s_own_table_are_its_classes(tmp_path, monkeypatch):
    for i in range(4):
        write(tmp_path / "c", f"images/a{i}.jpg", f"masks/a{i}.png", i, colours)
    table = "index\tname\tr\tg\tb\n0\tsky\t0\t0\t0\n1\troad\t128\t0\t0\n"
    (tmp_path / "c" / "classes.tsv").write_text(table)
    monkeypatch.chdir(tmp_path)
    assert main(["new", "c"]) == 0
    recipe = load_recipe(tmp_path / "c.yaml")
    data = DATASETS.find("folder")(recipe.data, "train")
    assert data.table.names == ("sky", "road")
    assert set(np.unique(data.read(0).label)) == {0, 1, 255}


def test_composed_and_decomposed_names_are_pairs(tmp_path, monkeypatch, capsys):
    for i, name in enumerate(("e\u0301 b", "u\u0308", "c")):
        write(tmp_path / "mine", f"images/{name}.jpg", f"masks/{unicodedata.normalize('NFC', name)}.png", i, binary)
    write(tmp_path / "mine", "images/alone.jpg", "elsewhere/alone.png", 3, binary)
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine"]) == 0
    out = capsys.readouterr().out
    assert "3 pairs" in out
    assert "left out: 2 pictures without a partner or in other folders (1 in elsewhere" in out
    assert main(["check", "--config", "mine.yaml"]) == 0


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_grey_levels_in_colour_are_named_as_classes(mode, tmp_path, monkeypatch, capsys):
    for i in range(4):
        write(tmp_path / "mine", f"images/{i}.jpg", f"masks/{i}.png", i, lambda label: binary(label).convert(mode))
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine"]) == 0
    assert "classes: background, foreground; rename and join them in data.label_map" in capsys.readouterr().out
    assert main(["check", "--config", "mine.yaml"]) == 0


@pytest.mark.parametrize("has_table", [False, True])
def test_palettes_that_differ_from_file_to_file_are_read_as_colours(has_table, tmp_path, monkeypatch, capsys):
    for i in range(4):
        order = np.roll([0, 1, 2], i)  # of the colours in the palette, as programs that shrink files choose it

        def optimised(label: np.ndarray, order: np.ndarray = order) -> Image.Image:
            image = Image.fromarray(np.argsort(order).astype(np.uint8)[label]).convert("P")
            image.putpalette(COLOURS[order].ravel().tolist())
            return image

        write(tmp_path / "mine", f"images/{i}.jpg", f"masks/{i}.png", i, optimised)
    if has_table:
        rows = "".join(f"{i}\tclass{i}\t{r}\t{g}\t{b}\n" for i, (r, g, b) in enumerate(COLOURS.tolist()))
        (tmp_path / "mine" / "classes.tsv").write_text(f"index\tname\tr\tg\tb\n{rows}")
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine"]) == 0
    assert "palettes differ" in capsys.readouterr().out
    recipe = load_recipe(tmp_path / "mine.yaml")
    for split in ("train", "val"):
        data = DATASETS.find("folder")(recipe.data, split)
        for i in range(len(data)):
            colour = data.table.colour(data.read(i).label)
            np.testing.assert_array_equal(colour, COLOURS[ids(int(data.label_path(i).stem))])


def test_pascal_voc_has_its_names(tmp_path, monkeypatch, capsys):
    def voc(label: np.ndarray) -> Image.Image:
        picture = Image.fromarray(np.where(label == 2, 255, label * 15).astype(np.uint8)).convert("P")
        picture.putpalette([level for i in range(256) for level in distinct_colour(i)])
        return picture

    names = [f"2007_00003{i}" for i in range(4)]
    for i, name in enumerate(names):
        write(tmp_path, f"VOC2012/JPEGImages/{name}.jpg", f"VOC2012/SegmentationClass/{name}.png", i, voc)
    lists = tmp_path / "VOC2012" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(names[:3]))
    (lists / "val.txt").write_text(names[3])
    monkeypatch.chdir(tmp_path)
    assert main(["new", "VOC2012"]) == 0
    out = capsys.readouterr().out
    assert "classes: background, person" in out
    assert "splits: the lists ImageSets/Segmentation/{split}.txt" in out
    assert "--checkpoint checkpoints/VOC2012" in out


def test_jpeg_labels_are_named_as_such(tmp_path, monkeypatch, capsys):
    write(tmp_path / "mine", "a.jpg", "a_mask.jpg", 0, binary)
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine"]) == 3
    assert "a_mask.jpg looks like a label, but JPEG changes the values" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "ignored", "left"),
    [
        (["road", "tree", "Void"], ["Void"], ["road", "tree"]),
        (["road", "tree", "void", "ignore"], ["void", "ignore"], ["road", "tree"]),
        (["Ignore", "__VOID__", "road", "tree"], ["Ignore", "__VOID__"], ["road", "tree"]),
        (["void", "road", "tree", "void"], ["void", "void"], ["road", "tree"]),
        (["ignore", "road"], [], ["ignored", "road"]),
    ],
)
def test_colours_called_void_or_the_like_are_ignored(tmp_path, monkeypatch, capsys, names, ignored, left):
    palette = np.array([[0, 0, 0], [0, 0, 128], [0, 128, 0], [128, 0, 0]][: len(names)], np.uint8)
    label = Image.fromarray(palette[np.arange(37 * 53).reshape(37, 53) % len(names)])
    for i in range(4):
        write(tmp_path / "mine", f"images/{i}.jpg", f"masks/{i}.png", i, lambda _: label)
    rows = [f"{name},{','.join(map(str, colour))}\n" for name, colour in zip(names, palette.tolist(), strict=True)]
    (tmp_path / "mine" / "class_dict.csv").write_text("name,r,g,b\n" + "".join(rows))
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine"]) == 0
    assert (f"ignored: {', '.join(map(repr, ignored))} (data.label_map)" in capsys.readouterr().out) == bool(ignored)
    table = DATASETS.find("folder").table_of(load_recipe(tmp_path / "mine.yaml").data)
    assert list(table.names) == left
    assert table.label_values.keys() == {red << 16 | green << 8 | blue for red, green, blue in palette.tolist()}


def test_a_colour_without_a_name_is_refused(tmp_path, monkeypatch, capsys):
    for i in range(4):
        write(tmp_path / "mine", f"images/{i}.jpg", f"masks/{i}.png", i, colours)
    (tmp_path / "mine" / "class_dict.csv").write_text("name,r,g,b\nroad,128,0,0\n,0,128,0\n")
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine"]) == 3
    assert "class_dict.csv: ',0,128,0': a class has an empty name; give it one" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x\ninit: evil\n#", "x\rinit: evil\r#", "x\x85init: evil", "x\u2028init: evil"])
def test_the_name_of_a_folder_adds_no_line_to_the_recipe(
    name: str, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_data.rename(tmp_path / name)
    assert main(["new", name, "--out", "r.yaml"]) == 0
    assert "init" not in read_file(tmp_path / "r.yaml")


@pytest.mark.parametrize("labels", ["a{i}_mask.png", "masks/a{i}.png"])
def test_the_line_for_predict_names_no_label(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, labels: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for i in range(9):
        write(tmp_path / "my data", f"a{i}.png", labels.format(i=i), i, colours)
    main(["new", "my data"])
    (line,) = (own for own in capsys.readouterr().out.splitlines() if "segnl predict" in own)
    words = shlex.split(line, comments=True)
    images = words[words.index("checkpoints/my data") + 1 : words.index("--out")]
    assert images
    for path in images:
        assert Path(path).is_file()
        assert (Path(path).parent / labels.format(i=Path(path).stem[1:])).is_file()


def test_images_of_seven_bands_are_refused_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tifffile = pytest.importorskip("tifffile")
    for i in range(3):
        write(tmp_path / "data", f"images/a{i}.png", f"labels/a{i}.png", i, Image.fromarray)
        (tmp_path / f"data/images/a{i}.png").unlink()
        pixels = np.full((37, 53, 7), i, np.uint8)
        tifffile.imwrite(tmp_path / f"data/images/a{i}.tif", pixels, planarconfig="contig", photometric="minisblack")
    assert main(["new", str(tmp_path / "data"), "--out", str(tmp_path / "r.yaml")]) == 3
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith("segnl new cannot plan such images: write the recipe by hand (data/README.md)")
    assert not (tmp_path / "r.yaml").exists()


def test_a_fourth_band_is_said_beside_the_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(3):
        write(tmp_path / "data", f"images/a{i}.png", f"labels/a{i}.png", i, Image.fromarray)
        bands = np.random.default_rng(i).integers(0, 256, (37, 53, 4), dtype=np.uint8)
        Image.fromarray(bands, "RGBA").save(tmp_path / f"data/images/a{i}.png")
    main(["new", str(tmp_path / "data"), "--out", str(tmp_path / "r.yaml")])
    out = capsys.readouterr().out
    assert "to do: " in out
    assert "set model.input.channels (data/README.md)" in out


@pytest.mark.parametrize(
    ("names", "rows", "note"),
    [
        ("a\nb\nc\nd\n", ["a", "b", "c"], "1 of 4 names in classes.txt occur in no label"),
        ("a\na\nc\n", ["class_0", "class_1", "class_2"], "classes.txt is not used: a name stands twice"),
        ("a\nb\n", ["class_0", "class_1", "class_2"], "classes.txt is not used: 2 names for ids to 2"),
        ("a\x0cd\nb\u2028\te\r\nc\n", ["a d", "b e", "c"], ""),
    ],
)
def test_names_of_a_list_are_taken_or_the_reason_is_said(
    names: str,
    rows: list[str],
    note: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        write(tmp_path / "set", f"images/a{number}.jpg", f"labels/a{number}.png", number, Image.fromarray)
    (tmp_path / "set" / "classes.txt").write_bytes(names.encode())
    assert main(["new", "set", "--out", "r.yaml"]) == 0
    table = (tmp_path / "set" / "classes.tsv").read_text().split("\n")[1:-1]
    assert [row.split("\t")[1] for row in table] == rows
    assert note in capsys.readouterr().out


@pytest.mark.parametrize("name", [" a", "a\u2028b", "a\nb"])
def test_a_name_that_no_list_can_hold_is_refused_before_one_is_written(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for i in range(5):
        write(tmp_path / "mine", f"images/{name}{i}.png", f"labels/{name}{i}.png", i, Image.fromarray)
    code = main(["new", "mine"])
    if "\n" not in name:
        assert code == 0
        return
    assert code == 3
    assert "cannot hold a line break; rename the file" in capsys.readouterr().err
    assert not (tmp_path / "mine/segnl_splits").exists()
