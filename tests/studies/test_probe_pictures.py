"""A trained head draws the picture that its arithmetic prescribes, and a broken one the picture that it must."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from segnl.core.arrays import Mask
from segnl.core.config import merge
from segnl.data.datasets.probe import Probe
from segnl.data.loader import BatchPlan, train_batches
from segnl.data.transforms import TrainTransform
from segnl.models.ablation import Ablation, ablated
from segnl.models.segmenter import SegmentationModel, Segmenter
from segnl.probe.scene import CHANCE
from segnl.runs.build import build_model
from segnl.runs.recipe import Recipe, compose
from segnl.studies.probe import STUDY
from segnl.studies.probe_results import Reach, TargetCounts, control_recipe, probe_config, reach_of, regions_of
from segnl.studies.study import load_study
from segnl.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"data": {"crop_hw": [36, 44], "num_val": 200}, "train": {"max_steps": 260}}


@pytest.fixture(scope="module")
def recipe_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Recipe]:
    study = load_study(STUDY, runs=tmp_path_factory.mktemp("runs"))
    return lambda head: compose(merge(study.runs_of(head)[0].recipe.to_dict(), SMALL), file="a test")


def trained(recipe: Recipe) -> Segmenter:
    data = Probe(probe_config(recipe), "train")
    trainer = Trainer(recipe, build_model(recipe, data.table.num_classes, is_new=True), torch.device("cpu"))
    transform = TrainTransform(recipe.data, recipe.model.input.padding_rgb, recipe.train.seed)
    plan = BatchPlan(recipe.train.seed, recipe.train.batch_size, 0, recipe.train.num_steps)
    for batch in train_batches(data, transform, plan, workers=0, timeout_s=9.0):
        trainer.step(batch)
    return trainer.model.eval()


@pytest.fixture(scope="module")
def one_hop(recipe_of: Callable[[str], Recipe]) -> Segmenter:
    """RCCA with R = 1, which takes a few seconds to train."""
    return trained(recipe_of("rcca_r1"))


def scored(model: Segmenter, recipe: Recipe, ablation: Ablation | None = None) -> TargetCounts:
    data = Probe(probe_config(recipe), "val")
    scenes, px = [data.scene(i) for i in range(len(data))], data.cfg.cell_px
    images = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2)
    with torch.no_grad(), ablated(model, ablation) if ablation else nullcontext():
        masks = torch.cat([SegmentationModel(model)(part).argmax(1) for part in images.split(50)]).numpy()
    correct = [
        [(mask == scene.label)[y * px : (y + 1) * px, x * px : (x + 1) * px].sum() for y, x in scene.targets]
        for scene, mask in zip(scenes, masks, strict=True)
    ]
    return TargetCounts(np.array(correct), px * px, np.stack([scene.offsets for scene in scenes]))


def is_at_chance(counts: TargetCounts, region: Mask) -> bool:
    """Within three standard errors; the targets of an image have one class, so the images are the sample."""
    has_target = region.any(axis=1)
    by_image = (
        np.where(region, counts.correct, 0).sum(axis=1)[has_target] / counts.total / region.sum(axis=1)[has_target]
    )
    return abs(by_image.mean() - CHANCE) < 3 * by_image.std(ddof=1) / len(by_image) ** 0.5


def regions(counts: TargetCounts, reach: Reach) -> dict[str, Mask]:
    return regions_of(counts.offsets, reach, counts.correct.shape)


def test_fcn_is_at_chance_beyond_its_receptive_field(recipe_of: Callable[[str], Recipe]) -> None:
    recipe = compose(merge(recipe_of("fcn").to_dict(), {"train": {"max_steps": 100}}), file="a test")
    counts = scored(trained(recipe), recipe)
    masks = regions(counts, reach_of(recipe))
    near = counts.accuracy(masks["near"])
    assert near is not None
    assert near > CHANCE + 0.1
    assert is_at_chance(counts, ~masks["near"])
    assert is_at_chance(counts, masks["cross"])
    assert is_at_chance(counts, masks["off"])


def test_one_hop_of_criss_cross_draws_a_cross(recipe_of: Callable[[str], Recipe], one_hop: Segmenter) -> None:
    recipe = recipe_of("rcca_r1")
    counts = scored(one_hop, recipe)
    masks = regions(counts, reach_of(control_recipe(recipe)))
    cross = counts.accuracy(masks["cross"])
    assert cross is not None
    assert cross >= 0.95
    assert is_at_chance(counts, masks["off"])


def test_without_its_attention_it_draws_the_picture_of_fcn(
    recipe_of: Callable[[str], Recipe], one_hop: Segmenter
) -> None:
    recipe = recipe_of("rcca_r1")
    counts = scored(one_hop, recipe, Ablation("gamma0"))
    masks = regions(counts, reach_of(control_recipe(recipe)))
    assert is_at_chance(counts, masks["cross"])
    assert is_at_chance(counts, masks["off"])


def test_a_window_of_radius_two_cuts_the_cross_off(recipe_of: Callable[[str], Recipe], one_hop: Segmenter) -> None:
    recipe = recipe_of("rcca_r1")
    counts = scored(one_hop, recipe, Ablation("window", radius=2))
    reach = reach_of(control_recipe(recipe))
    masks = regions(counts, reach)
    assert counts.offsets is not None
    distance = np.abs(counts.offsets).max(axis=-1)
    inside = counts.accuracy((distance <= 2) & (np.abs(counts.offsets).min(axis=-1) == 0))
    assert inside is not None
    assert inside > 0.8
    # Two positions away a position still holds what the convolutions have brought it.
    assert is_at_chance(counts, masks["cross"] & (distance > 2 + max(reach.rows, reach.columns)))
    assert is_at_chance(counts, masks["off"])


def test_the_kept_result_has_the_cross_of_one_hop_and_the_whole_of_two() -> None:
    kept = json.loads((ROOT / "benchmarks" / "results" / "probe" / "reach.json").read_text())
    heads = kept["heads"]
    assert heads["rcca_r1"]["accuracy"]["cross"] >= 0.95
    assert heads["rcca_r1"]["interval"]["off"][0] < kept["chance"] + 0.05
    assert heads["rcca"]["accuracy"]["off"] >= 0.95
    assert heads["non_local"]["accuracy"]["off"] >= 0.95
    assert min(heads[name]["seeds"] for name in ("fcn", "aspp", "rcca_r1", "rcca", "non_local")) >= 3
