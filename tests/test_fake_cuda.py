"""Operators and networks on fake CUDA tensors: shapes, dtypes and devices without a GPU.

A fake tensor has a shape, a dtype and a device but no numbers. A tensor left on the CPU, a value read back from the
device and a dtype that does not fit are errors here.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from segnl.models.find import BACKBONES, HEADS
from segnl.models.segmenter import Segmenter, model_config
from segnl.ops.context import channel_context, expectation_context, pyramid_means, region_context
from segnl.ops.criss_cross import criss_cross_context
from segnl.ops.non_local import concatenation_context, dot_product_context, softmax_context
from segnl.ops.pixel_loss import hardest_label, ohem_label, per_pixel_loss, pixel_cross_entropy
from segnl.ops.resize import resize, resize_rows
from segnl.ops.upsampled_labels import upsampled_labels

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CUDA_KERNELS = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)


class OperatorBodies(TorchDispatchMode):
    """Runs the bodies of the package's operators, in whose place fake tensors take the declared shapes alone."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace != "segnl":
            return func(*args, **(kwargs or {}))
        self.names.add(func.name())
        with self:
            return func.redispatch(CUDA_KERNELS, *args, **(kwargs or {}))


@contextmanager
def fake_cuda() -> Iterator[OperatorBodies]:
    with torch.no_grad(), FakeTensorMode(), OperatorBodies() as bodies:
        yield bodies


def cuda(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="cuda")


def labels(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device="cuda")


# Each case returns tensors that must be on the device; those of SAME_DTYPE have the dtype asked for. Maps of 37 x 41
# positions have more than one tile.
def criss_cross(dtype: torch.dtype) -> list[Tensor]:
    query, value = cuda(2, 4, 37, 41, dtype=dtype), cuda(2, 6, 37, 41, dtype=dtype)
    q, v = (x.permute(0, 2, 3, 1) for x in (query, value))
    context, weights = torch.ops.segnl.criss_cross(q, q, v)
    gradients = torch.ops.segnl.criss_cross_backward(q, q, v, weights, context)
    return [criss_cross_context(query, query, value), *gradients]


def softmax(dtype: torch.dtype) -> list[Tensor]:
    theta, g = cuda(2, 4, 37 * 41, dtype=dtype), cuda(2, 6, 37 * 41, dtype=dtype)
    return [softmax_context(theta, theta, g, scale=0.5), softmax_context(theta, theta, theta)]


def tiled_softmax(dtype: torch.dtype) -> list[Tensor]:
    q, v = cuda(2, 37 * 41, 4, dtype=dtype), cuda(2, 37 * 41, 6, dtype=dtype)
    out, log_sum = torch.ops.segnl.blocked_attention(q, q, v, 0.5)
    return [out, *torch.ops.segnl.blocked_attention_backward(q, q, v, out, log_sum, out, 0.5)]


def dot_product(dtype: torch.dtype) -> list[Tensor]:
    theta, g = cuda(2, 4, 37 * 41, dtype=dtype), cuda(2, 6, 37 * 41, dtype=dtype)
    return [dot_product_context(theta, theta, g)]


def concatenation(dtype: torch.dtype) -> list[Tensor]:
    score, g = cuda(2, 37 * 41, dtype=dtype), cuda(2, 6, 37 * 41, dtype=dtype)
    rows = g.mT.contiguous()
    return [concatenation_context(score, score, g), *torch.ops.segnl.relu_sum_backward(score, score, rows, rows, 7)]


def small_contexts(dtype: torch.dtype) -> list[Tensor]:
    x = cuda(2, 6, 77, dtype=dtype)
    return [
        channel_context(x),
        *expectation_context(x, cuda(2, 6, 5, dtype=dtype), num_steps=3),
        region_context(cuda(2, 3, 77, dtype=dtype), x),
        pyramid_means(cuda(2, 6, 7, 11, dtype=dtype), (1, 2, 3, 6)),
    ]


def resizing(dtype: torch.dtype) -> list[Tensor]:
    x = cuda(2, 3, 7, 11, dtype=dtype)
    bands = [resize_rows(x, (57, 41), 5, 20, align_corners=corners) for corners in (False, True)]
    return [*bands, *(resize(x, (57, 41), align_corners=corners) for corners in (False, True))]


def winners(dtype: torch.dtype) -> list[Tensor]:
    logits = cuda(2, 19, 33, 65, dtype=dtype)
    return [upsampled_labels(logits, (257, 513), align_corners=corners) for corners in (False, True)]


def cross_entropy(dtype: torch.dtype) -> list[Tensor]:
    logits, weight = cuda(2, 19, 33, 65, dtype=dtype), cuda(19)
    losses = [
        pixel_cross_entropy(logits, labels(2, 257, 513, dtype=label), align_corners=corners, **settings)
        for label in (torch.uint8, torch.int64)
        for corners in (False, True)
        for settings in ({}, {"class_weight": weight, "label_smoothing": 0.1}, {"normalize_by": "all"})
    ]
    total, gradient = torch.ops.segnl.pixel_cross_entropy(logits, labels(2, 257, 513), weight, False, 0.1, True)
    assert {loss.dtype for loss in (*losses, gradient)} == {torch.float32}
    assert gradient.shape == logits.shape
    return [*losses, total, gradient]


def hard_pixels(dtype: torch.dtype) -> list[Tensor]:
    label = labels(2, 257, 513)
    losses = per_pixel_loss(cuda(2, 19, 33, 65, dtype=dtype), label, align_corners=False)
    kept = [ohem_label(label, losses, threshold=0.7, min_kept=count) for count in (0, 100, 10**9)]
    return [losses, *kept, hardest_label(label, losses, fraction=0.25)]


SAME_DTYPE: list[Callable[[torch.dtype], list[Tensor]]] = [
    criss_cross, softmax, tiled_softmax, dot_product, concatenation, small_contexts, resizing
]  # fmt: skip
OWN_DTYPE = [winners, cross_entropy, hard_pixels]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", SAME_DTYPE + OWN_DTYPE, ids=lambda case: case.__name__)
def test_an_operator_stays_on_the_device(case: Callable[[torch.dtype], list[Tensor]], dtype: torch.dtype) -> None:
    with fake_cuda():
        results = case(dtype)
        assert {result.device.type for result in results} == {"cuda"}
        if case in SAME_DTYPE:
            assert {result.dtype for result in results} == {dtype}


def test_the_cases_above_run_the_body_of_every_operator() -> None:
    with fake_cuda() as bodies:
        for case in SAME_DTYPE + OWN_DTYPE:
            case(torch.float32)
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("segnl::")}
    assert bodies.names == registered


def to_cuda(module: nn.Module) -> None:
    """Moves a module's fake parameters and buffers as `to` moves real ones; any other tensor stays on the CPU."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            part._parameters[name] = None if parameter is None else nn.Parameter(parameter.to("cuda"))
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else buffer.to("cuda")


def network(head: dict[str, Any], backbone: dict[str, Any]) -> Segmenter:
    config = {"backbone": backbone, "head": head, "aux": {"channels": 8}}
    model = Segmenter(model_config(config, file="test"), num_classes=3)
    to_cuda(model)
    return model


@contextmanager
def autocast(dtype: torch.dtype) -> Iterator[None]:
    """Turns autocast on by its own switches: `torch.autocast` ignores "cuda" on a machine without a device."""
    torch.set_autocast_dtype("cuda", dtype)
    torch.set_autocast_enabled("cuda", dtype != torch.float32)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)


def check_forward(model: Segmenter, dtype: torch.dtype) -> None:
    image, label = labels(2, 3, 97, 129, dtype=torch.uint8), labels(2, 97, 129, dtype=torch.uint8)
    for is_training in (True, False):
        with autocast(dtype):
            logits = model.train(is_training)(model.input(image))
        for output in (logits.main, *logits.aux.values()):
            assert output.device.type == "cuda"
            assert output.dtype == dtype
            assert output.shape[:2] == (2, 3)
        loss = pixel_cross_entropy(logits.main, label, align_corners=False)
        assert loss.device.type == "cuda"
        assert loss.dtype == torch.float32


SMALL_RESNET = {"name": "resnet", "depth": 18, "width": 0.0625}
HEAD_SETTINGS = [{"name": name} for name in HEADS.names()] + [
    {"name": "non_local", "pairwise": pairwise} for pairwise in ("gaussian", "dot_product", "concatenation")
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head", HEAD_SETTINGS, ids=lambda head: "-".join(head.values()))
def test_a_head_stays_on_the_device(head: dict[str, Any], dtype: torch.dtype) -> None:
    with fake_cuda():
        small = {"channels": 8} if "channels" in HEADS.find(head["name"]).Config.model_fields else {}
        check_forward(network(head | small, SMALL_RESNET), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", sorted({*BACKBONES.names()} - {"timm"}))
def test_a_backbone_of_full_size_stays_on_the_device(name: str, dtype: torch.dtype) -> None:
    with fake_cuda():
        check_forward(network({"name": "rcca"}, {"name": name}), dtype)
