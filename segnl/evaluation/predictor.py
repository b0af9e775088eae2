"""Prediction with a trained network: from an image to its classes, by the inference settings of the recipe."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segnl.core.arrays import Pixels
from segnl.core.precision import autocast
from segnl.evaluation.inference import ClassScores, InferenceSettings, infer
from segnl.evaluation.presets import input_hws
from segnl.labels.table import ClassTable
from segnl.models.segmenter import Segmenter
from segnl.runs.build import device_of
from segnl.runs.recipe import Recipe
from segnl.runs.run import Run, open_run


class Predictor:
    """A network in evaluation mode with the inference settings of its recipe's `eval` section."""

    def __init__(self, model: Segmenter, recipe: Recipe, class_table: ClassTable, device: torch.device) -> None:
        self.recipe, self.class_table, self.device = recipe, class_table, device
        self.model = model.to(device)
        self._layout = torch.channels_last if recipe.train.channels_last else torch.contiguous_format

    def logits(self, image: Tensor) -> Tensor:
        """Returns logits `b k h w` at feature size. image: float32 `b 3 H W`, normalised."""
        with torch.inference_mode(), autocast(self.recipe.eval.precision, self.device):
            main: Tensor = self.model(image.contiguous(memory_format=self._layout)).main
        return main

    def scores(self, image: Pixels) -> ClassScores:
        """Returns the class scores at the image's size, not computed yet. image: u8 `H W 3`, RGB."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"image: {image.dtype} {image.shape}; expected uint8 `H W 3`, RGB")
        self.model.eval()
        cfg = self.recipe.eval
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(self.device).permute(2, 0, 1).unsqueeze(0)
        pixels = pixels.contiguous(
            memory_format=self._layout
        )  # before the conversion to float: bytes copy four times as fast
        hw = (image.shape[0], image.shape[1])
        slides = cfg.mode == "slide"
        settings = InferenceSettings(
            window_hw=cfg.window_hw if slides else None,
            stride_hw=cfg.stride_hw if slides else None,
            input_hws=input_hws(cfg, self.recipe.data.short_side_px, hw),
            flip=cfg.flip,
            batch_size=cfg.batch_size,
            align_corners=self.model.align_corners,
        )
        return infer(self.logits, self.model.input(pixels), hw, settings)

    def labels(self, image: Pixels) -> Tensor:
        """Returns train ids u8 `H W` on the network's device. image: u8 `H W 3`, RGB."""
        return self.scores(image).argmax()[0]

    def predict(self, image: Pixels) -> Pixels:
        """Returns train ids u8 `H W`, the indices of `class_table`. image: u8 `H W 3`, RGB, any size."""
        return self.labels(image).cpu().numpy()


def predictor_of(run: Run) -> Predictor:
    """Returns the predictor of a run, its network on this machine's device."""
    return Predictor(run.build_model(), run.recipe, run.class_table, device_of())


def load(run_or_file: str | Path) -> Predictor:
    """Loads a trained network from a run's folder (its last checkpoint) or a checkpoint file.

    Raises CheckpointError for a missing or damaged checkpoint.
    """
    return predictor_of(open_run(Path(run_or_file)))
