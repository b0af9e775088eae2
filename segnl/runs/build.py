"""Builds the objects that a recipe names: data set, model, device."""

import os
from dataclasses import asdict
from pathlib import Path

import torch

from segnl.core.errors import ConfigError
from segnl.data.base import SegmentationData
from segnl.data.find import DATASETS
from segnl.models.segmenter import Segmenter, new_segmenter
from segnl.runs.init import load_init
from segnl.runs.recipe import Recipe


def build_data(recipe: Recipe, split: str, *, needs_labels: bool = True) -> SegmentationData:
    """Returns the recipe's data set.

    needs_labels: False accepts a split without labels, such as a benchmark's test images.

    Raises DataError when the files are not there or the split is unknown.
    """
    channels = recipe.model.input.channels
    bands = {} if channels == 3 else {"num_bands": channels}  # a data set of one's own may have RGB images only
    return DATASETS.find(recipe.data.name)(recipe.data, split, needs_labels=needs_labels, **bands)


def build_model(recipe: Recipe, num_classes: int, *, is_new: bool) -> Segmenter:
    """Returns the recipe's network.

    is_new: draws the initial weights from train.seed, then loads those that `init` or model.backbone.weights names.
    False leaves them undefined, for a checkpoint's weights.

    Raises ConfigError where a module refuses its settings, such as an even kernel; CheckpointError as `load_init` does.
    """
    try:
        if not is_new:
            return Segmenter(recipe.model, num_classes, num_frames=recipe.data.frames)
        model = new_segmenter(
            recipe.model,
            num_classes,
            recipe.train.seed,
            load_backbone=recipe.init is None,
            num_frames=recipe.data.frames,
        )
    except ValueError as err:
        raise ConfigError(f"model: {err}") from err
    if recipe.init is not None:
        model.init_report = asdict(load_init(model, recipe, Path(recipe.init)))
    return model


def device_of() -> torch.device:
    """Returns CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_deterministic() -> None:
    """Makes torch raise for every operation that cannot be repeated to the bit, in the whole process."""
    # Without it CUDA's matrix products raise in this mode; read when the first of them starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
