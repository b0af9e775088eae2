"""Scores of foreign masks: exact against a loop over pixels, and every oddity of the masks is said."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnl.core.errors import ConfigError, DataError
from segnl.evaluation.score_masks import MaskScore, PredictionIds, ScoreRequest, class_table, score_masks
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
    sentence = warning_of(score_masks(request), "These masks look like train ids")
    assert "100.0 % instead of 0.0 %. Try --prediction-ids train." in sentence
    assert not any("look like" in own for own in score_masks(replace(request, prediction_ids="train")).warnings)


def test_classes_never_predicted_and_only_predicted_are_named(request_: ScoreRequest) -> None:
    score = score_masks(request_)
    assert warning_of(score, "Predicted, though never labelled: d.")
    for path in request_.predictions.glob("*.png"):
        ids = np.array(Image.open(path))
        Image.fromarray(np.where(ids == 7, 3, ids).astype(np.uint8)).save(path)
    assert warning_of(score_masks(request_), "Never predicted, though labelled: b. Each counts 0")


def test_pixels_predicted_as_no_class_are_errors_and_counted(request_: ScoreRequest) -> None:
    whole = score_masks(request_).definitions
    for path in request_.predictions.glob("*.png"):
        ids = np.array(Image.open(path))
        ids[:4] = 255
        Image.fromarray(ids).save(path)
    score = score_masks(request_)
    num = sum(int((np.array(Image.open(path))[:4] != 0).sum()) for path in request_.labels.glob("*.png"))
    assert warning_of(score, f"{num} labelled pixels")
    assert score.definitions["label_size_union_present"] < whole["label_size_union_present"]
    assert score.to_dict()["definitions"]["torchmetrics_jaccard_macro"] is None


def test_a_label_without_a_prediction_is_said(request_: ScoreRequest) -> None:
    (request_.predictions / "y.png").unlink()
    assert warning_of(score_masks(request_), "1 of 2 labels have no prediction.")


def test_masks_of_another_size_are_refused_or_resized(request_: ScoreRequest) -> None:
    path = request_.predictions / "x.png"
    ids = np.array(Image.open(path))
    Image.fromarray(ids.repeat(3, axis=0).repeat(2, axis=1)).save(path)
    with pytest.raises(DataError, match=r"x\.png: 51x58 pixels, but its label has 17x29; .*--resize"):
        score_masks(request_)
    score = score_masks(replace(request_, resize=True))
    assert warning_of(score, "1 predictions have another size")
    Image.fromarray(ids).save(path)
    assert score.definitions == score_masks(request_).definitions


@pytest.mark.parametrize(("value", "dtype"), [(5, np.uint8), (700, np.uint16)])
def test_a_predicted_id_without_a_meaning_is_named(
    request_: ScoreRequest, tmp_path: Path, value: int, dtype: type
) -> None:
    arrays = {path.stem: np.array(Image.open(path)).astype(dtype) for path in request_.predictions.glob("*.png")}
    arrays["x"][2, 4] = value
    np.savez(tmp_path / "p.npz", **arrays)
    message = rf"x: pixel \(row 2, column 4\) holds {value}, but the file ids of classes.tsv are 0, 3, 7, 9, 20, 255; "
    with pytest.raises(DataError, match=message):
        score_masks(replace(request_, predictions=tmp_path / "p.npz"))


@pytest.mark.parametrize(
    ("ids", "first_id", "prediction_ids", "advice"),
    [
        ([1, 2, 3], 0, "file", "subtract 1 from the predicted ids, which seem to be shifted by one, or count 3 as no"),
        ([1, 2, 3], 0, "train", "subtract 1 from the predicted ids, which seem to be shifted by one, or count 3 as no"),
        ([0, 4, 1], 0, "train", "count 4 as no class with --ignore 4"),
        ([1, 2, 3], 1, "train", "read the predictions as file ids with --prediction-ids file$"),
        ([0, 1, 2], 1, "file", "read the predictions as train ids with --prediction-ids train, or count 0 as no"),
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


def test_colours_in_a_mask_are_not_called_a_label(request_: ScoreRequest) -> None:
    Image.new("RGB", (29, 17)).save(request_.predictions / "x.png")
    with pytest.raises(DataError, match=r"x\.png: mask of mode RGB; .*, not colours; convert the colours"):
        score_masks(request_)


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
    miou = np.mean([1 / 2, 1, 0, 1 / 2, 1 / 2])
    assert score_masks(by_file_ids).to_dict()["miou"] == pytest.approx(miou, abs=1e-15)
    for ids in ("file", "train"):
        own = replace(by_train_ids, classes="cityscapes-train", prediction_ids=ids)
        assert score_masks(own).to_dict()["miou"] == pytest.approx(miou, abs=1e-15)


def test_renamed_labels_of_train_ids_are_known_by_their_255(tmp_path: Path) -> None:
    labels = write(tmp_path / "labels", x=np.array([[0, 7, 255]]))
    request = ScoreRequest(write(tmp_path / "predictions", x=np.array([[7, 7, 7]])), labels, "cityscapes")
    with pytest.raises(DataError, match=r"holds 255, .* not train ids; segnl score takes --classes cityscapes-train"):
        score_masks(request)


def test_an_unknown_id_in_a_label_is_named(request_: ScoreRequest) -> None:
    with pytest.raises(
        DataError, match=r"labels/x\.png: pixel .* holds 0, but classes.tsv has ids 3, 7, 9, 20, 255; add --ignore 0"
    ):
        score_masks(replace(request_, ignore_ids=[]))


def test_an_image_without_labels_and_a_data_set_without_labels(request_: ScoreRequest) -> None:
    Image.new("L", (29, 17), 0).save(request_.labels / "x.png")
    assert warning_of(score_masks(request_), "1 images have no labelled pixel")
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
    with pytest.raises(DataError, match="no label holds 1, the class 'crack', and some hold 255; add --foreground 255"):
        score_masks(request)
    for ids in ("file", "train"):
        own = replace(request, foreground_id=255, prediction_ids=ids)
        assert score_masks(own).definitions["label_size_union_present"] == miou
    label = np.array(Image.open(request.labels / "a.png")) // 255
    write(request.labels, a=label)
    with pytest.raises(DataError, match="no mask holds 1, the class 'crack'"):
        score_masks(request)
    assert score_masks(replace(request, foreground_id=255)).to_dict()["miou"] == miou


def test_a_table_may_name_255_as_a_class(binary: tuple[ScoreRequest, float], tmp_path: Path) -> None:
    request, miou = binary
    table = tmp_path / "classes.tsv"
    table.write_text(table.read_text().replace("1\tcrack", "255\tcrack"))
    assert score_masks(request).to_dict()["miou"] == miou
    write(request.predictions, a=np.array(Image.open(request.predictions / "a.png")) // 255)
    assert score_masks(replace(request, prediction_ids="train")).to_dict()["miou"] == miou


def test_255_may_still_stand_for_no_class(binary: tuple[ScoreRequest, float]) -> None:
    request, _ = binary
    assert score_masks(replace(request, ignore_ids=[255])).counts.confusion.target()[1] == 0


@pytest.mark.parametrize("foreground", [0, 256, -1])
def test_a_foreground_that_cannot_be_is_refused(binary: tuple[ScoreRequest, float], foreground: int) -> None:
    with pytest.raises(ConfigError, match=f"--foreground {foreground}: expected an id"):
        score_masks(replace(binary[0], foreground_id=foreground))


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


@pytest.mark.parametrize("change", [lambda c: -c, lambda c: c + 10**9])
def test_counts_that_no_mask_can_have_are_refused(request_: ScoreRequest, tmp_path: Path, change) -> None:
    """With a right checksum: it says nothing about who wrote the file."""
    counts: ScoredCounts = score_masks(request_).scored_counts()
    (tmp_path / "a.npz").write_bytes(counts_bytes(replace(counts, intersection=change(counts.intersection))))
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
    about = json.dumps({"format": "segnl-counts-1", "source": "x", "checksum": _checksum("x", texts)})
    np.savez(tmp_path / "b.npz", **texts, about=np.array(about))
    with pytest.raises(DataError, match="no texts"):
        load_counts(tmp_path / "b.npz")
