"""`segnl export`: a trained network as ONNX for other programs, or its weights alone as safetensors.

The ONNX graph maps an RGB image, u8 `b H W 3` (or other bands), to `labels`, u8 `b H W`, and `logits`, f32 `b k h w`
at feature size. H and W are free, or fixed where the backbone needs that. It normalises the image itself. The recipe's
windows, scales and flipped views are not in the graph.
"""

import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from segnl.core.arrays import Pixels
from segnl.core.environment import code_state
from segnl.core.errors import ConfigError, MachineError
from segnl.core.files import write_atomic
from segnl.core.outputs import mark
from segnl.evaluation.inference import HW
from segnl.models.segmenter import Segmenter
from segnl.ops.resize import resize
from segnl.runs.checkpoint import SUFFIX, Checkpoint, require_weights_file, save_checkpoint
from segnl.runs.recipe import Recipe
from segnl.runs.run import Run, open_run

OPSET = 18
CHECK_HWS = ((97, 131), (152, 91))
"""Image sizes at which graph and network are compared: odd and even, wide and tall, no multiple of the stride."""
TOLERANCE = 1e-4
"""Largest difference of logits relative to the largest logit: two float32 implementations of the same sums."""
INSTALL_COMMAND = "pip install 'segnl[export]', or in a checkout ./run.sh extra export"


class ExportWrapper(nn.Module):
    """Network with normalisation before it and upsampling after it."""

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Maps an RGB image, u8 `b H W 3`, to labels u8 `b H W` and logits f32 `b k h w`."""
        logits: Tensor = self.model(self.model.input(image.permute(0, 3, 1, 2))).main
        hw = (image.shape[1], image.shape[2])
        return resize(logits, hw, align_corners=self.model.align_corners).argmax(dim=1).to(torch.uint8), logits


class ExportReport(NamedTuple):
    """Facts about an exported file."""

    num_tensors: int
    """Of a .safetensors file; 0 for an ONNX graph."""
    fixed_hw: HW | None
    """Of an ONNX graph that takes images of one size only."""
    errors: dict[HW, tuple[float, float]]
    """Of an ONNX graph, by image size: `onnx_errors`."""
    not_in_graph: list[str]
    """A line that names the steps of the recipe's evaluation outside an ONNX graph, or no line."""


def export(
    run_or_file: Path, out: Path, *, half: bool = False, hw: HW | None = None, trust_modules: Sequence[str] = ()
) -> ExportReport:
    """Writes `out`, .onnx or .safetensors. half: float16 (safetensors only). trust_modules: as `open_run` takes them.

    hw: the only image size of the ONNX graph. None: every size or, where the backbone's sizes cannot be free, that of
    the recipe's windows (`eval.window_hw`) or else crops.

    Raises ConfigError for another suffix, CheckpointError for a bad checkpoint, MachineError where a package is
    missing, the graph cannot be written, or onnxruntime's output differs from the network's (`out` is not written).
    """
    if out.suffix not in (".onnx", SUFFIX):
        raise ConfigError(f"--out {out}: ends with {out.suffix or 'nothing'}; expected .onnx or {SUFFIX}")
    if half and out.suffix != SUFFIX:
        raise ConfigError(f"--half: weights in float16 are for {SUFFIX}; an ONNX file is converted by its own tools")
    if hw is not None and out.suffix == SUFFIX:
        raise ConfigError(f"--input: is for an ONNX graph; {SUFFIX} holds weights, which take images of any size")
    if out.suffix == ".onnx":
        _packages()  # fails before the work begins
    run = open_run(run_or_file, trust_modules=trust_modules)
    require_weights_file(out, "export")
    return _export_onnx(run, out, hw) if out.suffix == ".onnx" else _export_weights(run, out, half=half)


def _export_weights(run: Run, out: Path, *, half: bool) -> ExportReport:
    """Writes a checkpoint with checksum and recipe, without the optimiser's state."""
    checkpoint, recipe = run.checkpoint, run.recipe
    weights = run.build_model().state_dict()
    model = {name: _to_float16(tensor) if half else tensor for name, tensor in weights.items()}
    origin = {"exported": {"from": checkpoint.path.name, "half": half}, "trained": checkpoint.origin} | code_state()
    origin["input_convention"] = recipe.model.input.model_dump(mode="json")
    exported = Checkpoint(out, checkpoint.step, recipe.to_dict(), checkpoint.classes, origin, model=model)
    save_checkpoint(exported, command="export")
    return ExportReport(len(model), None, {}, [])


def _to_float16(tensor: Tensor) -> Tensor:
    """Returns the tensor in float16; unchanged for norms and biases, which are small, and values beyond its range."""
    if sum(size > 1 for size in tensor.shape) < 2 or not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    return half if bool(torch.isfinite(half).all()) or not bool(torch.isfinite(tensor).all()) else tensor


def _export_onnx(run: Run, out: Path, fixed_hw: HW | None) -> ExportReport:
    wrapper = ExportWrapper(run.build_model()).eval()
    if not wrapper.model.backbone.has_free_size:
        fixed_hw = fixed_hw or run.recipe.eval.window_hw or run.recipe.data.crop_hw
    data = onnx_bytes(wrapper, metadata(run.checkpoint, run.recipe, fixed_hw), fixed_hw)
    errors = {hw: onnx_errors(wrapper, data, hw) for hw in ([fixed_hw] if fixed_hw else CHECK_HWS)}
    for (height, width), (logit_error, label_error) in errors.items():
        if logit_error > TOLERANCE or label_error > TOLERANCE:
            raise MachineError(
                f"{out}: not written; onnxruntime's logits for {height}x{width} differ from ours by {logit_error:.1e} "
                f"of the largest (labels by {label_error:.1e}); try another onnx or torch version"
            )
    write_atomic(out, data)
    return ExportReport(0, fixed_hw, errors, _not_in_graph(run.recipe))


def _not_in_graph(recipe: Recipe) -> list[str]:
    """Returns a line that names the steps of the recipe's evaluation outside the graph, or no line."""
    cfg, steps = recipe.eval, []
    shorts = cfg.short_sides_px or ((recipe.data.short_side_px,) if recipe.data.short_side_px is not None else ())
    if shorts:
        steps.append(f"resizes the image's short side to {', '.join(map(str, shorts))} pixels")
    if cfg.long_side_px is not None:
        steps.append(f"shortens a long side of more than {cfg.long_side_px} pixels to that")
    if cfg.size_multiple != 1:
        steps.append(f"enlarges it to a multiple of {cfg.size_multiple} pixels")
    if cfg.scales != (1.0,):
        steps.append(f"predicts at scale {', '.join(map(str, cfg.scales))}")
    if cfg.mode == "slide":
        steps.append(f"predicts in windows of {cfg.window_hw}, stride {cfg.stride_hw}")
    if cfg.flip:
        steps.append("averages over the flipped image")
    return [f"not in the graph: `segnl eval` with this recipe {', '.join(steps)}"] if steps else []


def metadata(checkpoint: Checkpoint, recipe: Recipe, fixed_hw: HW | None) -> dict[str, str]:
    """Returns the metadata of an ONNX file as JSON texts: classes, palette, recipe, conventions, origin."""
    channels = recipe.model.input.channels * recipe.data.frames
    bands = "RGB" if channels == 3 else "bands"
    size = "H = {}, W = {}".format(*fixed_hw) if fixed_hw else "H and W are free"
    convention = {
        "image": f"uint8, b H W {channels}, {bands}, 0..255; {size}; the graph normalises",
        "normalised_inside": recipe.model.input.model_dump(mode="json"),
        "labels": "uint8, b H W: the index into class_names of the winning class",
        "logits": "float32, b k h w, at feature size",
        "align_corners": recipe.model.align_corners,
        "not_inside": _not_in_graph(recipe),
    }
    fields: dict[str, Any] = {
        "class_names": checkpoint.classes["names"],
        "palette": checkpoint.classes["palette"],
        "file_ids": checkpoint.classes["file_ids"],
        "recipe": recipe.to_dict(),
        "convention": convention,
        "step": checkpoint.step,
        "origin": {"trained": checkpoint.origin} | code_state(),
    }
    return {f"segnl.{key}": json.dumps(value) for key, value in fields.items()}


def onnx_bytes(wrapper: ExportWrapper, about: dict[str, str], fixed_hw: HW | None = None) -> bytes:
    """Returns the graph with free batch, and free H and W unless they are fixed.

    Raises MachineError, in one line, where torch cannot write it.
    """
    onnx = _packages()[0]
    head = type(wrapper.model.head).__name__
    free = torch.export.Dim.DYNAMIC
    free_axes = {0: free} if fixed_hw else {0: free, 1: free, 2: free}
    hw = fixed_hw or CHECK_HWS[0]
    example = torch.zeros(2, *hw, wrapper.model.image_channels, dtype=torch.uint8)  # a batch of 1 would be a constant
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)  # of the exporter, on its internals
        try:
            program = torch.onnx.export(
                wrapper,
                (example,),
                dynamo=True,
                input_names=["image"],
                output_names=["labels", "logits"],
                dynamic_shapes={"image": free_axes},
                opset_version=OPSET,
                verbose=False,
            )
        except RuntimeError as err:  # OnnxExporterError is one
            reason = " ".join(str(err.__cause__ or err).split())[:200]
            remedy = "" if fixed_hw else "; perhaps it can for one image size: --input ROWSxCOLUMNS"
            raise MachineError(f"torch cannot write the network, {head}, as ONNX ({reason}){remedy}") from err
        finally:
            logging.disable(disabled)
    if program is None:
        raise MachineError(f"torch wrote no graph of the network, {head}; try another torch version")
    proto = program.model_proto
    _name_axes(proto)
    onnx.helper.set_model_props(proto, about)
    proto.doc_string = mark("export")
    data: bytes = proto.SerializeToString()
    return data


def _name_axes(proto: Any) -> None:
    """Names the free axes of inputs and outputs b, H and W; axes computed from them keep the exporter's formula."""
    (image,) = proto.graph.input
    names = {}
    for axis, name in ((0, "b"), (1, "H"), (2, "W")):
        names[image.type.tensor_type.shape.dim[axis].dim_param] = name
    for value in [*proto.graph.input, *proto.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param and dim.dim_param in names:  # naming a fixed size would free it
                dim.dim_param = names[dim.dim_param]


def onnx_errors(wrapper: ExportWrapper, data: bytes, hw: HW) -> tuple[float, float]:
    """Returns how far onnxruntime's output on one random image of `hw` pixels is from the network's.

    The largest difference of logits, relative to the largest logit, and the fraction of pixels with another label.
    """
    runtime = _packages()[1]
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    image: Pixels = np.random.default_rng(0).integers(0, 256, (1, *hw, wrapper.model.image_channels), dtype=np.uint8)
    labels, logits = session.run(["labels", "logits"], {"image": image})
    with torch.inference_mode():
        our_labels, our_logits = wrapper(torch.from_numpy(image))
    if labels.shape != tuple(our_labels.shape) or logits.shape != tuple(our_logits.shape):
        return float("inf"), 1.0
    largest = float(our_logits.abs().max()) or 1.0
    error = float(np.abs(logits - our_logits.numpy()).max()) / largest
    return error, float((labels != our_labels.numpy()).mean())


def _packages() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  needed by torch's exporter
    except ImportError as err:
        raise MachineError(f"ONNX export needs {err.name}, which is not installed: {INSTALL_COMMAND}") from err
    return onnx, onnxruntime
