"""metrics.json and the table."""

import json
from pathlib import Path

import numpy as np
import pytest

from segnl.metrics.confusion import Confusion, metrics_dict, table_text

NAMES = ("road", "car", "sky")


def small() -> Confusion:
    confusion = Confusion(3)
    confusion.update(np.array([[0, 1, 0, 255]], np.uint8), np.array([[0, 0, 0, 0]], np.uint8))
    return confusion


def test_metrics_are_fractions_with_null_for_the_undefined() -> None:
    result = metrics_dict(small(), NAMES, num_images=1)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["miou"] == 0.25
    assert result["per_class"] == {"road": 0.5, "car": 0.0, "sky": None}
    assert result["per_class_acc"] == {"road": 0.5, "car": None, "sky": None}
    assert result["per_class_precision"] == {"road": 1.0, "car": 0.0, "sky": None}
    assert result["per_class_f1"] == {"road": 2 / 3, "car": 0.0, "sky": None}
    assert (result["pixel_acc"], result["mean_acc"]) == (0.5, 0.5)
    assert (result["classes_averaged"], result["num_images"], result["predicted_void"]) == (2, 1, 1)
    assert result["complete"] is True
    assert "score" not in result


def test_an_empty_count_is_all_null() -> None:
    result = metrics_dict(Confusion(3), NAMES, num_images=0)
    assert result["miou"] is None
    assert result["classes_averaged"] == 0
    json.dumps(result, allow_nan=False)


def test_ade20k_adds_its_official_mean_and_score() -> None:
    result = metrics_dict(small(), NAMES, num_images=1, counts_absent_classes=True)
    assert result["miou_official150"] == pytest.approx(0.5 / 3)
    assert result["score"] == pytest.approx((0.5 + 0.5 / 3) / 2)


def test_the_table_has_a_line_for_each_class_and_the_means() -> None:
    text = table_text(small(), NAMES, num_images=1, counts_absent_classes=True)
    lines = {line.split("  ")[0]: line for line in text.splitlines()}
    assert lines["road"].split() == ["road", "50.00", "50.00", "100.00", "66.67", "100.00"]
    assert lines["sky"].split() == ["sky", "-", "-", "-", "-", "0.00"]
    assert "2 of 3 classes" in lines["mIoU"]
    assert all(line == line.rstrip() for line in text.splitlines())


def test_names_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 3"):
        metrics_dict(small(), ("a", "b"), num_images=1)
    with pytest.raises(ValueError, match="2 different of 3"):
        table_text(small(), ("a", "b", "b"), num_images=1)


def test_perfect_predictions_on_three_ade20k_images(shared: Path) -> None:
    from PIL import Image

    confusion = Confusion(150)
    for path in sorted((shared / "data/ADEChallengeData2016/annotations/validation").glob("*.png")):
        train = np.asarray(Image.open(path)) - np.uint8(1)  # 0 becomes 255, void
        confusion.update(train, train)
    result = metrics_dict(confusion, [str(i) for i in range(150)], num_images=3, counts_absent_classes=True)
    assert result["miou"] == 1.0
    assert round(result["miou_official150"], 3) == 0.100
