"""Zip files for a benchmark's server: names, ids, sizes, number, and nothing else inside."""

import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segnl.core.background import Background
from segnl.core.errors import ConfigError, DataError
from segnl.data.base import DataConfig, SubmissionRules
from segnl.data.datasets.ade20k import ADE20K
from segnl.data.datasets.cityscapes import SAMPLE_ID, Cityscapes
from segnl.evaluation.evaluate_run import EvaluationRequest, evaluate_run
from segnl.evaluation.submission import Submission
from segnl.metrics.cityscapes_official import Frame, score_frames
from segnl.runs.run import open_run

STEMS = ("berlin_000000_000019", "bielefeld_000000_000302")


def masks_in(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        return {name: np.asarray(Image.open(io.BytesIO(file.read(name)))) for name in file.namelist()}


@pytest.fixture
def run(street_runs, tmp_path) -> Path:
    shutil.copytree(street_runs[0], tmp_path / "run")
    return tmp_path / "run"


def evaluated(run, *overrides, **request):
    return evaluate_run(open_run(run, overrides), EvaluationRequest(**request)).metrics


def test_the_official_evaluator_scores_what_is_inside_as_we_do(run, street_runs, tmp_path):
    path = tmp_path / "out" / "val.zip"
    metrics = evaluated(run, submission=path, masks=tmp_path / "masks")
    found = masks_in(path)
    assert list(found) == sorted(mask.name for mask in (tmp_path / "masks" / "ids").iterdir())
    for name, ids in found.items():
        assert (ids.dtype, ids.shape) == (np.uint8, (64, 128))
        np.testing.assert_array_equal(ids, np.asarray(Image.open(tmp_path / "masks" / "ids" / name)))
    with zipfile.ZipFile(path) as file:
        file.extractall(tmp_path / "results")
    labels = street_runs[0].parent / "streets/gtFine/val"
    folders = ((tmp_path / "results", ""), (labels, "_labelIds"), (labels, "_instanceIds"))
    files = [sorted(folder.rglob(f"*{end}.png")) for folder, end in folders]
    official = score_frames([Frame(*paths) for paths in zip(*files, strict=True)])
    assert official["class_iou"] == pytest.approx(metrics["miou"], abs=1e-12)


@pytest.fixture
def unlabelled(street_runs, tmp_path, monkeypatch) -> Path:
    """A data set in Cityscapes' layout whose test split has two images and no labels; the server expects just those."""
    monkeypatch.setattr(Cityscapes, "submission", SubmissionRules(SAMPLE_ID, 2, (64, 128)))
    images = sorted((street_runs[0].parent / "streets/leftImg8bit/val").rglob("*.png"))
    for sample_id, image in zip(STEMS, images, strict=False):
        path = tmp_path / "cityscapes/leftImg8bit/test" / sample_id.split("_")[0] / f"{sample_id}_leftImg8bit.png"
        path.parent.mkdir(parents=True)
        shutil.copy(image, path)
    return tmp_path / "cityscapes"


@pytest.mark.parametrize("labels", ["absent", "void"])
def test_a_test_split_is_packed_without_scores(labels, unlabelled, run, tmp_path):
    for sample_id in STEMS if labels == "void" else ():
        path = unlabelled / "gtFine/test" / sample_id.split("_")[0] / f"{sample_id}_gtFine_labelIds.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.full((64, 128), 3, np.uint8)).save(path)  # out of roi
    data = f"data={{name: cityscapes, root: {unlabelled}, crop_hw: [64, 96], workers: 0}}"
    metrics = evaluated(run, data, split="test", submission=tmp_path / "test.zip", masks=tmp_path / "masks")
    assert list(masks_in(tmp_path / "test.zip")) == [f"{sample_id}.png" for sample_id in STEMS]
    assert (metrics["miou"], metrics["num_pixels"], metrics["num_images"]) == (None, 0, 2)
    assert (tmp_path / "masks" / "error").exists() == (labels == "void")


def cityscapes(root: Path) -> Cityscapes:
    cfg = DataConfig(name="cityscapes", root=root, crop_hw=(7, 11))
    return Cityscapes(cfg, "test", needs_labels=False)


def packed(path: Path, data, *, predicted=None, leave_out: int = 0) -> None:
    with Background(1, max_pending=2) as background:
        submission = Submission(path, data, background)
        for i in range(len(data) - leave_out):
            sample = data.read(i)
            submission.add(sample, torch.from_numpy(sample.label if predicted is None else predicted))
    submission.write()


def test_a_number_of_images_that_the_server_refuses_is_refused_first(unlabelled, tmp_path, monkeypatch):
    monkeypatch.setattr(Cityscapes, "submission", SubmissionRules(SAMPLE_ID, 1525, (64, 128)))
    with pytest.raises(DataError, match=r"cityscapes: 2 test images, but the server expects 1525"):
        packed(tmp_path / "out.zip", cityscapes(unlabelled))
    assert not (tmp_path / "out.zip").exists()


def test_a_missing_mask_another_size_or_name_leaves_the_old_file(unlabelled, tmp_path, monkeypatch):
    path, data = tmp_path / "out.zip", cityscapes(unlabelled)
    packed(path, data)
    before = path.read_bytes()
    packed(path, data)
    assert path.read_bytes() == before  # no date, no order of arrival inside
    with pytest.raises(DataError, match=r"1 masks missing, bielefeld_000000_000302\.png first"):
        packed(path, data, leave_out=1)
    with pytest.raises(DataError, match=r"a mask of \(7, 11\), but the server expects \(64, 128\)"):
        packed(path, data, predicted=np.zeros((7, 11), np.uint8))
    monkeypatch.setattr(Cityscapes, "submission", SubmissionRules(SAMPLE_ID, 2, (1024, 2048)))
    with pytest.raises(DataError, match="use the original images"):
        packed(path, data)
    image = next(unlabelled.rglob("*berlin*.png"))
    image.rename(image.with_name("frame1_leftImg8bit.png"))
    with pytest.raises(DataError, match=r"frame1_leftImg8bit\.png: the server knows no image of that name"):
        packed(path, cityscapes(unlabelled))
    assert path.read_bytes() == before


def test_ade20ks_masks_are_called_as_its_images_and_hold_1_to_150(shared, tmp_path):
    cfg = DataConfig(name="ade20k", root=shared / "data/ADEChallengeData2016", crop_hw=(7, 11))
    data = ADE20K(cfg, "val")
    packed(tmp_path / "val.zip", data)
    found = masks_in(tmp_path / "val.zip")
    assert list(found) == [f"ADE_val_0000000{i}.png" for i in (1, 2, 3)]
    for i, ids in enumerate(found.values()):
        np.testing.assert_array_equal(ids, np.asarray(Image.open(data.label_path(i))))  # 0 where it predicts void


def test_what_no_server_takes_is_refused_before_anything_runs(run, tmp_path):
    with pytest.raises(ConfigError, match=r"out\.tar: expected a file that ends in \.zip"):
        evaluated(run, submission=tmp_path / "out.tar")
    (tmp_path / "out.zip").mkdir()
    with pytest.raises(ConfigError, match="Is a directory"):
        evaluated(run, submission=tmp_path / "out.zip")
