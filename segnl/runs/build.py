"""From a recipe to the objects it names: data, model, device."""

import os

import torch

from segnl.core.errors import ConfigError
from segnl.core.limits import require_workers
from segnl.data.base import SegmentationData
from segnl.data.find import DATASETS
from segnl.models.input import InputConfig
from segnl.models.segmenter import Segmenter, new_segmenter
from segnl.runs.recipe import Recipe


def build_data(recipe: Recipe, split: str, *, needs_labels: bool = True) -> SegmentationData:
    """The recipe's data set; raises DataError when the files are not there or the split is unknown,
    ConfigError when data.workers is more than this machine can carry.

    needs_labels: False accepts a split that has none, such as a benchmark's test images.
    """
    require_workers(recipe.data.workers)
    return DATASETS.find(recipe.data.name)(recipe.data, split, needs_labels=needs_labels)


def build_model(recipe: Recipe, num_classes: int, *, is_new: bool) -> Segmenter:
    """The recipe's network: at the start of a training with the initial weights of train.seed and the backbone's
    pretrained ones where the recipe names some; for a checkpoint's weights, which bring all of them, with neither.

    Raises ConfigError where a part refuses its settings, such as a kernel that is even.
    """
    try:
        if is_new:
            return new_segmenter(recipe.model, num_classes, recipe.train.seed)
        return Segmenter(recipe.model, num_classes)
    except ValueError as err:
        raise ConfigError(f"model: {err}") from err


def device_of() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_deterministic() -> None:
    """From here on an operation that cannot repeat itself to the bit is an error, not a surprise."""
    # Without it CUDA's matrix products raise in this mode; read when the first of them starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def padding_rgb(cfg: InputConfig) -> tuple[int, int, int]:
    """The pixel that normalises to nearly zero: what stands where a crop reaches beyond its image."""
    mean = cfg.mean if cfg.order == "rgb" else cfg.mean[::-1]
    return round(mean[0]), round(mean[1]), round(mean[2])
