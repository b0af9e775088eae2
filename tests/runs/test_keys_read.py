"""Every key of every shipped recipe is read by somebody: a key that nothing reads would be a lie in the recipe."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segnl.core.config import Config, load_mapping, merge
from segnl.data.label_counts import class_pixels
from segnl.data.loader import BatchPlan, train_batches
from segnl.data.transforms import TrainTransform
from segnl.evaluation.evaluate import evaluate
from segnl.evaluation.predictor import Predictor
from segnl.runs.build import build_data, build_model
from segnl.runs.recipe import Recipe, compose, load_recipe
from segnl.training.trainer import Trainer

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RECIPES = sorted(path for path in CONFIGS.glob("*/*.yaml") if path.parent.name != "compare" and path.name[0] != "_")

# Read by the loop around a step (training/fit.py), where tests/training/test_fit.py shows what they do.
BY_THE_LOOP = {
    "train.max_steps",
    "train.epochs",
    "train.pictures",
    "train.save_every",
    "train.eval_every",
    "train.best_by",
    "train.patience",
    "train.extended",
    "train.keep_every",
    "train.deterministic",
    "train.features",
    "train.loggers",
    "data.worker_timeout_s",
    "data.cache",  # tests/data/test_cache.py
    "data.cache_limit_gb",
    "eval.metrics",
    "data.group",  # by a study: tests/data/test_groups.py
}

# Read while the recipe is validated: they choose the settings' class (core/components.py).
BY_COMPOSING = {"optim.name", "schedule.name", "loss.name"}

SMALL = {
    "model": {"backbone": {"width": 0.0625, "weights": None}, "head": {"channels": 8}},
    "data": {"crop_hw": [33, 41], "workers": 0},
    "train": {"batch_size": 2},
}


def write_pair(image: Path, label: Path, ids: list[int]) -> None:
    random = np.random.default_rng(0)
    for path in (image, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random.integers(0, 256, (49, 67, 3), dtype=np.uint8)).save(image)
    Image.fromarray(random.choice(ids, (49, 67)).astype(np.uint8)).save(label)


def official_layout(name: str, root: Path) -> None:
    """One pair of files for each split, as the data set's own distribution lays them out."""
    if name in ("cityscapes", "streets"):
        for split in ("train", "val"):
            sample_id = f"{split}/ulm/ulm_000000_000019"
            write_pair(
                root / "leftImg8bit" / f"{sample_id}_leftImg8bit.png",
                root / "gtFine" / f"{sample_id}_gtFine_labelIds.png",
                [0, 7, 8, 11, 33],
            )
    elif name == "ade20k":
        for split, sample_id in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
            write_pair(
                root / f"images/{split}/{sample_id}.jpg", root / f"annotations/{split}/{sample_id}.png", [0, 1, 4, 150]
            )
    else:
        for split in ("train", "val"):
            write_pair(root / f"images/{split}/a.png", root / f"labels/{split}/a.png", [0, 1, 255])
        (root / "classes.tsv").write_text("index\tname\tr\tg\tb\n0\troad\t1\t2\t3\n1\tsky\t4\t5\t6\n")
    if name == "streets":
        from segnl.streets.files import generate

        generate(root / "made", num_train=1, num_val=1, hw=(64, 128))


def small(path: Path, root: Path) -> Recipe:
    """The recipe at a size for a test: its keys as shipped, fewer channels, small crops, a root of its own."""
    mapping = load_mapping(path)
    official_layout(mapping["data"]["name"], root)
    made = root / "made" if mapping["data"]["name"] == "streets" else root
    mapping = merge(merge(mapping, SMALL), {"data": {"root": str(made)}})
    if mapping["model"]["backbone"]["name"] == "resnet":
        mapping["model"]["backbone"].setdefault("stem", {})["channels"] = 8
    mapping["schedule"].pop("warmup_steps", None)
    if "short_side_px" in mapping["data"]:
        mapping["data"]["short_side_px"] = 48
    if mapping["model"]["aux"] is not None:
        mapping["model"]["aux"]["channels"] = 8
    return compose(mapping, file=str(path))


def step_and_score(recipe: Recipe) -> None:
    train = build_data(recipe, "train")
    model = build_model(recipe, train.table.num_classes, is_new=True)
    pixels = class_pixels(train) if recipe.loss.needs_class_pixels else None
    trainer = Trainer(recipe, model, torch.device("cpu"), class_pixels=pixels)
    transform = TrainTransform(recipe.data, recipe.model.input.padding_rgb, recipe.train.seed)
    plan = BatchPlan(recipe.train.seed, recipe.train.batch_size, first_step=0, max_steps=1)
    batches = train_batches(train, transform, plan, workers=recipe.data.workers, timeout_s=900.0)
    assert trainer.step(next(batches)).loss > 0
    val = build_data(recipe, "val")
    confusion = evaluate(Predictor(trainer.model, recipe, val.table, trainer.device), val).confusion
    assert 0 <= confusion.miou() <= 1


class Recorder:
    """Notes which fields of which settings are read, by identity of the settings."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads: set[tuple[int, str]] = set()
        plain = Config.__getattribute__

        def noting(settings: Config, name: str) -> Any:
            self.reads.add((id(settings), name))
            return plain(settings, name)

        monkeypatch.setattr(Config, "__getattribute__", noting)

    def unread(self, settings: Config, at: str = "") -> set[str]:
        """Dotted keys below `settings` that nobody read; a section is judged by its own keys."""
        found: set[str] = set()
        fields = object.__getattribute__(settings, "__dict__")
        for name, value in fields.items():
            dotted = f"{at}.{name}" if at else name
            if isinstance(value, Config):
                found |= self.unread(value, dotted)
            elif (id(settings), name) not in self.reads:
                found.add(dotted)
        return found


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_recipe_builds_steps_and_scores_and_every_key_is_read(path, tmp_path, monkeypatch):
    recipe = small(path, tmp_path)
    recorder = Recorder(monkeypatch)
    step_and_score(recipe)
    unread = recorder.unread(recipe) - BY_THE_LOOP - BY_COMPOSING
    assert sorted(key for key in unread if not is_conditional(key, recipe)) == []


def is_conditional(key: str, recipe: Recipe) -> bool:
    """Keys that only matter under another one: read when that is set, which other recipes show."""
    if key == "model.backbone.depth":
        return recipe.model.backbone.depth is None  # blocks and block stand for it, which composing has checked
    if key == "model.backbone.stride_conv":
        return recipe.model.backbone.block_kind == "basic"  # which has no choice
    if key == "model.input.widening":
        return recipe.model.input.channels == 3  # as in the file of weights
    if key == "optim.gamma_lr_mult":
        return recipe.model.head.name not in ("rcca", "non_local")
    if key == "model.head.last_channels":
        return recipe.model.head.name != "aspp" and not recipe.model.head.concat_input
    if key.startswith("model.backbone.non_local_block."):
        return recipe.model.backbone.non_local is None
    return key in ("eval.window_hw", "eval.stride_hw", "eval.batch_size") and recipe.eval.mode == "whole"


def test_a_planted_key_that_nothing_reads_is_found(tiny_config, monkeypatch):
    from segnl.models.heads.rcca import RCCAConfig, RCCAHead

    class Planted(RCCAConfig):
        idle: int = 3

    monkeypatch.setattr(RCCAHead, "Config", Planted)
    recipe = load_recipe(tiny_config)
    recorder = Recorder(monkeypatch)
    step_and_score(recipe)
    assert "model.head.idle" in recorder.unread(recipe)
