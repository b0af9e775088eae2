"""Our Cityscapes scores against the benchmark's own code, on small data sets in its layout."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from segnl.core.errors import DataError, MachineError
from segnl.metrics import cityscapes_official as official
from segnl.metrics.cityscapes_official import (
    AVERAGE_INSTANCE_PX,
    CityscapesScores,
    Frame,
    check_agreement,
    count_frames,
    run_cityscapesscripts,
    score_frames,
)

HW = (37, 61)
SAMPLE_IDS = ("bonn_000000_000019", "bonn_000001_000019", "ulm_000003_000019")


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), values)


def dataset(folder: Path, seed: int = 0) -> Path:
    """Labels with instances and ignored ids, predictions with mistakes; no train anywhere, trucks only predicted."""
    rng = np.random.default_rng(seed)
    for sample_id in SAMPLE_IDS:
        city = sample_id.split("_")[0]
        label = np.kron(rng.choice([0, 3, 7, 8, 11, 21, 23], (5, 8)), np.ones((8, 8), int))[: HW[0], : HW[1]]
        instances = label.copy()
        for number in range(9):
            thing = int(rng.choice([24, 25, 26, 28, 29, 33]))
            row, column, size = rng.integers(0, 30), rng.integers(0, 50), rng.integers(2, 12)
            label[row : row + size, column : column + size] = thing
            instances[row : row + size, column : column + size] = thing * 1000 + number
        label[:3], instances[:3] = 24, 24  # a crowd: a thing class without an instance number
        label[-2:], instances[-2:] = 1, 1001  # an id above 1000 that is no thing
        wrong = rng.random(HW)
        predicted = np.where(wrong < 0.6, label, rng.choice([0, 4, 7, 8, 9, 11, 21, 24, 26, 27, 29, 30, 33], HW))
        base = folder / "gtFine/val" / city / f"{sample_id}_gtFine"
        write(base.with_name(f"{base.name}_labelIds.png"), label.astype(np.uint8))
        write(base.with_name(f"{base.name}_instanceIds.png"), instances.astype(np.uint16))
        write(folder / "results" / city / f"{sample_id}_leftImg8bit.png", predicted.astype(np.uint8))
    return folder


def label_path(root: Path, sample_id: str, kind: str = "labelIds") -> Path:
    return root / "gtFine/val" / sample_id.split("_")[0] / f"{sample_id}_gtFine_{kind}.png"


def prediction_path(root: Path, sample_id: str) -> Path:
    return root / "results" / sample_id.split("_")[0] / f"{sample_id}_leftImg8bit.png"


def frames_of(root: Path) -> list[Frame]:
    return [
        Frame(prediction_path(root, sample_id), label_path(root, sample_id), label_path(root, sample_id, "instanceIds"))
        for sample_id in SAMPLE_IDS
    ]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_our_four_scores_equal_the_official_ones(seed: int, tmp_path: Path) -> None:
    root = dataset(tmp_path, seed)
    frames = frames_of(root)
    ours, theirs = count_frames(frames), run_cityscapesscripts(frames)
    for own, official_iou in zip(ours, theirs, strict=True):
        assert own.keys() == official_iou.keys()
        np.testing.assert_allclose(list(own.values()), list(official_iou.values()), rtol=0, atol=1e-12)
    assert np.isnan(ours.class_iou["train"])
    assert ours.class_iou["truck"] == 0.0
    result = score_frames(frames_of(root))
    assert {name: result[name] for name in official.CityscapesScores._fields} == pytest.approx(
        theirs.means(), abs=1e-12
    )
    assert result["per_class"]["train"] is None
    json.dumps(result, allow_nan=False)


def official_json(root: Path, command: list[str]) -> dict[str, Any]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment = {"CITYSCAPES_DATASET": str(root), "CITYSCAPES_RESULTS": str(root / "results"), "MPLBACKEND": "Agg"}
    environment |= {"CITYSCAPES_EXPORT_DIR": str(root)}
    subprocess.run(command, env={**kept, **environment}, check=True, capture_output=True, timeout=900)
    return json.loads((root / "resultPixelLevelSemanticLabeling.json").read_text())


OFFICIAL_KEYS = {  # the mean by our name: ours by class, theirs by class, their mean
    "class_iou": ("per_class", "classScores", "averageScoreClasses"),
    "class_iiou": ("per_class_iiou", "classInstScores", "averageScoreInstClasses"),
    "category_iou": ("per_category", "categoryScores", "averageScoreCategories"),
    "category_iiou": ("per_category_iiou", "categoryInstScores", "averageScoreInstCategories"),
}


def assert_the_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    for kind, (own, per_name, mean) in OFFICIAL_KEYS.items():
        assert ours[kind] == pytest.approx(theirs[mean], rel=0, abs=1e-12)
        for name, value in ours[own].items():
            expected = theirs[per_name][name]
            assert (value is None and np.isnan(expected)) or value == pytest.approx(expected, rel=0, abs=1e-12)


def test_the_official_command_line_gives_the_same(tmp_path: Path) -> None:
    root = dataset(tmp_path)
    command = (
        "import numpy as np; np.in1d = getattr(np, 'in1d', np.isin); "
        "from cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling import main; main()"
    )
    assert_the_same(score_frames(frames_of(root)), official_json(root, [sys.executable, "-c", command]))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_official_command_line_as_pip_installs_it_gives_the_same(seed: int, tmp_path: Path) -> None:
    scripts = os.environ.get("SEGNL_OFFICIAL_SCRIPTS")
    if not scripts:
        pytest.skip("SEGNL_OFFICIAL_SCRIPTS is not set: an environment's bin, with cityscapesscripts and numpy < 2.4")
    root = dataset(tmp_path, seed)
    command = Path(scripts) / "csEvalPixelLevelSemanticLabeling"
    assert_the_same(score_frames(frames_of(root)), official_json(root, [str(command)]))


def test_a_perfect_prediction_scores_1(tmp_path: Path) -> None:
    root = dataset(tmp_path)
    for sample_id in SAMPLE_IDS:
        prediction_path(root, sample_id).write_bytes(label_path(root, sample_id).read_bytes())
    result = score_frames(frames_of(root))
    assert result["class_iou"] == result["category_iou"] == 1.0


def test_a_prediction_in_a_palette_or_of_16_bits_scores_the_same(tmp_path: Path) -> None:
    root = dataset(tmp_path)
    expected = score_frames(frames_of(root))
    first, second = prediction_path(root, SAMPLE_IDS[0]), prediction_path(root, SAMPLE_IDS[1])
    picture = Image.fromarray(np.asarray(Image.open(first)))
    picture.putpalette(list(range(256)) * 3)
    picture.save(first)
    assert Image.open(first).mode == "P"
    write(second, np.asarray(Image.open(second)).astype(np.uint16))
    assert score_frames(frames_of(root)) == expected


def without_numpy_in1d(monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(np, "in1d"):
        monkeypatch.delattr(np, "in1d")


def test_numpy_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_numpy_in1d(monkeypatch)
    root = dataset(tmp_path)
    monkeypatch.setenv("CITYSCAPES_EXPORT_DIR", str(tmp_path / "absent"))
    score_frames(frames_of(root))
    assert not hasattr(np, "in1d")
    assert os.environ["CITYSCAPES_EXPORT_DIR"] == str(tmp_path / "absent")


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    write(path, change(np.asarray(Image.open(path))))


def as_train_ids(ids: np.ndarray) -> np.ndarray:
    table = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 21: 8, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 33: 18}
    return np.vectorize(lambda i: table.get(i, 5))(ids).astype(np.uint8)


def set_first_pixel(value: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(ids: np.ndarray) -> np.ndarray:
        ids = ids.copy()
        ids[0, 0] = value
        return ids

    return change


def damage(root: Path, error: str) -> None:
    prediction, label = prediction_path(root, SAMPLE_IDS[0]), label_path(root, SAMPLE_IDS[0])
    instances = label_path(root, SAMPLE_IDS[0], "instanceIds")
    if error == "prediction missing":
        prediction.unlink()
    elif error == "prediction of another size":
        rewrite(prediction, lambda ids: ids[:-1])
    elif error == "prediction in RGB":
        rewrite(prediction, lambda ids: np.repeat(ids[:, :, None], 3, axis=2))
    elif error == "prediction cut off":
        prediction.write_bytes(prediction.read_bytes()[:200])
    elif error == "prediction empty":
        prediction.write_bytes(b"")
    elif error in ("prediction holds 255", "prediction holds 34"):
        rewrite(prediction, set_first_pixel(int(error.split()[-1])))
    elif error == "label holds 34":
        rewrite(label, set_first_pixel(34))
    elif error == "instance of a road":
        rewrite(instances, set_first_pixel(7001))
    elif error == "train ids":
        for sample_id in SAMPLE_IDS:
            rewrite(prediction_path(root, sample_id), as_train_ids)


ERRORS = {
    "prediction missing": r"bonn_000000_000019_leftImg8bit.png: cannot be read",
    "prediction of another size": r"leftImg8bit.png: shape \(36, 61\)",
    "prediction in RGB": r"shape \(37, 61, 3\); expected one channel",
    "prediction cut off": r"bonn_000000_000019_leftImg8bit.png: cannot be read",
    "prediction empty": r"bonn_000000_000019_leftImg8bit.png: cannot be read",
    "prediction holds 255": r"pixel \(row 0, column 0\) holds 255; expected labelIds",
    "prediction holds 34": r"pixel \(row 0, column 0\) holds 34; expected labelIds",
    "label holds 34": r"labelIds.png: pixel \(row 0, column 0\) holds 34",
    "instance of a road": r"holds instance id 7001",
    "train ids": r"look like train ids 0..18; expected labelIds",
}


@pytest.mark.parametrize("error", ERRORS)
def test_each_error_of_the_files_is_one_line_naming_it(error: str, tmp_path: Path) -> None:
    root = dataset(tmp_path)
    damage(root, error)
    with pytest.raises(DataError, match=ERRORS[error]) as caught:
        score_frames(frames_of(root))
    assert "\n" not in str(caught.value)


def test_the_message_of_cityscapesscripts_becomes_an_error(tmp_path: Path) -> None:
    root = dataset(tmp_path)
    frames = frames_of(root)
    rewrite(frames[1].prediction, lambda ids: ids[:, :-1])
    with pytest.raises(DataError, match="cityscapesscripts: ERROR: Image widths of"):
        run_cityscapesscripts(frames)


def test_a_difference_between_the_two_implementations_is_an_error() -> None:
    ours = CityscapesScores({"road": 0.5}, {}, {}, {})
    check_agreement(ours, CityscapesScores({"road": 0.5 + 1e-13}, {}, {}, {}))
    with pytest.raises(MachineError, match=r"class_iou of road: 0\.5 by segnl"):
        check_agreement(ours, CityscapesScores({"road": 0.5 + 1e-11}, {}, {}, {}))
    with pytest.raises(MachineError, match="nan"):
        check_agreement(ours, CityscapesScores({"road": float("nan")}, {}, {}, {}))


def test_the_mean_instance_sizes_are_the_benchmarks() -> None:
    theirs = official._import_evaluator().args.avgClassSize
    assert {name: theirs[name] for name in AVERAGE_INSTANCE_PX} == AVERAGE_INSTANCE_PX
