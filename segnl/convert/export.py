"""`segnl export`: a trained network for other programs, as ONNX, or its weights alone as safetensors.

The ONNX graph takes what an image reader gives, u8 RGB `b H W 3` of any H and W, and normalises inside, so that no
convention is left to a reader of the metadata; out come `labels`, u8 `b H W`, and `logits`, f32 `b k h w` at feature
size. It is the network at the size of its input: the recipe's windows, scales and flipped views are the caller's.
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segnl.core.arrays import Pixels
from segnl.core.config import JSONDict
from segnl.core.environment import git_state, versions
from segnl.core.errors import ConfigError, MachineError
from segnl.core.files import ensure_writable, write_atomic
from segnl.evaluation.predictor import predictor_of
from segnl.models.segmenter import Segmenter
from segnl.ops.resize import resize
from segnl.runs.checkpoint import SUFFIX, Checkpoint, open_checkpoint, save_checkpoint
from segnl.runs.recipe import Recipe, compose

OPSET = 18
CHECK_HWS = ((97, 131), (152, 91))
"""Sizes at which the graph is compared with the network: odd and even, wide and tall, none a multiple of the stride."""
TOLERANCE = 1e-4
"""Of the logits, relative to the largest: two float32 implementations of the same sums."""
PIP = "./run.sh extra export (onnx, onnxscript, onnxruntime)"


class ExportWrapper(nn.Module):
    """The network with its input convention and its upsampling inside."""

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image: u8 `b H W 3`, RGB. Returns labels u8 `b H W` and logits f32 `b k h w`."""
        logits: Tensor = self.model(self.model.input(image.permute(0, 3, 1, 2))).main
        hw = (image.shape[1], image.shape[2])
        return resize(logits, hw, align_corners=self.model.align_corners).argmax(dim=1).to(torch.uint8), logits


@dataclass(frozen=True)
class Agreement:
    """How far onnxruntime's answer is from ours at one size."""

    hw: tuple[int, int]
    error: float
    """Of the logits, relative to the largest."""
    differing: float
    """Share of pixels with another label."""

    def __str__(self) -> str:
        size = "x".join(map(str, self.hw))
        return (
            f"checked at {size}: logits within {self.error:.1e} of the largest; {self.differing:.1e} of labels differ"
        )


def export(run_or_file: Path, out: Path, *, half: bool = False) -> list[str]:
    """Writes `out`, .onnx or .safetensors; returns the report, one fact a line. half: float16 weights (safetensors).

    Raises ConfigError for another ending, CheckpointError for a bad checkpoint, MachineError where a package is
    missing, the graph cannot be written, or onnxruntime gives another answer than we do (then `out` is not written).
    """
    if out.suffix not in (".onnx", SUFFIX):
        raise ConfigError(f"--out {out}: ends with {out.suffix or 'nothing'}; expected .onnx or {SUFFIX}")
    if half and out.suffix != SUFFIX:
        raise ConfigError(f"--half: weights in float16 are for {SUFFIX}; an ONNX file is converted by its own tools")
    if out.suffix == ".onnx":
        _packages()  # before the work
    checkpoint = open_checkpoint(run_or_file)
    ensure_writable(out.parent)
    recipe = compose(checkpoint.recipe, file=str(checkpoint.path))
    return _onnx(checkpoint, recipe, out) if out.suffix == ".onnx" else _weights(checkpoint, recipe, out, half=half)


def _weights(checkpoint: Checkpoint, recipe: Recipe, out: Path, *, half: bool) -> list[str]:
    """A sealed checkpoint like any other, without the optimiser's state."""
    if out.resolve() == checkpoint.path.resolve():
        raise ConfigError(f"--out {out}: is the checkpoint itself; give another name")
    weights = predictor_of(checkpoint, recipe).model.state_dict()  # those that predict, once they fit the recipe
    model = {name: _halved(tensor) if half else tensor for name, tensor in weights.items()}
    origin = {"exported": {"from": checkpoint.path.name, "half": half}, "trained": checkpoint.origin} | _here()
    origin["input_convention"] = recipe.model.input.model_dump(mode="json")
    save_checkpoint(
        out,
        model=model,
        optimiser={},
        step=checkpoint.step,
        recipe=recipe.to_dict(),
        classes=checkpoint.classes,
        origin=origin,
    )
    kind = "float16" if half else "as trained"
    return [
        f"{out}: {len(model)} tensors, {kind}, {out.stat().st_size / 2**20:.1f} MiB; no optimiser state",
        f"segnl eval --checkpoint {out}, or segnl.load({str(out)!r})",
    ]


def _halved(tensor: Tensor) -> Tensor:
    """float16, but for norms and biases, which weigh little, and for what float16 cannot hold."""
    if sum(size > 1 for size in tensor.shape) < 2 or not tensor.is_floating_point():
        return tensor
    small = tensor.half()
    return small if bool(torch.isfinite(small).all()) or not bool(torch.isfinite(tensor).all()) else tensor


def _here() -> JSONDict:
    return {"git": git_state(Path(__file__).parent), "versions": versions()}


def _onnx(checkpoint: Checkpoint, recipe: Recipe, out: Path) -> list[str]:
    wrapper = ExportWrapper(predictor_of(checkpoint, recipe).model.cpu()).eval()
    data = onnx_bytes(wrapper, metadata(checkpoint, recipe))
    found = [compare(wrapper, data, hw) for hw in CHECK_HWS]
    for each in found:
        if each.error > TOLERANCE or each.differing > TOLERANCE:
            raise MachineError(
                f"{out}: not written; onnxruntime's logits for {each.hw[0]}x{each.hw[1]} differ from ours by "
                f"{each.error:.1e} of the largest (labels by {each.differing:.1e}); try another onnx or torch version"
            )
    write_atomic(out, data)
    return [
        f"{out}: ONNX, opset {OPSET}, {len(data) / 2**20:.1f} MiB",
        "in:  image, u8 `b H W 3`, RGB, any H and W; normalised inside the graph",
        "out: labels, u8 `b H W`, train ids; logits, f32 `b k h w` at feature size",
        *map(str, found),
        *_not_inside(recipe),
    ]


def _not_inside(recipe: Recipe) -> list[str]:
    """What the recipe does around the network, which the graph does not."""
    cfg, around = recipe.eval, []
    shorts = cfg.short_sides_px or ((recipe.data.short_side_px,) if recipe.data.short_side_px is not None else ())
    if shorts:
        around.append(f"resizes the image's short side to {', '.join(map(str, shorts))} pixels")
    if cfg.long_side_px is not None:
        around.append(f"shortens a long side of more than {cfg.long_side_px} pixels to that")
    if cfg.size_multiple != 1:
        around.append(f"enlarges it to a multiple of {cfg.size_multiple} pixels")
    if cfg.scales != (1.0,):
        around.append(f"sees it at scale {', '.join(map(str, cfg.scales))}")
    if cfg.mode == "slide":
        around.append(f"goes over it in windows of {cfg.window_hw}, stride {cfg.stride_hw}")
    if cfg.flip:
        around.append("averages over the flipped image")
    return [f"not in the graph: `segnl eval` with this recipe {', '.join(around)}"] if around else []


def metadata(checkpoint: Checkpoint, recipe: Recipe) -> dict[str, str]:
    """What a file must say of itself, as JSON texts: classes, palette, recipe, conventions, origin."""
    convention = {
        "image": "uint8, b H W 3, RGB, 0..255; H and W are free; the graph normalises",
        "normalised_inside": recipe.model.input.model_dump(mode="json"),
        "labels": "uint8, b H W: the index into class_names of the winning class",
        "logits": "float32, b k h w, at feature size",
        "align_corners": recipe.model.align_corners,
        "not_inside": _not_inside(recipe),
    }
    fields: dict[str, Any] = {
        "class_names": checkpoint.classes["names"],
        "palette": checkpoint.classes["palette"],
        "file_ids": checkpoint.classes["file_ids"],
        "recipe": recipe.to_dict(),
        "convention": convention,
        "step": checkpoint.step,
        "origin": {"trained": checkpoint.origin} | _here(),
    }
    return {f"segnl.{key}": json.dumps(value) for key, value in fields.items()}


def onnx_bytes(wrapper: ExportWrapper, about: dict[str, str]) -> bytes:
    """The graph with free batch, H and W. Raises MachineError, in one line, where torch cannot write it."""
    onnx = _packages()[0]
    free = torch.export.Dim.DYNAMIC
    example = torch.zeros(2, 97, 131, 3, dtype=torch.uint8)  # a batch of 1 would be taken for a constant
    with _quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                wrapper,
                (example,),
                dynamo=True,
                input_names=["image"],
                output_names=["labels", "logits"],
                dynamic_shapes={"image": {0: free, 1: free, 2: free}},
                opset_version=OPSET,
                verbose=False,
            )
        except RuntimeError as err:  # OnnxExporterError is one
            first = next((line for line in str(err).splitlines() if line.strip()), type(err).__name__)
            raise MachineError(
                f"{type(wrapper.model.head).__name__}: torch cannot write it as ONNX ({first.strip()})"
            ) from err
    if program is None:
        raise MachineError(f"{type(wrapper.model.head).__name__}: torch wrote no graph; try another torch version")
    proto = program.model_proto
    _name_axes(proto)
    onnx.helper.set_model_props(proto, about)
    data: bytes = proto.SerializeToString()
    return data


def _name_axes(proto: Any) -> None:
    """b, H, W in place of the exporter's own symbols, at the graph's ends; what follows from them keeps its formula."""
    (image,) = proto.graph.input
    names = {}
    for axis, name in ((0, "b"), (1, "H"), (2, "W")):
        names[image.type.tensor_type.shape.dim[axis].dim_param] = name
    for value in [*proto.graph.input, *proto.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:  # a fixed size has none, and would be lost by setting one
                dim.dim_param = names[dim.dim_param]


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's notes are about its own insides; whether the graph is right is measured afterwards."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def compare(wrapper: ExportWrapper, data: bytes, hw: tuple[int, int]) -> Agreement:
    """Runs both on one image of that size, drawn at random."""
    runtime = _packages()[1]
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    image: Pixels = np.random.default_rng(0).integers(0, 256, (1, *hw, 3), dtype=np.uint8)
    labels, logits = session.run(["labels", "logits"], {"image": image})
    with torch.inference_mode():
        our_labels, our_logits = wrapper(torch.from_numpy(image))
    if labels.shape != tuple(our_labels.shape) or logits.shape != tuple(our_logits.shape):
        return Agreement(hw, float("inf"), 1.0)
    largest = float(our_logits.abs().max()) or 1.0
    error = float(np.abs(logits - our_logits.numpy()).max()) / largest
    return Agreement(hw, error, float((labels != our_labels.numpy()).mean()))


def _packages() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter wants it
    except ImportError as err:
        raise MachineError(f"ONNX export needs {err.name}, which is not installed: {PIP}") from err
    return onnx, onnxruntime
