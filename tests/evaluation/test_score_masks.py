"""Scores of foreign masks: exact against a loop over pixels, and every oddity of the masks is said."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segnl.core.errors import ConfigError, DataError
from segnl.evaluation.score_classes import PredictionIds, class_table
from segnl.evaluation.score_masks import MaskScore, ScoreRequest, score_masks
from segnl.metrics.scored_counts import ScoredCounts, _checksum, counts_bytes, load_counts

FILE_IDS = (3, 7, 20, 9)
"""Of the classes a, b, c, d; train ids are 0..3. 0 and 255 are ignored."""


def write(folder: Path, **masks: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, mask in masks.items():
        Image.fromarray(mask.astype(np.uint8)).save(folder / f"{name}.png")
    return folder


def file_ids(train: np.ndarray) -> np.ndarray:
    return np.array([*FILE_IDS, 0])[np.minimum(train, 4)]


@pytest.fixture
def request_(tmp_path: Path) -> ScoreRequest:
    """Two images of odd sizes; class d is in no label."""
    random = np.random.default_rng(0)
    labels, predictions = {}, {}
    for name, hw in (("x", (17, 29)), ("y", (23, 11))):
        label = np.repeat(random.integers(0, 3, (hw[0], 1)), hw[1], axis=1)
        wrong = random.random(hw) < 0.3
        predictions[name] = np.where(wrong, random.integers(0, 4, hw), label)
        label[random.random(hw) < 0.2] = 255
        labels[name] = label
    rows = "".join(f"{own}\t{name}\t{own}\t0\t0\n" for own, name in zip(FILE_IDS, "abcd", strict=True))
    (tmp_path / "classes.tsv").write_text(f"index\tname\tr\tg\tb\n{rows}")
    return ScoreRequest(
        write(tmp_path / "predictions", **{name: file_ids(own) for name, own in predictions.items()}),
        write(tmp_path / "labels", **{name: file_ids(own) for name, own in labels.items()}),
        str(tmp_path / "classes.tsv"),
        ignore_ids=[0],
    )


def pixels(request: ScoreRequest) -> list[tuple[int, int]]:
    """(label, prediction) of every pixel, file ids, by a loop."""
    pairs: list[tuple[int, int]] = []
    for path in sorted(request.labels.glob("*.png")):
        label, pred = np.array(Image.open(path)), np.array(Image.open(request.predictions / path.name))
        pairs += [(int(label[i, j]), int(pred[i, j])) for i in range(label.shape[0]) for j in range(label.shape[1])]
    return pairs


def test_the_scores_are_those_of_a_loop_over_pixels(request_: ScoreRequest) -> None:
    labelled = [pair for pair in pixels(request_) if pair[0] != 0]
    iou = []
    for own in FILE_IDS:
        both = sum(label == own == pred for label, pred in labelled)
        iou.append(both / sum(own in pair for pair in labelled))
    result = score_masks(request_).to_dict()
    assert result["miou"] == pytest.approx(np.mean(iou), abs=1e-15)
    assert list(result["per_class"].values()) == pytest.approx(iou, abs=1e-15)
    assert result["pixel_acc"] == pytest.approx(np.mean([label == pred for label, pred in labelled]), abs=1e-15)
    assert (result["num_images"], result["num_pixels"], result["complete"]) == (2, len(labelled), True)
    assert 0 < result["boundary_iou"] < 1
    json.dumps(result, allow_nan=False)


def train_ids(folder: Path, source: Path) -> Path:
    lut = np.full(256, 255)
    lut[list(FILE_IDS)] = range(4)
    return write(folder, **{path.stem: lut[np.array(Image.open(path))] for path in source.glob("*.png")})


def test_train_ids_score_the_same_as_file_ids(request_: ScoreRequest, tmp_path: Path) -> None:
    folder = train_ids(tmp_path / "train", request_.predictions)
    same = score_masks(replace(request_, predictions=folder, prediction_ids="train"))
    assert same.definitions == score_masks(request_).definitions


def warning_of(score: MaskScore, start: str) -> str:
    (sentence,) = (own for own in score.warnings if own.startswith(start))
    return sentence


def test_masks_of_the_other_ids_are_recognised(tmp_path: Path) -> None:
    """Ids 1..4 in the labels, 0..3 in the predictions: nearly every id has a meaning in both."""
    label = np.repeat(np.arange(1, 5), 6)[None].repeat(7, axis=0)
    (tmp_path / "classes.tsv").write_text(
        "index\tname\tr\tg\tb\n1\ta\t1\t0\t0\n2\tb\t2\t0\t0\n3\tc\t3\t0\t0\n4\td\t4\t0\t0\n"
    )
    request = ScoreRequest(
        write(tmp_path / "p", x=label - 1),
        write(tmp_path / "l", x=label),
        str(tmp_path / "classes.tsv"),
        ignore_ids=[0],
    )
    sentence = warning_of(score_masks(request), "The predictions look like train ids")
    assert "100.0 % instead of 0.0 %. Try --prediction-ids train." in sentence
    assert not any("look like" in own for own in score_masks(replace(request, prediction_ids="train")).warnings)


def test_classes_never_predicted_and_only_predicted_are_named(request_: ScoreRequest) -> None:
    score = score_masks(request_)
    assert warning_of(
        score, "Predicted, though never labelled (IoU 0 in the exact mIoU; definitions differ in this): d."
    )
    for path in request_.predictions.glob("*.png"):
        ids = np.array(Image.open(path))
        Image.fromarray(np.where(ids == 7, 3, ids).astype(np.uint8)).save(path)
    assert warning_of(score_masks(request_), "Never predicted, though labelled (IoU 0 in the mean): b.")


def test_pixels_predicted_as_no_class_are_errors_and_counted(request_: ScoreRequest) -> None:
    whole = score_masks(request_).definitions
    for path in request_.predictions.glob("*.png"):
        ids = np.array(Image.open(path))
        ids[:4] = 255
        Image.fromarray(ids).save(path)
    score = score_masks(request_)
    num = sum(int((np.array(Image.open(path))[:4] != 0).sum()) for path in request_.labels.glob("*.png"))
    assert "are predicted as no class (an ignored id). They count as wr" in warning_of(score, f"{num} labelled pixels")
    assert score.definitions["label_size_union_present"] < whole["label_size_union_present"]
    assert score.to_dict()["definitions"]["torchmetrics_jaccard_macro"] is None


def test_a_label_without_a_prediction_is_said(request_: ScoreRequest) -> None:
    (request_.predictions / "y.png").unlink()
    score = score_masks(request_)
    assert "so this is the score of 1 image" in warning_of(score, "No prediction belongs to 1 of 2 labels (y)")
    assert score.to_dict()["unpaired"] == ("y",)


def test_the_worst_images_have_the_lowest_miou_and_not_the_lowest_accuracy(request_: ScoreRequest) -> None:
    """x: one class of 100 pixels, 60 of them right. y: 90 of 100 pixels right, but the small class is missed."""
    large, small = np.full((10, 10), 3), np.full((10, 10), 3)
    small[0] = 7
    write(request_.labels, x=large, y=small)
    large_prediction = large.copy()
    large_prediction[:4] = 0
    write(request_.predictions, x=large_prediction, y=large)
    score = score_masks(request_)
    assert score.sample_ids == ("x", "y")
    assert score.worst(2) == [1, 0]
    assert score.counts.images.miou == pytest.approx([0.6, 0.45])


def test_the_json_says_how_the_masks_were_read(request_: ScoreRequest) -> None:
    settings = score_masks(request_).to_dict()["settings"]
    names = ("classes", "ignore_ids", "prediction_ids", "resize")
    assert [settings[name] for name in names] == [request_.classes, [0], "file", False]


def test_a_class_whose_name_says_no_class_is_advised_to_be_ignored(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("names: [a, b, void]")
    labels, predictions = write(tmp_path / "l", x=np.array([[0, 1, 2]])), write(tmp_path / "p", x=np.array([[0, 1, 1]]))
    score = score_masks(ScoreRequest(predictions, labels, str(tmp_path / "data.yaml")))
    assert "remove it from the class table and add --ignore 2." in warning_of(score, "Never predicted, though labelled")


def test_ids_that_only_labels_ignore_are_not_listed_among_train_ids(tmp_path: Path) -> None:
    request = cityscapes_masks(tmp_path, "labelIds")
    write(request.predictions, bonn_leftImg8bit=np.array([[0, 1, 8, 8, 13, 19]]))
    with pytest.raises(DataError, match=r"the train ids of cityscapes are 0\.\.18 \(and 255, ignored\)"):
        score_masks(request)


def test_masks_of_another_size_are_refused_or_resized(request_: ScoreRequest) -> None:
    path = request_.predictions / "x.png"
    ids = np.array(Image.open(path))
    Image.fromarray(ids.repeat(3, axis=0).repeat(3, axis=1)).save(path)
    with pytest.raises(DataError, match=r"x\.png: 87x51 pixels \(width x height\), but .* has 29x17; .*--resize"):
        score_masks(request_)
    score = score_masks(replace(request_, resize=True))
    assert warning_of(score, "1 of 2 predictions have another size")
    Image.fromarray(ids).save(path)
    assert score.definitions == score_masks(request_).definitions


@pytest.mark.parametrize(("value", "dtype"), [(5, np.uint8), (700, np.uint16)])
def test_a_predicted_id_without_a_meaning_is_named(
    request_: ScoreRequest, tmp_path: Path, value: int, dtype: type
) -> None:
    arrays = {path.stem: np.array(Image.open(path)).astype(dtype) for path in request_.predictions.glob("*.png")}
    arrays["x"][2, 4] = value
    np.savez(tmp_path / "p.npz", **arrays)
    message = (
        rf"x: pixel \(row 2, column 4\) holds {value}, but the ids of .* are 3, 7, 9, 20 \(and 0, 255, ignored\); "
    )
    with pytest.raises(DataError, match=message):
        score_masks(replace(request_, predictions=tmp_path / "p.npz"))


@pytest.mark.parametrize(
    ("ids", "first_id", "prediction_ids", "advice"),
    [
        ([1, 2, 3], 0, "file", "subtract 1 from the predicted ids, which seem to be shifted by one$"),
        ([1, 2, 3], 0, "train", "subtract 1 from the predicted ids, which seem to be shifted by one$"),
        ([0, 80, 200], 0, "file", "save class ids: these look stretched for display$"),
        ([0, 4, 1], 0, "train", "count 4 as no class with --ignore 4"),
        ([1, 2, 3], 1, "train", "read the predictions as the ids of the class table with --prediction-ids file$"),
        (
            [0, 1, 2],
            1,
            "file",
            r"read the predictions as train ids \(0, 1, 2 ...\) with --prediction-ids train$",
        ),
    ],
)
def test_the_advice_about_an_unknown_predicted_id_can_help(
    tmp_path: Path, ids: list[int], first_id: int, prediction_ids: PredictionIds, advice: str
) -> None:
    rows = "".join(f"{first_id + i}\t{name}\t{i}\t0\t0\n" for i, name in enumerate("abc"))
    (tmp_path / "classes.tsv").write_text(f"index\tname\tr\tg\tb\n{rows}")
    labels = write(tmp_path / "labels", x=first_id + np.arange(3)[None])
    predictions = write(tmp_path / "predictions", x=np.array([ids]))
    request = ScoreRequest(predictions, labels, str(tmp_path / "classes.tsv"), prediction_ids=prediction_ids)
    with pytest.raises(DataError, match=f"; {advice}"):
        score_masks(request)


def test_an_index_of_a_palette_is_not_to_be_counted_as_no_class(tmp_path: Path) -> None:
    (tmp_path / "classes.tsv").write_text("index\tname\tr\tg\tb\n0\ta\t0\t0\t0\n1\tb\t128\t0\t0\n2\tc\t0\t128\t0\n")
    labels = write(tmp_path / "labels", x=np.arange(3)[None])
    colours = np.array([[[0, 0, 0], [128, 0, 0], [0, 128, 0]]], np.uint8)
    (tmp_path / "predictions").mkdir()
    Image.fromarray(colours).convert("P").save(tmp_path / "predictions" / "x.png")  # of 216 colours of the web
    with pytest.raises(DataError, match=r"holds 13, .*; of a palette file the indices are read: save class ids"):
        score_masks(ScoreRequest(tmp_path / "predictions", labels, str(tmp_path / "classes.tsv")))


def cityscapes_masks(tmp_path: Path, kind: str) -> ScoreRequest:
    """One row of train ids as mmsegmentation saves them, and labels of this kind of ids."""
    label, prediction = np.array([[0, 1, 7, 8, 13, 0]]), np.array([[0, 1, 8, 8, 13, 13]])
    ids = label if kind == "labelTrainIds" else np.array(class_table("cityscapes", []).file_ids)[label]
    labels = write(tmp_path / "gtFine", **{f"bonn_gtFine_{kind}": ids})
    predictions = write(tmp_path / "out", bonn_leftImg8bit=prediction)
    suffixes = {"label_suffix": f"_gtFine_{kind}.png", "prediction_suffix": "_leftImg8bit.png"}
    return ScoreRequest(predictions, labels, "cityscapes", prediction_ids="train", **suffixes)


def test_labels_of_train_ids_are_scored_by_their_own_table_and_refused_by_that_of_file_ids(tmp_path: Path) -> None:
    by_file_ids, by_train_ids = (cityscapes_masks(tmp_path / kind, kind) for kind in ("labelIds", "labelTrainIds"))
    with pytest.raises(
        ConfigError, match=r"labelTrainIds\.png: .* as 1 of 1 labels are, .*; use --classes cityscapes-t"
    ):
        score_masks(by_train_ids)
    with pytest.raises(ConfigError, match=r"labelIds\.png: .*; use --classes cityscapes$"):
        score_masks(replace(by_file_ids, classes="cityscapes-train"))
    with pytest.raises(ConfigError, match=r"; use --classes cityscapes-train$"):  # no suffix would help
        score_masks(replace(by_train_ids, label_suffix="", prediction_suffix=""))
    miou = np.mean([1 / 2, 1, 0, 1 / 2, 1 / 2])
    assert score_masks(by_file_ids).to_dict()["miou"] == pytest.approx(miou, abs=1e-15)
    for ids in ("file", "train"):
        own = replace(by_train_ids, classes="cityscapes-train", prediction_ids=ids)
        assert score_masks(own).to_dict()["miou"] == pytest.approx(miou, abs=1e-15)


def test_predictions_of_label_ids_are_called_so(tmp_path: Path) -> None:
    request = replace(cityscapes_masks(tmp_path, "labelTrainIds"), classes="cityscapes-train")
    write(request.predictions, bonn_leftImg8bit=np.array([[7, 8, 21, 23, 26, 0]]))
    with pytest.raises(DataError, match="look like labelIds: save train ids, or use --classes cityscapes with"):
        score_masks(request)
    write(request.predictions, bonn_leftImg8bit=np.array([[1, 8, 14, 19, 2, 3]]))
    with pytest.raises(DataError, match="subtract 1 from the predicted ids"):
        score_masks(request)


def test_renamed_labels_of_train_ids_are_known_by_their_255(tmp_path: Path) -> None:
    labels = write(tmp_path / "labels", x=np.array([[0, 7, 255]]))
    request = ScoreRequest(write(tmp_path / "predictions", x=np.array([[7, 7, 7]])), labels, "cityscapes")
    with pytest.raises(DataError, match=r"holds 255, .* not train ids; segnl score takes --classes cityscapes-train"):
        score_masks(request)


def test_an_unknown_id_in_a_label_is_named(request_: ScoreRequest) -> None:
    with pytest.raises(
        DataError,
        match=r"labels/x\.png: .* holds 0, but classes.tsv has ids 3, 7, 9, 20 \(and 255, ignored\); add --ignore 0",
    ):
        score_masks(replace(request_, ignore_ids=[]))


def test_an_image_without_labels_and_a_data_set_without_labels(request_: ScoreRequest) -> None:
    Image.new("L", (29, 17), 0).save(request_.labels / "x.png")
    assert warning_of(score_masks(request_), "1 of 2 images have no labelled pixel")
    Image.new("L", (11, 23), 0).save(request_.labels / "y.png")
    result = score_masks(request_).to_dict()
    assert result["miou"] is None
    assert result["definitions"]["label_size_union_present"] is None
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize(("ignore", "message"), [(7, "is the class 'b'"), (256, "expected an id within 0..255")])
def test_an_ignored_id_that_cannot_be_is_refused(request_: ScoreRequest, ignore: int, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"--ignore {ignore}: {message}"):
        score_masks(replace(request_, ignore_ids=[ignore]))


@pytest.mark.parametrize(
    ("name", "num_classes", "ignored"), [("cityscapes", 19, 4), ("cityscapes-train", 19, 255), ("ade20k", 150, 0)]
)
def test_three_class_tables_go_by_their_name(name: str, num_classes: int, ignored: int) -> None:
    table = class_table(name, [])
    assert table.num_classes == num_classes
    assert ignored in table.ignore_ids


@pytest.mark.parametrize("names", ["[a, b]", "{0: a, 1: b}", "\n  0: a\n  1: b"])
def test_data_yaml_of_ultralytics_names_the_classes(tmp_path: Path, names: str) -> None:
    (tmp_path / "data.yaml").write_text(f"path: ../x\ntrain: images/train\nnc: 2\nnames: {names}\n")
    table = class_table(str(tmp_path / "data.yaml"), [2])
    assert (table.names, table.file_ids, table.ignore_ids) == (("a", "b"), (0, 1), (2, 255))
    assert len({tuple(colour) for colour in table.palette.tolist()} | {(0, 0, 0)}) == 3


def test_a_yaml_out_of_order_is_refused_for_train_ids_as_its_lines_have_no_order(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("names: {2: c, 0: a, 1: b}\n")
    assert class_table(str(tmp_path / "data.yaml"), []).names == ("a", "b", "c")
    with pytest.raises(DataError, match=r"data\.yaml: names: the numbers are out of order, .* sort them"):
        class_table(str(tmp_path / "data.yaml"), [], "train")


def test_a_category_of_labels_that_is_no_class_is_called_so(request_: ScoreRequest) -> None:
    lengths = {"size": [17, 29], "counts": [0, 17 * 29]}
    path = request_.labels.parent / "labels.json"
    path.write_text(json.dumps([{"image_id": own, "category_id": 8, "segmentation": lengths} for own in "xy"]))
    with pytest.raises(DataError, match=r"labels\.json: image x \(category_id\): pixel .* holds 8, but classes\.tsv"):
        score_masks(replace(request_, labels=path))


def test_pixels_in_no_mask_of_coco_labels_are_counted_where_a_class_has_none(request_: ScoreRequest) -> None:
    path = request_.labels.parent / "labels.json"
    lengths = {"size": [17, 29], "counts": [17 * 9, 17 * 20]}
    path.write_text(json.dumps([{"image_id": "x", "category_id": 3, "segmentation": lengths}]))
    (request_.predictions / "y.png").unlink()
    warning = warning_of(
        score_masks(replace(request_, labels=path)), "153 pixels (31.03 %) are in no mask of the labels"
    )
    assert "no mask is of b, c, d. If" in warning


def test_the_json_has_the_scores_of_each_image(request_: ScoreRequest) -> None:
    (request_.predictions / "y.png").unlink()
    result = score_masks(request_).to_dict()
    assert result["per_image"] == {"x": {"miou": result["miou"], "pixel_acc": result["pixel_acc"]}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: images\n", "names: expected a list of class names"),
        ("names: [a, a]\n", "names: one name stands there twice"),
        ("names: {0: a, 256: b}\n", "ids up to 256; expected at most 253, up to 255"),
        (f"names: {list(range(254))}\n", "names 254 classes"),
    ],
)
def test_a_yaml_file_without_usable_names_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "data.yaml").write_text(content)
    with pytest.raises(DataError, match=f"data.yaml: .*{message}"):
        class_table(str(tmp_path / "data.yaml"), [])


def test_a_published_number_that_is_none_is_refused_before_any_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--published: 'much'; expected"):
        score_masks(ScoreRequest(tmp_path / "none", tmp_path / "none", "none", published="much"))


def test_the_masks_of_the_reference_folder_meet_what_the_packages_print(shared: Path) -> None:
    if not (shared / "score").is_dir():
        pytest.skip(f"no folder score in {shared}")
    peers = json.loads((shared / "score" / "peers.json").read_text())
    camvid = shared / "data" / "camvid"
    score = score_masks(
        ScoreRequest(shared / "score" / "predictions", camvid / "labels" / "val", str(camvid / "classes.tsv"), [11])
    )
    assert {name: score.definitions[name] for name in peers["miou"]} == pytest.approx(peers["miou"], abs=2e-5)


# ---- binary masks ----


@pytest.fixture
def binary(tmp_path: Path) -> tuple[ScoreRequest, float]:
    """Labels and predictions of 0 and 255, and their mIoU by a loop."""
    random = np.random.default_rng(1)
    label, prediction = random.random((7, 11)) < 0.4, random.random((7, 11)) < 0.4
    iou = [
        (((label == own) & (prediction == own)).sum()) / ((label == own) | (prediction == own)).sum() for own in (0, 1)
    ]
    (tmp_path / "classes.tsv").write_text("index\tname\tr\tg\tb\n0\tground\t0\t0\t0\n1\tcrack\t9\t0\t0\n")
    predictions = write(tmp_path / "predictions", a=255 * prediction)
    request = ScoreRequest(predictions, write(tmp_path / "labels", a=255 * label), str(tmp_path / "classes.tsv"))
    return request, float(np.mean(iou))


def test_binary_masks_of_0_and_255_name_the_option_that_scores_them(binary: tuple[ScoreRequest, float]) -> None:
    request, miou = binary
    with pytest.raises(
        DataError, match=r"no label holds 1, the class 'crack', and some hold 255; give --foreground 255 [^-]*$"
    ):
        score_masks(request)
    with pytest.raises(DataError, match="no label holds 1, the class 'crack', and some hold 255"):
        score_masks(replace(request, foreground_id=1))
    for ids in ("file", "train"):
        own = replace(request, foreground_id=255, prediction_ids=ids)
        assert score_masks(own).definitions["label_size_union_present"] == miou
    label = np.array(Image.open(request.labels / "a.png")) // 255
    write(request.labels, a=label)
    with pytest.raises(DataError, match="no mask holds 1, the class 'crack'"):
        score_masks(request)
    assert score_masks(replace(request, foreground_id=255)).to_dict()["miou"] == miou


def test_the_foregrounds_means_over_images_are_those_of_a_loop(binary: tuple[ScoreRequest, float]) -> None:
    request, _ = binary
    masks = {"b": np.zeros((5, 9), bool), "c": np.arange(45).reshape(5, 9) < 30}
    write(request.labels, **{name: 255 * mask for name, mask in masks.items()})
    write(request.predictions, b=np.zeros((5, 9)), c=255 * (np.arange(45).reshape(5, 9) >= 20))
    ious, dices = [], []
    for name in "abc":
        label, prediction = (
            np.array(Image.open(own / f"{name}.png")) > 0 for own in (request.labels, request.predictions)
        )
        both, either = (label & prediction).sum(), (label | prediction).sum()
        ious.append(both / either if either else 1.0)
        dices.append(2 * both / (label.sum() + prediction.sum()) if either else 1.0)
    score = score_masks(replace(request, foreground_id=255))
    assert score.foreground_image_means == pytest.approx((np.mean(ious), np.mean(dices)))


def test_a_table_may_name_255_as_a_class(binary: tuple[ScoreRequest, float], tmp_path: Path) -> None:
    request, miou = binary
    table = tmp_path / "classes.tsv"
    table.write_text(table.read_text().replace("1\tcrack", "255\tcrack"))
    assert score_masks(request).to_dict()["miou"] == miou
    write(request.predictions, a=np.array(Image.open(request.predictions / "a.png")) // 255)
    assert score_masks(replace(request, prediction_ids="train")).to_dict()["miou"] == miou


def test_scores_of_binary_masks_are_to_be_thresholded(binary: tuple[ScoreRequest, float]) -> None:
    request, _ = binary
    write(request.predictions, a=np.full((7, 11), 40))
    with pytest.raises(
        DataError, match=r"holds 40, .*; threshold the scores of binary masks, or masks that JPEG has changed"
    ):
        score_masks(replace(request, foreground_id=255))


def test_masks_that_jpeg_has_changed_are_to_be_thresholded(binary: tuple[ScoreRequest, float]) -> None:
    request, _ = binary
    grey = np.where(np.arange(77).reshape(7, 11) % 5, 255, np.arange(77).reshape(7, 11) % 7)
    for folder in (request.predictions, request.labels):
        clean = np.array(Image.open(folder / "a.png"))
        write(folder, a=grey)
        with pytest.raises(DataError, match=r"holds 8 values \(0, 1, 2, 3 and 4 more\); threshold"):
            score_masks(replace(request, foreground_id=255))
        write(folder, a=np.where(grey == 1, 2, grey))
        with pytest.raises(
            DataError, match=r"holds \d, .*threshold the scores of binary masks, or masks that JPEG has"
        ):
            score_masks(replace(request, foreground_id=255))
        write(folder, a=clean)


def test_255_may_still_stand_for_no_class(binary: tuple[ScoreRequest, float]) -> None:
    request, _ = binary
    score = score_masks(replace(request, ignore_ids=[255]))
    assert score.counts.confusion.target()[1] == 0
    assert warning_of(score, "Only 'ground' is in the labels")


@pytest.mark.parametrize(("rows", "ids"), [("1\tcrack\n0\tground\n", (0, 255)), ("2\tcrack\n1\tground\n", (1, 255))])
def test_a_foreground_never_joins_the_other_id_of_a_mask(
    binary: tuple[ScoreRequest, float], tmp_path: Path, rows: str, ids: tuple[int, int]
) -> None:
    """The table lists the background second, so both ids would be one class, and the score 100 %."""
    request, _ = binary
    (tmp_path / "classes.tsv").write_text(f"index\tname\n{rows}")
    for folder in (request.labels, request.predictions):
        write(folder, a=np.array(ids)[np.array(Image.open(folder / "a.png")) // 255])
    with pytest.raises((ConfigError, DataError), match=r"--foreground 255.*lists? the background first"):
        score_masks(replace(request, foreground_id=255))


@pytest.mark.parametrize(
    ("foreground", "message"),
    [
        (0, "this id is 'ground', the background, so"),
        (7, r"this id is ignored \(--ignore\), so"),
        (256, r"expected an id within 0\.\.255"),
        (-1, r"expected an id within 0\.\.255"),
    ],
)
def test_a_foreground_that_cannot_be_is_refused(
    binary: tuple[ScoreRequest, float], foreground: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=f"--foreground {foreground}: {message}"):
        score_masks(replace(binary[0], foreground_id=foreground, ignore_ids=[7]))


def test_labels_of_0_1_and_void_beside_predictions_of_0_and_255_name_the_way_out(
    binary: tuple[ScoreRequest, float],
) -> None:
    request = binary[0]
    write(request.labels, **dict.fromkeys("ab", np.repeat([[0, 1, 255]], 9, axis=0)))
    write(request.predictions, **dict.fromkeys("ab", np.repeat([[0, 255, 0]], 9, axis=0)))
    with pytest.raises(DataError, match="in the labels 255 is ignored, so save 1 instead of 255 in the predictions"):
        score_masks(request)
    with pytest.raises(DataError, match=r"holds 255 and 1, .*; if 255 is unlabelled here, .* save 1 instead of 255"):
        score_masks(replace(request, foreground_id=255))


def test_the_foreground_scores_are_those_of_the_packages_for_binary_masks(binary: tuple[ScoreRequest, float]) -> None:
    smp, classification = map(pytest.importorskip, ("segmentation_models_pytorch", "torchmetrics.classification"))
    score = score_masks(replace(binary[0], foreground_id=255))
    pairs = [score.read(i) for i in range(len(score.sample_ids))]
    prediction, label = (torch.from_numpy(np.stack(masks)[:, None]).long() for masks in zip(*pairs, strict=True))
    stats = smp.metrics.get_stats(prediction, label, mode="binary")
    index = classification.BinaryJaccardIndex()
    own = score.other_scores
    iou = own["the IoU of the class 'crack' alone"]
    (of_images,) = (value for name, value in own.items() if "imagewise" in name)
    assert float(index(prediction, label)) == pytest.approx(iou, abs=2e-6)  # float32
    assert float(smp.metrics.iou_score(*stats, reduction="micro")) == pytest.approx(iou, abs=2e-6)
    assert float(smp.metrics.iou_score(*stats, reduction="micro-imagewise")) == pytest.approx(of_images, abs=2e-6)
    f1 = own["the F1 (Dice) of the class 'crack' alone"]
    assert float(smp.metrics.f1_score(*stats, reduction="micro")) == pytest.approx(f1, abs=2e-6)


def test_a_published_number_may_be_that_of_a_class_or_of_the_boundaries(binary: tuple[ScoreRequest, float]) -> None:
    request = replace(binary[0], foreground_id=255)
    score = score_masks(request)
    confusion, images = score.counts.confusion, score.counts.images
    for value, name in (
        (confusion.iou()[1], "the IoU of the class 'crack' alone"),
        (confusion.f1()[1], "the F1 (Dice) of the class 'crack' alone"),
        (np.mean(score.boundary_iou), "the mean boundary IoU"),
        (np.mean(images.intersection[:, 1] / images.union[:, 1]), "the mean over images of the IoU of 'crack' (segm"),
    ):
        published = score_masks(replace(request, published=f"{value:.12f}")).published
        assert published is not None
        assert [own.startswith(name) for own in published.other_matches].count(True) == 1


def test_a_foreground_is_for_two_classes(request_: ScoreRequest) -> None:
    with pytest.raises(ConfigError, match=r"is for tables of two classes; .* has 4"):
        score_masks(replace(request_, foreground_id=255))


# ---- the counts ----


def test_the_counts_are_read_as_they_were_written(request_: ScoreRequest, tmp_path: Path) -> None:
    counts = score_masks(request_).scored_counts()
    (tmp_path / "a.counts.npz").write_bytes(counts_bytes(counts))
    loaded = load_counts(tmp_path / "a.counts.npz")
    assert loaded.sample_ids == ("x", "y")
    assert loaded.class_names == tuple("abcd")
    for name in ("intersection", "union", "target"):
        assert np.array_equal(getattr(loaded, name), getattr(counts, name))
    assert loaded.label_digests == counts.label_digests
    assert loaded.source == counts.source
    assert loaded.warnings == counts.warnings == ()


def test_the_counts_keep_what_makes_the_score_doubtful_and_no_more(request_: ScoreRequest, tmp_path: Path) -> None:
    (request_.predictions / "y.png").unlink()
    counts = score_masks(request_).scored_counts()
    (tmp_path / "a.counts.npz").write_bytes(counts_bytes(counts))
    (warning,) = load_counts(tmp_path / "a.counts.npz").warnings
    assert warning.startswith("No prediction belongs to 1 of 2 labels (y), ")


def test_changed_counts_are_refused(request_: ScoreRequest, tmp_path: Path) -> None:
    path = tmp_path / "a.counts.npz"
    path.write_bytes(counts_bytes(score_masks(request_).scored_counts()))
    with np.load(path) as file:
        arrays = dict(file)
    arrays["intersection"][0, 0] += 1
    np.savez(path, **arrays)
    with pytest.raises(DataError, match="does not agree with its checksum"):
        load_counts(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no"])
def test_a_file_that_holds_no_counts_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as counts"):
        load_counts(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    with pytest.raises(DataError, match="cannot be read as counts"):
        load_counts(tmp_path / "a.npz")


def test_counts_of_other_shapes_are_refused(request_: ScoreRequest, tmp_path: Path) -> None:
    counts: ScoredCounts = score_masks(request_).scored_counts()
    (tmp_path / "a.npz").write_bytes(counts_bytes(replace(counts, target=counts.target[:1])))
    with pytest.raises(DataError, match="cannot be read as counts"):
        load_counts(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "change",
    [
        lambda c: {"intersection": -c.intersection},
        lambda c: {"intersection": c.intersection + 10**9},
        lambda c: {"union": c.union + 2**62},
    ],
)
def test_counts_that_no_mask_can_have_are_refused(request_: ScoreRequest, tmp_path: Path, change) -> None:
    """With a right checksum: it says nothing about who wrote the file."""
    counts: ScoredCounts = score_masks(request_).scored_counts()
    (tmp_path / "a.npz").write_bytes(counts_bytes(replace(counts, **change(counts))))
    with pytest.raises(DataError, match="counts that no mask can have"):
        load_counts(tmp_path / "a.npz")


def test_counts_with_names_that_are_no_texts_are_refused(request_: ScoreRequest, tmp_path: Path) -> None:
    counts: ScoredCounts = score_masks(request_).scored_counts()
    (tmp_path / "a.npz").write_bytes(counts_bytes(counts))
    with np.load(tmp_path / "a.npz") as file:
        arrays = dict(file)
    for about in ('{"format": "segnl-counts-1", "source": 3, "checksum": ""}', 3):
        np.savez(tmp_path / "b.npz", **arrays | {"about": np.array(about)})
        with pytest.raises(DataError, match="cannot be read as counts"):
            load_counts(tmp_path / "b.npz")
    arrays["sample_ids"] = np.arange(2)
    texts = {name: arrays[name] for name in arrays if name != "about"}
    about = json.dumps({"format": "segnl-counts-1", "source": "x", "checksum": _checksum("x", [], texts)})
    np.savez(tmp_path / "b.npz", **texts, about=np.array(about))
    with pytest.raises(DataError, match="no texts"):
        load_counts(tmp_path / "b.npz")


# ---- masks that look wrong ----


def stripes(num_classes: int = 11) -> np.ndarray:
    """Train ids of `num_classes` stripes of unequal width, two rows of noise."""
    label = np.repeat(np.arange(num_classes), np.arange(num_classes) + 4)[None].repeat(31, axis=0)
    label[:2] = np.random.default_rng(3).integers(0, num_classes, label[:2].shape)
    return label


def scored(tmp_path: Path, prediction: np.ndarray, label: np.ndarray, **options: object) -> MaskScore:
    k = 1 + int(label[label < 255].max())
    rows = "".join(f"{i}\tclass {i}\t{i}\t{i}\t90\n" for i in range(k))
    (tmp_path / "classes.tsv").write_text(f"index\tname\tr\tg\tb\n{rows}")
    labels, predictions = write(tmp_path / "labels", a=label), write(tmp_path / "predictions", a=prediction)
    return score_masks(ScoreRequest(predictions, labels, str(tmp_path / "classes.tsv"), **options))  # type: ignore[arg-type]


def noisy(label: np.ndarray, num_classes: int = 11) -> np.ndarray:
    random = np.random.default_rng(5)
    return np.where(random.random(label.shape) < 0.25, random.integers(0, num_classes, label.shape), label)


def test_shifted_ids_are_called_shifted(tmp_path: Path) -> None:
    label = stripes()
    score = scored(tmp_path, noisy(label) + 1, label, ignore_ids=[11])
    sentence = warning_of(score, "The predicted ids look shifted by one: ")
    assert "2 fits 'class 1' (1) best, 3 fits 'class 2' (2) best" in sentence
    assert sentence.endswith(" more. Subtract 1 from the predicted ids.")
    below = np.maximum(noisy(label), 1) - 1
    assert warning_of(scored(tmp_path, below, label), "The predicted ids look shifted by one").endswith(
        "Add 1 to the predicted ids."
    )


@pytest.mark.parametrize("order", [np.random.default_rng(0).permutation(11), [0, 1, 2, 3, 4, 6, 5, 7, 8, 9, 10]])
def test_permuted_classes_are_called_permuted(tmp_path: Path, order: np.ndarray) -> None:
    label = stripes()
    sentence = warning_of(scored(tmp_path, np.array(order)[noisy(label)], label), "The predicted ids look permuted")
    assert (
        "a class table (index, name) with a line per class in their order, each with its id in the labels" in sentence
    )
    assert "--prediction-ids train" in sentence


@pytest.mark.parametrize("foreground", [0.02, 0.5])
def test_inverted_binary_masks_are_noticed_and_bad_ones_are_not(tmp_path: Path, foreground: float) -> None:
    """Bad ones: everything is foreground, nothing is, or a coin decides."""
    random = np.random.default_rng(2)
    label = (random.random((63, 41)) < foreground).astype(np.uint8)
    prediction = label ^ (random.random(label.shape) < foreground / 4)
    assert warning_of(scored(tmp_path, 1 - prediction, label), "The predicted ids look exchanged (inverted masks)")
    for own in (prediction, label | 1, label & 0, random.integers(0, 2, label.shape)):
        assert not any("look" in sentence for sentence in scored(tmp_path, own, label).warnings)


@pytest.mark.parametrize(
    ("axes", "words"), [((1,), "left to right"), ((0,), "upside down"), ((0, 1), "by 180 degrees")]
)
def test_flipped_predictions_are_called_flipped_and_nothing_else(
    request_: ScoreRequest, axes: tuple[int, ...], words: str
) -> None:
    """A flip exchanges the two classes, too, which is not said beside it."""
    label = np.zeros((19, 23), np.uint8)
    label[10:] = 1
    label[3:15, :9] = 2
    labels = {name: np.roll(label, (0, number), (0, 1)) for number, name in enumerate("xy")}
    write(request_.labels, **{name: file_ids(own) for name, own in labels.items()})
    write(request_.predictions, **{name: file_ids(noisy(np.flip(own, axes), 3)) for name, own in labels.items()})
    (sentence,) = (own for own in score_masks(request_).warnings if "look" in own)
    assert sentence.startswith(f"The predictions look flipped {words}: ")
    write(request_.predictions, **{name: file_ids(noisy(own, 3)) for name, own in labels.items()})
    assert not any("look" in own for own in score_masks(request_).warnings)


def test_permuted_indices_of_a_palette_name_the_palette(tmp_path: Path) -> None:
    label = stripes()
    scored(tmp_path, label, label)
    image = Image.fromarray(np.random.default_rng(0).permutation(11).astype(np.uint8)[noisy(label)])
    image.putpalette(list(range(255)) * 3)
    image.save(tmp_path / "predictions" / "a.png")
    request = ScoreRequest(tmp_path / "predictions", tmp_path / "labels", str(tmp_path / "classes.tsv"))
    assert "Palette files are read by their indices" in warning_of(
        score_masks(request), "The predicted ids look permuted"
    )


@pytest.mark.parametrize("kind", ["random", "constant", "confused", "merged", "two merged"])
def test_honest_bad_predictions_are_not_called_permuted(tmp_path: Path, kind: str) -> None:
    label, random = stripes(), np.random.default_rng(9)
    prediction = {
        "random": random.integers(0, 11, label.shape),
        "constant": np.full_like(label, 4),
        "confused": np.where((label == 6) | (label == 7), random.integers(6, 8, label.shape), label),
        "merged": np.where(label == 10, 9, label),
        "two merged": np.where(label == 10, 9, np.where(label == 5, 3, label)),
    }[kind]
    assert not any("look" in own for own in scored(tmp_path, prediction, label).warnings)


def test_predictions_that_are_the_labels_and_swapped_folders_are_said(tmp_path: Path) -> None:
    label = stripes()
    label[:, :3] = 255
    assert warning_of(scored(tmp_path, label, label), "Every prediction equals its label, in ignored pixels too.")
    assert warning_of(scored(tmp_path, stripes(), stripes()), "Every prediction equals its label. ")
    assert "are PREDICTIONS and --labels swapped?" in scored(tmp_path, label, noisy(stripes())).warnings[-1]
    assert "swapped" not in str(scored(tmp_path, noisy(stripes()), label).warnings)


def test_ade20k_labels_after_reduce_zero_label_are_refused_by_the_table_of_the_downloaded_ones(tmp_path: Path) -> None:
    labels = write(tmp_path / "labels", a=np.array([[0, 1, 149, 255]]))
    request = ScoreRequest(write(tmp_path / "predictions", a=np.array([[0, 1, 149, 3]])), labels, "ade20k")
    with pytest.raises(
        DataError, match=r"holds 255, but ade20k has ids 1\.\.150 \(and 0, ignored\); .*take --classes ade20k-train"
    ):
        score_masks(request)
    assert score_masks(replace(request, classes="ade20k-train")).to_dict()["miou"] == 1
    write(labels, a=np.array([[0, 1, 150, 2]]))
    with pytest.raises(DataError, match=r"holds 150, .*take --classes ade20k$"):
        score_masks(replace(request, classes="ade20k-train"))


def test_cityscapes_labels_that_hold_train_ids_with_ignored_pixels_of_0_are_noticed(tmp_path: Path) -> None:
    labels = write(tmp_path / "labels", a=np.array([[0, 0, 7, 8, 10, 18]]))
    request = ScoreRequest(write(tmp_path / "predictions", a=np.array([[2, 0, 7, 8, 10, 18]])), labels, "cityscapes")
    assert warning_of(score_masks(request), "No label holds an id above 18")
    warnings = score_masks(replace(request, classes="cityscapes-train")).warnings
    assert any(own.startswith("No label pixel is ignored (255).") for own in warnings)


def test_labels_without_ignored_pixels_do_not_hide_shifted_predictions(tmp_path: Path) -> None:
    label = stripes()
    labels, predictions = write(tmp_path / "labels", a=label), write(tmp_path / "predictions", a=label + 1)
    request = ScoreRequest(predictions, labels, "ade20k-train")
    first, second, *_ = score_masks(request).warnings
    assert first.startswith("No label pixel is ignored (255).")
    assert second.startswith("The predicted ids look shifted by one: ")
    write(predictions, a=label)
    write(labels, a=label + 1)
    assert not any("Add 1" in own for own in score_masks(request).warnings)  # the labels are of --classes ade20k


@pytest.mark.parametrize("name", ["classes.tsv", "data.yaml"])
def test_a_table_of_one_class_is_refused(tmp_path: Path, name: str) -> None:
    text = "index\tname\tr\tg\tb\n0\tcar\t1\t2\t3\n" if name == "classes.tsv" else "nc: 1\nnames: [car]\n"
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=r"names 1 class, 'car'; .*--foreground 255"):
        class_table(str(tmp_path / name), [])


def test_a_yaml_whose_nc_is_another_number_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("nc: 3\nnames: [a, b]\n")
    with pytest.raises(DataError, match="nc: holds 3, but names has 2 classes"):
        class_table(str(tmp_path / "data.yaml"), [])


def test_an_unknown_table_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"camvid: no such file; .* cityscapes, cityscapes-train, ade20k, ade20k-train"):
        class_table("camvid", [])


@pytest.mark.parametrize("is_folder", [True, False])
@pytest.mark.parametrize("hw", [(16_000, 16_000), (1, 16_000, 16_000)])
def test_an_array_that_does_not_fit_its_label_is_not_unpacked(
    request_: ScoreRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_folder: bool, hw: tuple[int, ...]
) -> None:
    file = tmp_path / ("p/x.npz" if is_folder else "p.npz")
    file.parent.mkdir(exist_ok=True)
    np.savez_compressed(file, x=np.zeros(hw, np.uint8))
    monkeypatch.setattr(np.lib.format, "read_array", pytest.fail)
    with pytest.raises(DataError, match=r"16000x16000 pixels .*, but its label has 29x17"):
        score_masks(replace(request_, predictions=file.parent if is_folder else file))


@pytest.mark.parametrize("hw", [(20, 31), (31, 27), (27, 40), (13, 31)])
def test_masks_of_another_aspect_ratio_are_not_resized(tmp_path: Path, hw: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="another aspect ratio"):
        scored(tmp_path, np.zeros(hw), np.arange(2).repeat(13 * 31 // 2 + 1)[: 27 * 13].reshape(27, 13), resize=True)


@pytest.mark.parametrize("hw", [(13, 7), (14, 6), (13, 6), (14, 7), (54, 26), (270, 130), (3, 1)])
def test_sizes_that_were_rounded_are_resized(tmp_path: Path, hw: tuple[int, int]) -> None:
    label = np.arange(2).repeat(27 * 13 // 2 + 1)[: 27 * 13].reshape(27, 13)
    assert scored(tmp_path, np.zeros(hw), label, resize=True).num_resized == 1


@pytest.mark.parametrize(("step", "word"), [(1, "next"), (-1, "previous")])
def test_predictions_numbered_off_by_one_are_noticed(request_: ScoreRequest, step: int, word: str) -> None:
    random = np.random.default_rng(8)
    labels = [np.repeat(random.integers(0, 3, (9, 1)), 11, axis=1) for _ in range(7)]
    for folder in (request_.labels, request_.predictions):
        for path in folder.glob("*.png"):
            path.unlink()
    write(request_.labels, **{f"frame_{i:04}": file_ids(label) for i, label in enumerate(labels)})
    write(request_.predictions, **{f"frame_{i:04}": file_ids(noisy(labels[i], 3)) for i in range(1, 6)})
    assert not any("off by one" in own for own in score_masks(request_).warnings)
    write(request_.predictions, **{f"frame_{i:04}": file_ids(noisy(labels[i + step], 3)) for i in range(1, 6)})
    assert warning_of(score_masks(request_), f"The predictions fit the labels with the {word} number better")


def test_results_of_coco_that_name_no_file_are_said_to_be_paired_by_number(request_: ScoreRequest) -> None:
    lengths = {"size": [17, 29], "counts": [0, 17 * 29]}
    content = [{"image_id": 7, "category_id": 3, "segmentation": lengths}]
    (request_.labels.parent / "p.json").write_text(json.dumps(content))
    (request_.labels / "x.png").rename(request_.labels / "0007.png")
    score = score_masks(replace(request_, predictions=request_.labels.parent / "p.json"))
    assert warning_of(score, "Predictions are paired with labels by number, such as image_id 7 with '0007'")
    (request_.labels / "0007.png").rename(request_.labels / "000000000007.png")
    score = score_masks(replace(request_, predictions=request_.labels.parent / "p.json"))
    assert not any("by number" in own for own in score.warnings)
    (request_.labels / "000000000007.png").rename(request_.labels / "z.png")
    with pytest.raises(
        DataError, match=r'names no files: save {"images": \[{"id": ..., "file_name": ...}, ...\], "annotations"'
    ):
        score_masks(replace(request_, predictions=request_.labels.parent / "p.json"))
    content[0]["category_id"] = 11
    (request_.labels.parent / "p.json").write_text(json.dumps([content[0] | {"image_id": "z"}]))
    with pytest.raises(DataError, match=r"image z \(category_id\): pixel \(row 0, column 0\) holds 11"):
        score_masks(replace(request_, predictions=request_.labels.parent / "p.json"))


# ---- masks of colours ----


def test_masks_of_colours_score_as_masks_of_ids(request_: ScoreRequest, tmp_path: Path) -> None:
    """Labels and predictions; an ignored pixel is black; with and without alpha."""
    expected = score_masks(request_).to_dict()
    for folder, mode in (("labels", "RGB"), ("predictions", "RGBA")):
        for path in (tmp_path / folder).glob("*.png"):
            ids = np.array(Image.open(path))
            Image.fromarray(np.stack([ids, 0 * ids, 0 * ids], axis=-1)).convert(mode).save(path)
    for prediction_ids in ("file", "train"):
        result = score_masks(replace(request_, prediction_ids=prediction_ids)).to_dict()
        assert {key: result[key] for key in ("miou", "definitions", "labels_digest", "predictions_digest")} == {
            key: expected[key] for key in ("miou", "definitions", "labels_digest", "predictions_digest")
        }


def test_a_colour_that_no_class_has_is_named_with_its_pixel(request_: ScoreRequest) -> None:
    Image.new("RGB", (29, 17), (1, 2, 3)).save(request_.predictions / "x.png")
    with pytest.raises(DataError, match=r"x\.png: pixel \(row 0, column 0\) holds the colour #010203 .*1, 2, 3"):
        score_masks(request_)
    Image.new("RGB", (29, 17), (7, 7, 7)).save(request_.predictions / "x.png")
    with pytest.raises(DataError, match=r"x\.png: three equal channels; if they hold class ids, save one channel"):
        score_masks(request_)


def test_colours_in_opencvs_order_are_named(request_: ScoreRequest) -> None:
    Image.fromarray(np.full((17, 29, 3), (0, 0, 7), np.uint8)).save(request_.predictions / "x.png")
    with pytest.raises(DataError, match=r"x\.png: colours of classes\.tsv in the order BGR \(OpenCV's\); save RGB"):
        score_masks(request_)


def test_colours_need_a_table_with_colours_that_differ(request_: ScoreRequest, tmp_path: Path) -> None:
    Image.new("RGB", (29, 17), (7, 0, 0)).save(request_.predictions / "x.png")
    table = tmp_path / "classes.tsv"
    table.write_text(table.read_text().replace("20\tc\t20", "20\tc\t7"))
    with pytest.raises(DataError, match="'b' and 'c' have one colour"):
        score_masks(request_)
    table.write_text("index\tname\n3\ta\n7\tb\n20\tc\n9\td\n")
    with pytest.raises(DataError, match=r"x\.png: holds colours; .*classes\.tsv: line 1 must be 'index name r g b'"):
        score_masks(request_)
    (tmp_path / "predictions.json").touch()
    with pytest.raises(DataError, match=r"x\.png: holds colours; .* COCO panoptic's, give .*predictions\.json"):
        score_masks(request_)
    Image.new("RGB", (29, 17), (7, 7, 7)).save(request_.predictions / "x.png")
    with pytest.raises(DataError, match="three equal channels; if they hold class ids, save one channel"):
        score_masks(request_)


def test_a_table_needs_no_colours_for_masks_of_ids(request_: ScoreRequest, tmp_path: Path) -> None:
    expected = score_masks(request_).definitions
    (tmp_path / "classes.tsv").write_text("index\tname\n3\ta\n7\tb\n20\tc\n9\td\n")
    assert score_masks(request_).definitions == expected


def test_cityscapes_colours_of_unscored_classes_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    colours = np.array([[[128, 64, 128], [0, 0, 0], [111, 74, 0], [0, 0, 142]]], np.uint8)  # road, void, dynamic, car
    Image.fromarray(colours).save(tmp_path / "labels" / "a.png")
    predictions = write(tmp_path / "predictions", a=np.array([[7, 7, 7, 26]]))
    score = score_masks(ScoreRequest(predictions, tmp_path / "labels", "cityscapes"))
    assert (score.to_dict()["miou"], score.to_dict()["num_pixels"]) == (1, 2)
