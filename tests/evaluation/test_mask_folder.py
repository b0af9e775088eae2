"""Masks of a killed evaluation: the same evaluation resumes from them, any other refuses them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnl.core.errors import ConfigError, MachineError
from segnl.core.png import png
from segnl.data.base import SegmentationData
from segnl.data.sample import Sample
from segnl.evaluation.evaluate_run import EvaluationRequest, evaluate_run
from segnl.evaluation.mask_folder import MANIFEST
from segnl.evaluation.predict import predict_files
from segnl.evaluation.predictor import Predictor, load
from segnl.runs.recipe import load_recipe
from segnl.runs.run import open_run
from segnl.training.fit import fit

ROOT = Path(__file__).resolve().parents[2]

# Evaluates, and is killed at the third image, once the first one's masks are there.
KILLED = """
import os, signal, sys, time
from pathlib import Path
from segnl.cli.main import main
from segnl.evaluation.predictor import Predictor

run, masks = sys.argv[1:]
plain, calls = Predictor.labels, []

def labels(self, image):
    calls.append(1)
    if len(calls) == 3:
        while not Path(masks, "error", "frame0.png").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, image)

Predictor.labels = labels
main(["eval", "--checkpoint", run, "--masks", masks, "--strata"])
"""


@pytest.fixture
def run(tiny_config, tmp_path):
    fit(load_recipe(tiny_config), tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """One entry for each image that the network was asked for."""
    calls: list[int] = []
    plain = Predictor.labels

    def counting(self, image):
        calls.append(1)
        return plain(self, image)

    monkeypatch.setattr(Predictor, "labels", counting)
    return calls


def scored(run: Path, masks: Path, *overrides: str, split: str = "val"):
    """Without the results in the run's own cache, which would make the folder's masks needless."""
    shutil.rmtree(run / "cache", ignore_errors=True)
    request = EvaluationRequest(split, masks=masks, with_strata=True)
    return evaluate_run(open_run(run, overrides), request).metrics


def test_a_killed_evaluation_leaves_no_metrics_and_the_next_one_resumes(run, tmp_path, asked):
    out, masks = run / "eval" / "val-whole", tmp_path / "masks"
    whole = scored(run, tmp_path / "uninterrupted")
    per_image, asked_for_all = (out / "per_image.npz").read_bytes(), len(asked)
    shutil.rmtree(run / "cache")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(run), str(masks)], cwd=ROOT, capture_output=True)
    assert killed.returncode == -9, killed.stderr.decode()
    assert not list(out.iterdir())  # the earlier evaluation's results would pass for this one's
    assert 1 <= len(list((masks / "error").glob("[!.]*.png"))) < 3
    asked.clear()
    assert scored(run, masks) == whole
    assert (out / "per_image.npz").read_bytes() == per_image
    assert 0 < len(asked) < asked_for_all == 3
    for path in (tmp_path / "uninterrupted").rglob("*.png"):
        assert (masks / path.relative_to(tmp_path / "uninterrupted")).read_bytes() == path.read_bytes()
    assert [path.name for path in masks.rglob(".*")] == [".lock"]  # no temporary files of the killed one


def test_a_second_evaluation_into_the_same_folder_is_refused_while_the_first_runs(run, tmp_path):
    code = "import sys; from pathlib import Path; from segnl.core.files import run_lock\n"
    code += "with run_lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    (tmp_path / "masks").mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "masks")], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=f"in use by process {holder.pid}; wait for it or give another --masks"):
            scored(run, tmp_path / "masks")
        assert [path.name for path in (tmp_path / "masks").iterdir()] == [".lock"]
    finally:
        holder.communicate()


def test_with_all_masks_the_network_does_not_run_and_every_image_is_counted(run, tmp_path, asked):
    first = scored(run, tmp_path / "masks")
    asked.clear()
    assert scored(run, tmp_path / "masks", "eval.batch_size=1")["miou"] == first["miou"]
    assert asked == []


@pytest.mark.parametrize("content", [b"not a picture", b""])
def test_a_damaged_mask_is_made_again(run, tmp_path, asked, content):
    first = scored(run, tmp_path / "masks")
    path = tmp_path / "masks" / "ids" / "frame1.png"
    path.write_bytes(content)
    asked.clear()
    assert scored(run, tmp_path / "masks") == first
    assert len(asked) == 1
    assert np.asarray(Image.open(path)).shape == (37, 53)


@pytest.mark.parametrize("is_killed", [True, False])
def test_a_mask_that_somebody_has_changed_counts_as_no_prediction_and_stays(run, tmp_path, is_killed):
    masks = tmp_path / "masks"
    scored(run, masks)
    path = masks / "ids" / "frame1.png"
    if is_killed:
        (masks / "overlay" / "frame1.png").unlink()
    ids = np.array(Image.open(path))
    corrected = np.where(ids == ids.min(), ids.max(), ids.min())
    contents = [(masks / "ids" / "frame0.png").read_bytes()]
    contents += [png(own) for own in (corrected, ids + 99, ids[:5, :5], np.zeros((*ids.shape, 3), np.uint8))]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"ids/frame1\.png: is not as this evaluation wrote it"):
            scored(run, masks)
        assert path.read_bytes() == content


def test_masks_of_an_image_that_changed_meanwhile_do_not_count(run, tmp_path, monkeypatch):
    def inverted(sample):
        return Sample(255 - sample.image, sample.label, sample.id)

    read = SegmentationData.read
    monkeypatch.setattr(SegmentationData, "read", lambda data, i: inverted(read(data, i)))
    scored(run, tmp_path / "masks")
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"ids/frame0\.png: is not as this evaluation wrote it"):
        scored(run, tmp_path / "masks")


def test_masks_of_other_settings_or_another_checkpoint_are_refused_and_stay(run, tmp_path, tiny_config):
    masks = tmp_path / "masks"
    scored(run, masks)
    before = {path: path.read_bytes() for path in masks.rglob("*.png")}
    with pytest.raises(ConfigError, match=r"differs in eval\.flip; give another --masks folder"):
        scored(run, masks, "eval.flip=true")
    fit(load_recipe(tiny_config, ["train.seed=1"]), tmp_path / "other")
    with pytest.raises(ConfigError, match=r"differs in checkpoint\.checksum"):
        scored(tmp_path / "other", masks)
    with pytest.raises(ConfigError, match=r"differs in data\.content, data\.split"):
        scored(run, masks, split="train")
    with pytest.raises(ConfigError, match=r"holds the masks of an evaluation \(masks\.json\)"):
        predict_files(load(run), [tmp_path / "tiny" / "images" / "val"], masks)
    assert {path: path.read_bytes() for path in masks.rglob("*.png")} == before


def test_masks_without_a_valid_manifest_are_refused(run, tmp_path):
    masks = tmp_path / "masks"
    scored(run, masks)
    mapping = json.loads((masks / MANIFEST).read_text())
    mapping["key"]["eval"]["flip"] = True
    (masks / MANIFEST).write_text(json.dumps(mapping))
    with pytest.raises(ConfigError, match=r"masks\.json: damaged"):
        scored(run, masks)
    (masks / MANIFEST).unlink()
    with pytest.raises(ConfigError, match=r"holds masks such as ids/frame0\.png, but no masks\.json"):
        scored(run, masks)


def test_a_manifest_of_somebody_else_is_not_replaced(run, tmp_path):
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / MANIFEST).write_text("precious")
    with pytest.raises(ConfigError, match="damaged or not written by segnl eval"):
        scored(run, tmp_path / "masks")
    assert (tmp_path / "masks" / MANIFEST).read_text() == "precious"


def test_a_mask_that_cannot_be_written_ends_the_evaluation_in_one_line(run, tmp_path):
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "overlay").write_text("a file where the folder should be")
    with pytest.raises(MachineError, match=r"overlay/frame0\.png: cannot be written"):
        scored(run, tmp_path / "masks")
    assert not (run / "eval" / "val-whole" / "metrics.json").exists()
