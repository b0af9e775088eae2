"""Prediction with a trained network: from an image to its classes, by the inference settings of the recipe."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from torch import Tensor

from segnl.core.arrays import Pixels
from segnl.core.errors import NonFiniteError
from segnl.core.precision import autocast
from segnl.data.find import DATASETS
from segnl.data.frames import frames_beside, read_frames
from segnl.data.reading import DEFAULT_FORMAT, ImageFormat, read_image, rgb_pixels
from segnl.evaluation.inference import ClassScores, infer
from segnl.evaluation.kept_maps import KeptMaps
from segnl.evaluation.presets import input_hws
from segnl.labels.table import ClassTable
from segnl.models.segmenter import Segmenter
from segnl.runs.build import device_of
from segnl.runs.recipe import Recipe
from segnl.runs.run import Run, open_run

Image = Pixels | Tensor | PIL.Image.Image | str | Path
"""An RGB image: u8 array `H W 3`, u8 tensor `3 H W`, PIL image, or file."""


class Predictor:
    """A network in evaluation mode with the inference settings of its recipe's `eval` section."""

    def __init__(self, model: Segmenter, recipe: Recipe, class_table: ClassTable, device: torch.device) -> None:
        self.recipe, self.class_table, self.device = recipe, class_table, device
        self.model = model.to(device)
        self.image_format = recipe.data.image_format(recipe.model.input.channels)
        self.kept_maps: KeptMaps | None = None
        """Where the maps of a frozen backbone are taken from; None: the network computes them."""
        self._layout = torch.channels_last if recipe.train.channels_last else torch.contiguous_format

    def logits(self, image: Tensor) -> Tensor:
        """Returns logits `b k h w` at feature size. image: float32 `b 3 H W`, normalised.

        Raises NonFiniteError for NaN and infinity, of which any class would be the largest.
        """
        image = image.contiguous(memory_format=self._layout)
        with torch.inference_mode(), autocast(self.recipe.eval.precision, self.device):
            stages = None
            if self.kept_maps is not None:
                stages = [stage.contiguous(memory_format=self._layout) for stage in self.kept_maps.stages(image)]
            main: Tensor = self.model(image, stages).main
        if not bool((main < torch.inf).all()):
            raise NonFiniteError(
                "the network's outputs are NaN or infinite: its weights or model.input are wrong, or the numbers "
                f"are too large for eval.precision {self.recipe.eval.precision}"
            )
        return main

    def scores(self, image: Pixels) -> ClassScores:
        """Returns the class scores at the image's size, not computed yet.

        image: u8 `H W 3`, RGB, or images of one size, `b H W 3`. With data.frames t > 1, `H W t*3`: the frame to label,
        then the others.
        """
        channels = self.model.image_channels
        if image.ndim not in (3, 4) or image.shape[-1] != channels or image.dtype != np.uint8:
            expected = f"uint8 `H W {channels}`{', RGB' if channels == 3 else ''} (a tensor: `{channels} H W`)"
            raise ValueError(f"image: {image.dtype} {image.shape}; expected {expected}")
        self.model.eval()
        cfg = self.recipe.eval
        images = image if image.ndim == 4 else image[None]
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.device).permute(0, 3, 1, 2)
        # Before the conversion to float: bytes copy four times as fast.
        pixels = pixels.contiguous(memory_format=self._layout)
        hw = (images.shape[1], images.shape[2])
        sizes = input_hws(cfg, self.recipe.data.short_side_px, hw)
        align_corners = self.model.align_corners
        return infer(self.logits, self.model.input(pixels), hw, cfg, input_hws=sizes, align_corners=align_corners)

    def read(self, path: Path) -> Pixels:
        """Reads an image file as the network sees it: with its neighbours in the folder where data.frames is above 1.

        Raises DataError for a file that cannot be read.
        """
        data = self.recipe.data
        if data.frames == 1:
            return read_image(path, self.image_format)
        kind = DATASETS.find(data.name)
        frames = frames_beside(
            path,
            data.group or kind.group,
            data.frames,
            lists=data.root_folder,
            is_image=functools.partial(kind.is_image, data),
        )
        return read_frames(frames, self.image_format)

    def pixels_of(self, image: Image) -> Pixels:
        """Returns the pixels of an image as the network sees it. Raises DataError as `read` and `as_pixels`."""
        return self.read(Path(image)) if isinstance(image, str | Path) else as_pixels(image, self.image_format)

    def labels(self, image: Pixels) -> Tensor:
        """Returns train ids u8 `H W` on the network's device. image: u8 `H W 3`, RGB."""
        return self.scores(image).argmax()[0]

    @overload
    def predict(self, image: Image, *, probabilities: bool = False) -> npt.NDArray[Any]: ...
    @overload
    def predict(self, image: list[Any] | tuple[Any, ...], *, probabilities: bool = False) -> list[npt.NDArray[Any]]: ...

    def predict(self, image: Any, *, probabilities: bool = False) -> Any:
        """Predicts an image of any size, or a list of images, of which neighbours of one size are a batch.

        image: RGB, an array u8 `H W 3`, a tensor u8 `3 H W`, a PIL image or a file. Returns train ids u8 `H W`, the
        indices of `class_table`, or with `probabilities` f32 `k H W`; a list of them for a list.

        Raises DataError for a file that cannot be read, ValueError for an array or tensor of another shape or type.
        """
        if not isinstance(image, list | tuple):
            return self.predict([image], probabilities=probabilities)[0]
        # A sliding window already passes the network in batches.
        batch_size = 1 if self.recipe.eval.mode == "slide" else self.recipe.eval.batch_size
        predictions: list[npt.NDArray[Any]] = []
        for batch in _batches(map(self.pixels_of, image), batch_size):
            scores = self.scores(np.stack(batch))
            predictions += list((scores.probabilities() if probabilities else scores.argmax()).cpu().numpy())
        return predictions


def as_pixels(image: Image, image_format: ImageFormat = DEFAULT_FORMAT) -> Pixels:
    """Returns the pixels `H W 3` of an image. Raises DataError for a file or PIL image that cannot be read as RGB."""
    if isinstance(image, str | Path):
        return read_image(Path(image), image_format)
    if isinstance(image, PIL.Image.Image):
        return rgb_pixels(image, Path(getattr(image, "filename", "") or "image"), image_format)
    return image.movedim(0, -1).cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)


def _batches(images: Iterable[Pixels], batch_size: int) -> Iterator[list[Pixels]]:
    """Groups neighbours of one size."""
    batch: list[Pixels] = []
    for image in images:
        if batch and (len(batch) == batch_size or image.shape != batch[0].shape):
            yield batch
            batch = []
        batch.append(image)
    if batch:
        yield batch


def predictor_of(run: Run) -> Predictor:
    """Returns the predictor of a run, its network on this machine's device."""
    return Predictor(run.build_model(), run.recipe, run.class_table, device_of())


def load(run_or_file: str | Path, *, trust_modules: Sequence[str] = ()) -> Predictor:
    """Loads a trained network from a run's folder (its last checkpoint) or a checkpoint file.

    trust_modules: Python modules, or packages of them, that its recipe may import (docs/security.md). A module that
    is imported already needs no mention.

    Raises CheckpointError for a missing or damaged checkpoint, and for one whose recipe names another module.
    """
    return predictor_of(open_run(Path(run_or_file), trust_modules=trust_modules))
