"""Masks of other toolkits: every form of file gives the same ids, and what cannot be paired or read is one line."""

import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segnl.core.errors import DataError
from segnl.data.coco_masks import CategoryIds, Mask, Masks, coco_masks
from segnl.data.mask_files import find_masks, pair_masks

IDS = np.random.default_rng(0).integers(0, 4, (7, 11)).astype(np.uint8)
IDS[0, :3] = 255


def read(path: Path, sample_id: str = "a", suffix: str = "") -> np.ndarray:
    return find_masks(path, suffix)[sample_id].read()


def run_lengths(is_class: np.ndarray) -> list[int]:
    """Runs of 0 and 1 in turn, 0 first, column by column."""
    counts, value = [0], 0
    for own in is_class.T.ravel().astype(int):
        if own != value:
            counts.append(0)
            value = own
        counts[-1] += 1
    return counts


def compressed(counts: list[int]) -> str:
    """COCO's text form: from the fourth length on the difference from the one two before, 5 bits a character."""
    text = ""
    for i, count in enumerate(counts):
        value, more = count - (counts[i - 2] if i > 2 else 0), True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != (-1 if bits & 0x10 else 0)
            text += chr((bits | (0x20 if more else 0)) + 48)
    return text


def results(*, is_text: bool) -> list[dict[str, Any]]:
    return [
        {
            "image_id": "a",
            "category_id": c,
            "segmentation": {
                "size": list(IDS.shape),
                "counts": compressed(run_lengths(c == IDS)) if is_text else run_lengths(c == IDS),
            },
        }
        for c in range(4)
    ]


def write_panoptic(folder: Path, *, listed: int = 4) -> Path:
    """Segments 1000 + 300 c of class c; where there is no class the PNG is black."""
    segment = np.where(IDS < 4, 1000 + 300 * IDS.astype(int), 0)
    (folder / "pan").mkdir()
    rgb = np.stack([segment % 256, segment // 256 % 256, segment // 256**2], axis=-1).astype(np.uint8)
    Image.fromarray(rgb).save(folder / "pan" / "a.png")
    info = [{"id": 1000 + 300 * c, "category_id": c} for c in range(listed)]
    annotation = {"image_id": 1, "file_name": "a.png", "segments_info": info}
    (folder / "pan.json").write_text(json.dumps({"annotations": [annotation]}))
    return folder / "pan.json"


def test_a_grey_png_a_palette_png_and_a_tiff_hold_their_values(tmp_path: Path) -> None:
    palette = Image.fromarray(IDS).convert("L")
    palette.putpalette(list(range(255, -1, -1)) * 3)
    for name, image in (("a.png", Image.fromarray(IDS)), ("b/c.png", palette), ("d.tif", Image.fromarray(IDS))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        image.save(tmp_path / name)
    masks = find_masks(tmp_path)
    assert sorted(masks) == ["a", "b/c", "d"]
    assert all(np.array_equal(mask.read(), IDS) for mask in masks.values())


def test_numpy_files_and_one_npz_of_all_samples(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "a.npy", IDS.astype(np.int64)[None])
    np.savez(tmp_path / "folder" / "b.npz", IDS)
    np.savez(tmp_path / "all.npz", a=IDS, b=IDS.T)
    assert np.array_equal(read(tmp_path / "folder"), IDS)
    assert np.array_equal(read(tmp_path / "folder", "b"), IDS)
    assert np.array_equal(read(tmp_path / "all.npz", "b"), IDS.T)


def test_coco_panoptic_gives_the_class_of_every_segment(tmp_path: Path) -> None:
    assert np.array_equal(read(write_panoptic(tmp_path)), IDS)


@pytest.mark.parametrize("is_text", [True, False])
def test_run_lengths_give_the_class_of_every_pixel(tmp_path: Path, is_text: bool) -> None:
    (tmp_path / "r.json").write_text(json.dumps(results(is_text=is_text)))
    assert np.array_equal(read(tmp_path / "r.json"), IDS)


def test_run_lengths_of_pycocotools_are_read(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    random = np.random.default_rng(1)
    is_class = np.kron(random.random((40, 3)) < 0.5, np.ones((23, 700), bool)).astype(np.uint8, order="F")
    encoded = coco.encode(is_class)
    encoded["counts"] = encoded["counts"].decode()
    entry = {"image_id": 7, "category_id": 3, "segmentation": encoded}
    (tmp_path / "r.json").write_text(json.dumps([entry]))
    assert np.array_equal(read(tmp_path / "r.json", "7"), np.where(is_class == 1, 3, 255))


def test_images_of_coco_are_named_by_their_file(tmp_path: Path) -> None:
    content = {"images": [{"id": "a", "file_name": "x/frame.jpg"}], "annotations": results(is_text=False)}
    (tmp_path / "r.json").write_text(json.dumps(content))
    assert list(find_masks(tmp_path / "r.json")) == ["x/frame"]


CLASSES = CategoryIds("the table", {"tree": 7, "sign_symbol": 0, "car": 1}, [11])


def named(names: dict[int, str], **more: Any) -> dict[str, Any]:
    return {"annotations": [*results(is_text=False)[:3]], **more} | {
        "categories": [{"id": number, "name": name} for number, name in names.items()]
    }


def test_categories_go_by_their_name(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps(named({0: "car", 1: "Tree", 2: "sign symbol", 5: "unused"})))
    ids = coco_masks(tmp_path / "r.json", CLASSES)["a"].read()
    assert np.array_equal(ids, np.array([1, 7, 0, 255])[np.minimum(IDS, 3)])
    assert np.array_equal(read(tmp_path / "r.json"), np.where(IDS < 3, IDS, 255))


def test_categories_of_panoptic_go_by_their_name(tmp_path: Path) -> None:
    content = json.loads(write_panoptic(tmp_path).read_text())
    content["categories"] = [{"id": i, "name": name} for i, name in enumerate(["car", "tree", "sign_symbol", "void"])]
    (tmp_path / "pan.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"category 3 is named 'void', and the table has the classes tree, sign_sym"):
        coco_masks(tmp_path / "pan.json", CLASSES)
    ids = coco_masks(tmp_path / "pan.json", replace(CLASSES, ignored=[3]))["a"].read()
    assert np.array_equal(ids, np.where(IDS == 255, 255, np.array([1, 7, 0, 3])[np.minimum(IDS, 3)]))


@pytest.mark.parametrize(("name", "reason"), [("kitten", "is named 'kitten'"), (None, "is not among")])
def test_an_ignored_number_is_no_class_by_its_name_only(tmp_path: Path, name: str | None, reason: str) -> None:
    names = {0: "car", 1: "tree"} | ({2: name} if name else {})
    (tmp_path / "r.json").write_text(json.dumps(named(names)))
    with pytest.raises(DataError, match=f"category 2 {reason}"):
        coco_masks(tmp_path / "r.json", replace(CLASSES, ignored=[2]))


def test_names_that_differ_in_capitals_only_are_told_apart(tmp_path: Path) -> None:
    classes = CategoryIds("the table", {"Car": 0, "car": 1, "tree": 2}, [])
    (tmp_path / "r.json").write_text(json.dumps(named({0: "Car", 1: "car", 2: "tree"})))
    assert np.array_equal(coco_masks(tmp_path / "r.json", classes)["a"].read(), np.where(IDS < 3, IDS, 255))
    (tmp_path / "r.json").write_text(json.dumps(named({0: "CAR", 1: "car", 2: "tree"})))
    with pytest.raises(DataError, match="category 0 is named 'CAR', and the table has the classes Car, car; use"):
        coco_masks(tmp_path / "r.json", classes)


def test_a_category_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps(named({0: "car", 1: "tree"})))
    with pytest.raises(DataError, match="category 2 is not among its categories"):
        coco_masks(tmp_path / "r.json", CLASSES)


def test_images_and_categories_of_the_labels_hold_for_results_without_their_own(tmp_path: Path) -> None:
    numbered = [entry | {"image_id": 1} for entry in results(is_text=False)[:3]]
    names = {"images": [{"id": 2, "file_name": "1.png"}, {"id": 1, "file_name": "x/2.png"}]}
    (tmp_path / "labels.json").write_text(json.dumps(named({0: "car", 1: "tree", 2: "sign_symbol"}, **names)))
    (tmp_path / "p.json").write_text(json.dumps(numbered))
    (sample_id,) = masks = find_masks(tmp_path / "p.json", "", CLASSES, reference=tmp_path / "labels.json")
    assert (sample_id, masks[sample_id].image_id) == ("x/2", None)
    assert np.array_equal(masks[sample_id].read(), np.array([1, 7, 0, 255])[np.minimum(IDS, 3)])
    (own,) = coco_masks(tmp_path / "p.json").values()
    assert own.image_id == 1


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([{"id": "b", "file_name": "b.png"}], "image_id a is not among the ids of `images`"),
        ([{"id": "a", "file_name": "b.png"}, {"id": "c", "file_name": "b.jpg"}], "a file_name stands there twice"),
    ],
)
def test_images_that_do_not_fit_are_refused(tmp_path: Path, images: list[dict[str, str]], message: str) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"images": images, "annotations": results(is_text=False)}))
    with pytest.raises(DataError, match=message):
        find_masks(tmp_path / "r.json")


def test_a_category_of_two_names_is_refused(tmp_path: Path) -> None:
    content = named({0: "car", 1: "tree", 2: "sign_symbol"})
    content["categories"].append(content["categories"][0] | {"name": "tree"})
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="categories: an id stands there twice"):
        coco_masks(tmp_path / "r.json", CLASSES)


def test_an_empty_file_name_and_run_lengths_that_are_no_text_are_no_crash(tmp_path: Path) -> None:
    (result, *_) = results(is_text=False)
    result["segmentation"]["counts"] = "\udc80"
    (tmp_path / "r.json").write_text(
        json.dumps({"images": [{"id": result["image_id"], "file_name": ""}], "annotations": [result]})
    )
    (mask,) = find_masks(tmp_path / "r.json").values()
    with pytest.raises(DataError, match="run lengths of"):
        mask.read()


def test_a_suffix_selects_files_and_is_cut_off(tmp_path: Path) -> None:
    for name in ("city/a_gtFine_labelIds.png", "city/a_gtFine_instanceIds.png", ".hidden.png", ".dir/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(IDS).save(tmp_path / name)
    assert list(find_masks(tmp_path, "_gtFine_labelIds.png")) == ["city/a"]
    assert list(find_masks(tmp_path, "_gtFine_labelIds")) == ["city/a"]


def of(*sample_ids: str) -> Masks:
    def never() -> Any:
        raise AssertionError

    return {own: Mask(f"files/{own}.png", never) for own in sample_ids}


@pytest.mark.parametrize(
    ("labels", "predictions", "pairs"),
    [
        (("b", "a"), ("a", "b"), [("a", "a"), ("b", "b")]),
        (("a", "b", "c"), ("b",), [("b", "b")]),
        (("city/a", "city/b"), ("a", "b"), [("city/a", "a"), ("city/b", "b")]),
        (("a",), ("out/a",), [("a", "out/a")]),
        (("A/f 1", "B/f 1", "B/f 2"), ("A_f 1", "B_f 2"), [("A/f 1", "A_f 1"), ("B/f 2", "B_f 2")]),
        (("000000000139", "000000000285"), ("139",), [("000000000139", "139")]),
    ],
)
def test_ids_are_paired_whole_then_by_name_then_as_numbers(
    labels: tuple[str, ...], predictions: tuple[str, ...], pairs: list[tuple[str, str]]
) -> None:
    assert pair_masks(of(*labels), of(*predictions)) == pairs


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        (("a",), ("a", "b"), r"/b\.png: no label belongs to it, as for 1 of 2 predictions; labels are named like 'a'"),
        (("a", "b"), ("x/a", "y/a"), r"/y/a\.png: files/x/a\.png has the same label, files/a\.png"),
        (
            ("images/val/c/a", "masks/val/c/a", "images/val/d/b", "masks/val/d/b", "masks/train/c"),
            ("a", "b"),
            r"/a\.png: two labels have its name, files/images/val/c/a\.png and files/masks/val/c/a\.png; "
            "use --labels files/masks/val$",
        ),
        (("val/x/a", "val/y/a"), ("a",), "use --labels files/val/x or files/val/y$"),
        (
            ("x/1", "y/1"),
            ("x/1", "y/1", "x/2"),
            r"/x/2\.png: no label belongs to x/2; the other 2 .* 'x/1' to 'y/1': add the missing labels",
        ),
        (("x/a", "y/a", "x/b", "z/b"), ("a", "b"), r"files/x/a\.png and files/y/a\.png; use --labels files/x$"),
        (("x/a", "y/a", "v/b", "z/b"), ("a", "b"), r"files/x/a\.png and files/y/a\.png; keep one$"),
        (("a", "a/a"), ("b/a",), r"files/a\.png and files/a/a\.png; use --labels files or files/a$"),
        (("x/a", "y/a", "b", "c"), ("a", "b", "c"), "use --labels files/x or files/y$"),
        (
            ("000001", "000002", "000010"),
            ("0", "1", "2", "10"),
            r"named '000001' to '000010', predictions '0' to '10': rename them if one side counts from 0 .*;",
        ),
        (
            tuple("abcdefghi"),
            tuple("abcdefghiABCD"),
            "no label belongs to A, B, C and 1 more; the other 9 predictions have one; labels are named 'a' to 'i'",
        ),
    ],
)
def test_what_cannot_be_paired_is_named(labels: tuple[str, ...], predictions: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        pair_masks(of(*labels), of(*predictions))


@pytest.mark.parametrize(
    ("labels", "predictions", "options"),
    [
        (("001", "002"), ("frame_001", "frame_002"), "--prediction-prefix=frame_"),
        (("001", "002", "003"), ("out/001_pred", "out/003_pred"), "--prediction-suffix=_pred.png"),
        (
            ("b/b_01_gtFine_labelIds", "b/b_02_gtFine_labelIds"),
            ("b_02_leftImg8bit",),
            "--label-suffix=_gtFine_labelIds.png --prediction-suffix=_leftImg8bit.png",
        ),
        (("A/f 1_GT", "A/f 2_GT", "B/f 1_GT"), ("A_f 1", "B_f 1"), "--label-suffix=_GT.png"),
        (
            ("1", "2", "3", "4"),
            ("x_1", "x_2", "y_1"),
            r"--prediction-prefix=x_ \(it selects files: 1 of 3 predictions are left out\)",
        ),
        (
            ("mask_07", "mask_08"),
            ("im-08.x", "im-07.x"),
            "--label-prefix=mask_ --prediction-prefix=im- --prediction-suffix=.x.png",
        ),
    ],
)
def test_options_that_would_pair_them_are_advised(
    labels: tuple[str, ...], predictions: tuple[str, ...], options: str
) -> None:
    with pytest.raises(DataError, match=f": use {options}$"):
        pair_masks(of(*labels), of(*predictions))


@pytest.mark.parametrize(
    ("kind", "given", "options"),
    [
        ("labelIds", "", "_gtFine_labelIds.png"),
        ("labelTrainIds", "", "_gtFine_labelTrainIds.png"),
        ("labelIds", "_labelIds.png", "_gtFine_labelIds.png"),
        ("labelIds", "gtFine_labelIds.png", "_gtFine_labelIds.png"),
    ],
)
def test_the_advised_options_pair_the_files_that_the_class_table_wants(
    tmp_path: Path, kind: str, given: str, options: str
) -> None:
    """Also if one of the labels is missing, and whatever suffix was given."""
    for number in range(3):
        for name in ("gtFine_instanceIds", "gtFine_labelIds", "gtFine_labelTrainIds")[number == 0 :]:
            (tmp_path / "gtFine").mkdir(exist_ok=True)
            Image.fromarray(IDS).save(tmp_path / "gtFine" / f"bonn_{number}_{name}.png")
        (tmp_path / "out").mkdir(exist_ok=True)
        Image.fromarray(IDS).save(tmp_path / "out" / f"bonn_{number}_leftImg8bit.png")
    predictions = find_masks(tmp_path / "out")
    ends = {"label": ("", given), "prediction": ("", "")}
    with pytest.raises(DataError, match=f": use --label-suffix={options} --prediction-suffix=_leftImg8bit.png$"):
        pair_masks(find_masks(tmp_path / "gtFine", given), predictions, ends, kind)
    with pytest.raises(DataError, match="rename the files"):  # as a suffix selects files of a folder only
        pair_masks(find_masks(tmp_path / "gtFine", given), predictions, {}, kind)


def test_a_prefix_selects_files_and_is_cut_off(tmp_path: Path) -> None:
    for name in ("a/pred_1_x.png", "a/image_1_x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(IDS).save(tmp_path / name)
    assert list(find_masks(tmp_path, "_x.png", prefix="pred_")) == ["a/1"]


def test_floats_that_are_whole_numbers_are_ids(tmp_path: Path) -> None:
    for floats in (IDS.astype(np.float32), IDS.astype(np.float32)[None]):
        np.savez(tmp_path / "a.npz", a=floats)
        assert np.array_equal(read(tmp_path / "a.npz"), IDS)


def test_two_masks_of_one_sample_are_refused(tmp_path: Path) -> None:
    for name in ("a.png", "a.tif"):
        Image.fromarray(IDS).save(tmp_path / name)
    with pytest.raises(DataError, match=r"a\.tif: a\.png is a mask of the same sample"):
        find_masks(tmp_path)
    os.mkfifo(tmp_path / "p.npz")
    with pytest.raises(DataError, match=r"p\.npz: cannot be read as an \.npz file .*a pipe or a device"):
        find_masks(tmp_path / "p.npz")


def write_results(path: Path, change: dict[str, Any], first: dict[str, Any] | None = None) -> Path:
    entries = results(is_text=False)
    entries[0]["segmentation"] |= change
    entries[0] |= first or {}
    path.write_text(json.dumps(entries))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": [5]}, "image a: run lengths of 5 pixels, but its size is 7x11"),
        ({"counts": [-1, 78]}, "image a: run lengths of 77 pixels"),
        ({"size": [100_000, 100_000]}, "image a: run lengths of size 100000x100000"),
        ({"size": [0, 11]}, "image a: run lengths of size 0x11"),
        ({"size": [7]}, r"annotations\.0\.segmentation\.size\.1: Field required"),
        ({"counts": [0, 77]}, "image a: two masks overlap"),
        ({"counts": "o" * 100_000}, "image a: run lengths of"),  # every character says that more follow
        ({"size": [11, 7]}, r"image a: masks of sizes \(11, 7\) and \(7, 11\)"),
    ],
)
def test_wrong_run_lengths_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(write_results(tmp_path / "r.json", change))


def test_a_segment_that_is_not_listed_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png: holds segment 1900, which segments_info does not list"):
        read(write_panoptic(tmp_path, listed=3))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{", "cannot be read as JSON"),
        ("a.json", b"3", "annotations: Input should be a valid list"),
        ("a.json", b"[]", "annotations: List should have at least 1 item"),
        ("a.json", b'[{"image_id": 1}]', r"annotations\.0\.category_id: Field required"),
        ("a.json", b'[{"segments_info": [], "file_name": 3}]', r"annotations\.0\.file_name: Input should be"),
        ("a.npz", b"PK", "cannot be read as an .npz"),
        ("a.txt", b"", "expected a folder of masks"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        find_masks(tmp_path / name)


@pytest.mark.parametrize(
    ("array", "advice"), [(np.full((5, 7), 0.5), "argmax"), (np.zeros((3, 5, 7), int), "one id per pixel")]
)
def test_an_array_of_scores_is_refused(tmp_path: Path, array: np.ndarray, advice: str) -> None:
    np.savez(tmp_path / "a.npz", a=array)
    with pytest.raises(DataError, match=advice):
        read(tmp_path / "a.npz")


def test_colours_are_read_as_colours(tmp_path: Path) -> None:
    Image.new("RGBA", (7, 5), (1, 2, 3, 4)).save(tmp_path / "a.png")
    assert (read(tmp_path) == np.full((5, 7, 3), (1, 2, 3))).all()


def test_a_missing_path_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        find_masks(tmp_path / "none")
    with pytest.raises(DataError, match="no masks; expected"):
        find_masks(tmp_path)
    os.mkfifo(tmp_path / "p.npz")
    with pytest.raises(DataError, match=r"p\.npz: cannot be read as an \.npz file .*a pipe or a device"):
        find_masks(tmp_path / "p.npz")


def npy_header(shape: str) -> bytes:
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (64 - (len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "array 'a' cannot be read"),
        (npy_header("(1000000000000, 1000000000000)") + b"abc", "array 'a' cannot be read .shape .* at most 2"),
        (npy_header("(60000, 60000)"), "array 'a' cannot be read .shape .* at most 2"),
        (npy_header("(-1, 4)"), "array 'a' "),
        (npy_header("-" * 9000 + "1"), "the header of an array is damaged"),
        (npy_header("(" * 20_000 + ")" * 20_000), "the header of an array is damaged"),
        (npy_header("(" * 5000), "the header of an array is damaged"),
        (npy_header(f"({2**70}, 0)"), "at most 2"),
        (npy_header("(5, 5)").replace(b"'|u1'", b"()   ") + b"abc", "the header of an array is damaged"),
        (npy_header("(5, 5)") + b"abc", "array 'a' cannot be read"),
    ],
)
def test_an_array_that_is_none_or_lies_about_its_size_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with zipfile.ZipFile(tmp_path / "p.npz", "w") as file:
        file.writestr("a.npy", content)
    with pytest.raises(DataError, match=message):
        find_masks(tmp_path / "p.npz")["a"].read()
    with zipfile.ZipFile(tmp_path / "q.npz", "w") as file:
        file.writestr("a", content)
    with pytest.raises(DataError, match=r"q\.npz"):
        find_masks(tmp_path / "q.npz")["a"].read()


def test_an_array_that_stands_twice_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p.npz", "w") as file:
        file.writestr("a.npy", npy_header("(1, 1)") + b"a")
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("a.npy", npy_header("(1, 1)") + b"a")
    with pytest.raises(DataError, match="holds the array 'a' twice"):
        find_masks(tmp_path / "p.npz")


def test_an_array_of_truth_values_is_a_binary_mask(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", a=np.array([[True, False]]))
    assert find_masks(tmp_path / "p.npz")["a"].read().tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            [{"image_id": "a", "category_id": 10**30, "segmentation": {"size": [1, 1], "counts": [1]}}],
            "category_id: Input should be less",
        ),
        ([{"image_id": "a", "category_id": 255, "segmentation": {"size": [1, 1], "counts": [1]}}], "category 255"),
        ({"annotations": [{"file_name": "a\0b", "segments_info": []}]}, "file_name .* holds a NUL"),
        ({"annotations": [{"file_name": "../../x", "segments_info": []}]}, "file_name .*leads out"),
        (
            {"annotations": [{"file_name": "a.png", "segments_info": [{"id": 1, "category_id": 1}] * 2}]},
            "a segment's id is listed twice",
        ),
        (
            {"annotations": [{"file_name": "a.png", "segments_info": [{"id": 1, "category_id": 255}]}]},
            "category 255",
        ),
    ],
)
def test_cocos_json_with_what_cannot_be_is_named(tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"p.json: .*{message}"):
        next(iter(find_masks(tmp_path / "p.json").values())).read()


def test_a_folder_of_jpeg_files_says_why_they_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(DataError, match=r"no masks; expected \*\.png, .*; JPEG changes ids; save PNG"):
        find_masks(tmp_path)
