"""Prediction with a trained network: an image in, its classes out, by the inference settings of the recipe."""

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
        """image: float32 `b 3 H W`, normalised. Returns logits `b k h w` at feature size."""
        with torch.inference_mode(), autocast(self.recipe.eval.precision, self.device):
            main: Tensor = self.model(image.contiguous(memory_format=self._layout)).main
        return main

    def scores(self, image: Pixels) -> ClassScores:
        """image: u8 `H W 3`, RGB. Returns the class scores at its size, computed only as they are asked for."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"image: {image.dtype} {image.shape}; expected uint8 `H W 3`, RGB")
        self.model.eval()
        cfg = self.recipe.eval
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(self.device).permute(2, 0, 1).unsqueeze(0)
        pixels = pixels.contiguous(memory_format=self._layout)  # while they are bytes: floats take four times as long
        hw = (image.shape[0], image.shape[1])
        settings = InferenceSettings(
            mode=cfg.mode,
            window_hw=cfg.window_hw,
            stride_hw=cfg.stride_hw,
            input_hws=input_hws(cfg, self.recipe.data.short_side_px, hw),
            flip=cfg.flip,
            batch_size=cfg.batch_size,
            align_corners=self.model.align_corners,
        )
        return infer(self.logits, self.model.input(pixels), hw, settings)

    def labels(self, image: Pixels) -> Tensor:
        """image: u8 `H W 3`, RGB. Returns train ids u8 `H W` on the network's device."""
        return self.scores(image).argmax()[0]

    def predict(self, image: Pixels) -> Pixels:
        """image: u8 `H W 3`, RGB, any size. Returns train ids u8 `H W`; `class_table` says what they mean."""
        return self.labels(image).cpu().numpy()


def predictor_of(run: Run) -> Predictor:
    """The run's network on this machine's device."""
    return Predictor(run.build_model(), run.recipe, run.class_table, device_of())


def load(run_or_file: str | Path) -> Predictor:
    """A trained network from a run's folder (its last checkpoint) or a checkpoint file.

    Raises CheckpointError when there is none or it is damaged.
    """
    return predictor_of(open_run(Path(run_or_file)))
