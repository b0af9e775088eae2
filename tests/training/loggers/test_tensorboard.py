import sys

import numpy as np
import pytest

from segnl.labels.table import ClassTable
from segnl.runs.recipe import load_recipe
from segnl.training.fit import fit
from segnl.training.loggers.base import strip, strip_indices

TABLE = ClassTable(["road", "sky"], [[128, 64, 128], [70, 130, 180]])


def test_a_training_leaves_its_numbers_and_pictures(tiny_config, tmp_path):
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = ["train.loggers=[tensorboard]", "train.max_steps=4", "train.eval_every=2", "train.save_every=2"]
    run = tmp_path / "run"
    fit(load_recipe(tiny_config, options), run)
    assert list(run.glob("events.*"))
    events = EventAccumulator(str(run), size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "train/loss_auxiliary", "train/lr", "val/miou", "val_iou/road"} <= set(tags["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert [event.step for event in events.Scalars("val/miou")] == [2, 4]
    assert tags["images"] == [f"image_truth_prediction/frame{i}" for i in range(3)]
    shown = events.Images("image_truth_prediction/frame0")
    assert [image.step for image in shown] == [2, 4]
    assert (shown[0].width, shown[0].height) == (3 * 53, 37)


def test_by_default_nothing_is_written_and_nothing_imported(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    fit(load_recipe(tiny_config, ["train.max_steps=1"]), tmp_path / "run")
    assert not list((tmp_path / "run").glob("events.*"))


def test_the_strip_shows_the_same_images_spread_over_the_split():
    assert strip_indices(1) == [0]
    assert strip_indices(3) == [0, 1, 2]
    assert strip_indices(500) == [0, 166, 333, 499]


def test_a_strip_keeps_the_colours_of_labels_when_it_shrinks():
    label = np.zeros((20, 700), np.uint8)
    label[:, 350:] = 1
    panels = strip(np.full((20, 700, 3), 9, np.uint8), label, np.full_like(label, 255), TABLE)
    assert panels.shape == (9, 3 * 320, 3)
    assert {tuple(colour) for colour in panels.reshape(-1, 3).tolist()} == {
        (9, 9, 9),
        (128, 64, 128),
        (70, 130, 180),
        (0, 0, 0),  # void
    }
