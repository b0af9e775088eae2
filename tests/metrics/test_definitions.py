"""Definitions of mIoU against the packages that they are named after, and against loops over pixels.

A test of a package is skipped where it is not installed. None is a dependency of segnl:
pip install torchmetrics==1.9.0 segmentation-models-pytorch==0.6.0 ultralytics==8.4.190 mmsegmentation==1.2.2

definitions_recorded.json holds what these packages printed, and is compared everywhere. SEGNL_RECORD=1 writes it anew.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from segnl.metrics.definitions import DEFINITIONS, published_score, with_long_side
from segnl.metrics.mask_counts import MaskCounts

K = 4
LONG_SIDES_PX = [own.long_side_px for own in DEFINITIONS if own.long_side_px]
VOID = 255
Pairs = list[tuple[np.ndarray, np.ndarray]]
"""(prediction, label), train ids or 255, int64 `H W`."""


def random_pairs(seed: int, num_images: int = 3, *, present: int = K, predicted: int = K, void: float = 0.2) -> Pairs:
    """Masks of odd sizes that are mostly correct; classes from `present` on are in no label."""
    random = np.random.default_rng(seed)
    pairs = []
    for height, width in [(17, 23), (31, 12), (11, 40)][:num_images]:
        label = random.integers(0, present, (height, width))
        pred = np.where(random.random((height, width)) < 0.6, label, random.integers(0, predicted, (height, width)))
        label[random.random((height, width)) < void] = VOID
        pairs.append((pred, label))
    return pairs


def all_void_image(pairs: Pairs) -> Pairs:
    return [*pairs, (pairs[0][0], np.full_like(pairs[0][1], VOID))]


def with_void_predictions(pairs: Pairs) -> Pairs:
    random = np.random.default_rng(9)
    return [(np.where(random.random(pred.shape) < 0.1, VOID, pred), label) for pred, label in pairs]


CASES: dict[str, Pairs] = {
    "plain": random_pairs(0),
    "one image": random_pairs(1, 1),
    "a class in no label": random_pairs(2, present=K - 1),
    "a class in neither": random_pairs(3, present=K - 1, predicted=K - 1),
    "the first class in neither": [
        (pred % 3 + 1, np.where(label < K, label % 3 + 1, VOID)) for pred, label in random_pairs(4)
    ],
    "an image without labels": all_void_image(random_pairs(5)),
    "only images without labels": [(random_pairs(6)[0][0], np.full((17, 23), VOID))],
    "no ignored pixel": random_pairs(7, void=0.0),
    "a different class in every image": [(np.full((5, 7), i), np.full((5, 7), i)) for i in range(K)],
}
NO_CLASS = {
    "predicted as no class": with_void_predictions(random_pairs(8)),
    "also one image": with_void_predictions(random_pairs(1, 1)),
}
ALL_CASES = CASES | NO_CLASS


def matrix_of(pred: np.ndarray, label: np.ndarray) -> np.ndarray:
    matrix = np.zeros((K + 1, K + 1), np.int64)
    np.add.at(matrix, (np.minimum(label, K), np.minimum(pred, K)), 1)
    return matrix


def ours(name: str, pairs: Pairs) -> float:
    (definition,) = (own for own in DEFINITIONS if own.name == name)
    if definition.long_side_px is not None:
        pairs = [
            (at_size(pred, definition.long_side_px), at_size(label, definition.long_side_px)) for pred, label in pairs
        ]
    return definition.score(MaskCounts.of([matrix_of(*pair) for pair in pairs]))


def at_size(ids: np.ndarray, long_side_px: int) -> np.ndarray:
    return with_long_side(ids.astype(np.uint8), long_side_px).astype(np.int64)


RECORDED = Path(__file__).with_name("definitions_recorded.json")


def assert_same(name: str, case: str, theirs: Any) -> None:
    """Compares our number with a package's, and records that if asked to."""
    if os.environ.get("SEGNL_RECORD"):
        recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
        recorded.setdefault(case, {})[name] = None if math.isnan(theirs) else float(theirs)
        RECORDED.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")
    own = ours(name, ALL_CASES[case])
    assert own == pytest.approx(float(theirs), abs=2e-6, nan_ok=True)  # theirs is in float32


# ---- the packages ----


@pytest.mark.parametrize("reduction", ["micro", "macro", "micro-imagewise", "macro-imagewise"])
@pytest.mark.parametrize("case", ALL_CASES)
def test_smp_without_ignore_index(case: str, reduction: str) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    pairs = ALL_CASES[case]
    stats = [
        smp.metrics.get_stats(
            torch.from_numpy(pred)[None], torch.from_numpy(label)[None], mode="multiclass", num_classes=K
        )
        for pred, label in pairs
    ]
    tp, fp, fn, tn = (torch.cat(own) for own in zip(*stats, strict=True))
    theirs = smp.metrics.iou_score(tp, fp, fn, tn, reduction=reduction)
    assert_same(f"smp_{reduction.replace('-', '_')}", case, theirs)


@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize("case", CASES)
def test_torchmetrics_jaccard(case: str, average: str) -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    metric = classification.MulticlassJaccardIndex(K, average=average, ignore_index=VOID)
    for pred, label in CASES[case]:
        metric.update(torch.from_numpy(pred)[None], torch.from_numpy(label)[None])
    name = f"torchmetrics_jaccard_{average}"
    if case == "only images without labels":
        assert math.isnan(ours(name, CASES[case]))  # 0/0, where torchmetrics gives nan or 0 by version and average
    else:
        assert_same(name, case, metric.compute())


def test_torchmetrics_jaccard_stops_at_a_pixel_predicted_as_no_class() -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    pred, label = NO_CLASS["also one image"][0]
    with pytest.raises(RuntimeError):
        classification.MulticlassJaccardIndex(K, ignore_index=VOID)(torch.from_numpy(pred), torch.from_numpy(label))
    assert math.isnan(ours("torchmetrics_jaccard_macro", [(pred, label)]))


@pytest.mark.parametrize("case", CASES)
def test_torchmetrics_mean_iou_with_ignored_pixels_filled(case: str) -> None:
    segmentation = pytest.importorskip("torchmetrics.segmentation")
    metric = segmentation.MeanIoU(num_classes=K, input_format="index")
    for pred, label in CASES[case]:
        filled = np.where(label == VOID, pred, label)
        metric.update(torch.from_numpy(pred)[None], torch.from_numpy(filled)[None])
    assert_same("torchmetrics_mean_iou_void_filled_with_prediction", case, metric.compute())


def test_torchmetrics_mean_iou_stops_at_a_pixel_predicted_as_no_class() -> None:
    segmentation = pytest.importorskip("torchmetrics.segmentation")
    pred, label = NO_CLASS["also one image"][0]
    filled = np.where(label == VOID, pred, label)
    with pytest.raises(RuntimeError):
        segmentation.MeanIoU(num_classes=K, input_format="index")(
            torch.from_numpy(pred)[None], torch.from_numpy(filled)[None]
        )
    assert math.isnan(ours("torchmetrics_mean_iou_void_filled_with_prediction", [(pred, label)]))


@pytest.fixture
def ultralytics(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path_factory.mktemp("ultralytics")))
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    return pytest.importorskip("ultralytics")


def ultralytics_miou(pairs: Pairs) -> float:
    from ultralytics.utils.metrics import SemanticMetrics

    metric = SemanticMetrics(names=dict(enumerate("abcd")))
    for pred, label in pairs:
        metric.update_stats(torch.from_numpy(pred)[None], torch.from_numpy(label)[None])
    metric.process()
    return metric.miou


@pytest.mark.parametrize("case", ALL_CASES)
def test_ultralytics_at_the_labels_size(case: str, ultralytics: Any) -> None:
    assert_same("ultralytics_label_size", case, ultralytics_miou(ALL_CASES[case]))


@pytest.mark.parametrize("long_side_px", LONG_SIDES_PX)
def test_ultralytics_at_its_training_size(long_side_px: int, ultralytics: Any, tmp_path: Any) -> None:
    from ultralytics.data.dataset import SemanticDataset

    case = "predicted as no class"
    pairs = ALL_CASES[case]
    for folder, index in (("predictions", 0), ("labels", 1)):
        (tmp_path / folder / "images").mkdir(parents=True)
        (tmp_path / folder / "masks").mkdir()
        for number, pair in enumerate(pairs):
            mask = pair[index].astype(np.uint8)
            cv2.imwrite(str(tmp_path / folder / "images" / f"{number}.png"), np.zeros((*mask.shape, 3), np.uint8))
            cv2.imwrite(str(tmp_path / folder / "masks" / f"{number}.png"), mask)

    def masks(folder: str) -> list[np.ndarray]:
        data = {"names": dict(enumerate("abcd")), "nc": K, "channels": 3}
        images = str(tmp_path / folder / "images")
        dataset = SemanticDataset(img_path=images, data=data, imgsz=long_side_px, augment=False, task="semantic")
        return [dataset.get_image_and_label(i)["semantic_mask"].astype(np.int64) for i in range(len(pairs))]

    theirs = ultralytics_miou(list(zip(masks("predictions"), masks("labels"), strict=True)))
    assert_same(f"ultralytics_at_{long_side_px}", case, theirs)


@pytest.mark.parametrize("case", ALL_CASES)
def test_mmsegmentation_gives_the_exact_miou_dice_and_accuracy(case: str) -> None:
    iou_metric = pytest.importorskip("mmseg.evaluation.metrics.iou_metric", exc_type=ImportError).IoUMetric
    pairs = ALL_CASES[case]
    areas = [
        iou_metric.intersect_and_union(torch.from_numpy(pred), torch.from_numpy(label), K, VOID)
        for pred, label in pairs
    ]
    metrics = iou_metric.total_area_to_metrics(*(sum(own) for own in zip(*areas, strict=True)), ["mIoU", "mDice"])
    with np.errstate(all="ignore"):
        for name, theirs in (("label_size_union_present", "IoU"), ("mean_dice", "Dice"), ("mean_accuracy", "Acc")):
            defined = metrics[theirs][~np.isnan(metrics[theirs])]
            assert_same(name, case, defined.mean() if defined.size else math.nan)


@pytest.mark.parametrize("case", ALL_CASES)
def test_definitions_give_what_the_packages_printed(case: str) -> None:
    recorded = json.loads(RECORDED.read_text())[case]
    assert len(recorded) >= 8
    for name, theirs in recorded.items():
        assert ours(name, ALL_CASES[case]) == pytest.approx(
            math.nan if theirs is None else theirs, abs=2e-6, nan_ok=True
        )


# ---- loops over pixels, from the formulas ----


@pytest.mark.parametrize("case", ALL_CASES)
def test_hugging_faces_script_ignores_the_first_class(case: str) -> None:
    pairs = ALL_CASES[case]
    iou = []
    for c in range(K):
        both = either = 0
        for pred, label in pairs:
            kept = label != 0  # ignore_index=0; 255 stays and is no class
            both += int(((pred == c) & (label == c) & kept).sum())
            either += int((((pred == c) | (label == c)) & kept).sum())
        if either:
            iou.append(both / either)
    expected = np.mean(iou) if iou else math.nan
    assert ours("hf_example_ignore_0", pairs) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def per_class(pairs: Pairs) -> list[tuple[int, int, int]]:
    """Intersection, union and label pixels of each class where a label is."""
    rows = []
    for c in range(K):
        hits = [
            ((pred == c) & (label == c), ((pred == c) & (label != VOID)) | (label == c), label == c)
            for pred, label in pairs
        ]
        rows.append(tuple(int(sum(own[i].sum() for own in hits)) for i in range(3)))
    return rows


@pytest.mark.parametrize("case", ALL_CASES)
def test_definitions_at_the_labels_size(case: str) -> None:
    pairs = ALL_CASES[case]
    rows = per_class(pairs)
    labelled = sum(row[2] for row in rows)
    expected = {
        "label_size_union_present": mean([hit / union for hit, union, _ in rows if union]),
        "absent_counts_zero": sum(hit / union for hit, union, _ in rows if union) / K,
        "truth_present_only": mean([hit / union for hit, union, target in rows if target]),
        "frequency_weighted": mean([hit / union * target / labelled * K for hit, union, target in rows if target], K),
        "pixel_accuracy": sum(row[0] for row in rows) / labelled if labelled else math.nan,
        "image_mean": mean([own for pair in pairs if not math.isnan(own := ours("label_size_union_present", [pair]))]),
    }
    for name, value in expected.items():
        assert ours(name, pairs) == pytest.approx(value, abs=1e-12, nan_ok=True), name


def mean(values: list[float], count: int | None = None) -> float:
    return sum(values) / (count or len(values)) if values else math.nan


def test_every_definition_has_a_name_of_its_own_a_meaning_and_a_source() -> None:
    assert len({own.name for own in DEFINITIONS}) == len(DEFINITIONS)
    assert all(own.meaning.endswith(".") and own.source for own in DEFINITIONS)


# ---- a published number ----

SCORES = {"exact": 0.71234, "other": 0.71249, "third": 0.8, "undefined": math.nan}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("0.712", ("exact", "other")),
        ("71.2", ("exact", "other")),
        ("71.2 %", ("exact", "other")),
        ("0.7123", ("exact",)),
        ("71.25", ("other",)),
        ("0.80", ("third",)),
        ("0.5", ()),
    ],
)
def test_a_published_number_matches_within_its_printed_digits(text: str, matches: tuple[str, ...]) -> None:
    assert published_score(text, SCORES).matches == matches


def test_the_nearest_definition_is_named_where_none_matches() -> None:
    assert published_score("79.0", SCORES).nearest == "third"


@pytest.mark.parametrize("text", ["", "high", "-0.5", "101", "0.7.1", "nan", "1e-1"])
def test_a_published_number_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"0\.712"):
        published_score(text, SCORES)
