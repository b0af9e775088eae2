"""The contestants of the benchmark of the context operators; see ops.py.

Axes as everywhere: `b` batch, `c` channels, `n` = h*w positions.
"""

import sys
import types
from collections.abc import Callable
from typing import Any

import torch
from timing import CannotRunError, Case
from torch import Tensor, nn

CHANNELS = 512
PAIRWISE = ("embedded_gaussian", "dot_product", "concatenation")

Call = Callable[[], object]


def build(contestant: str, case: Case) -> Call:
    """Returns a call of one operator or block.

    case: level (op | block), kind (a pairwise function | criss_cross), hw, mode (forward | forward_backward).
    """
    h, w = case["hw"]
    _refuse_what_cannot_fit(contestant, case["kind"], case["mode"], h * w)
    torch.manual_seed(0)
    if case["level"] == "block":
        block = _blocks(contestant)[case["kind"]]()
        inputs = [torch.randn(1, CHANNELS, h, w)]
        return _call(block, inputs, list(block.parameters()), case["mode"])
    return _call(_operators(contestant)[case["kind"]], _operands(case["kind"], h, w), [], case["mode"])


def _call(function: Callable[..., Tensor], inputs: list[Tensor], parameters: list[Tensor], mode: str) -> Call:
    if mode == "forward":

        def forward() -> None:
            with torch.no_grad():
                function(*inputs)

        return forward
    leaves = [*(x.requires_grad_() for x in inputs), *parameters]
    with torch.no_grad():
        grad_output = torch.randn_like(inputs[-1])  # every operator and block returns the shape of its last input

    def forward_backward() -> None:
        torch.autograd.grad(function(*inputs), leaves, grad_output, allow_unused=True)

    return forward_backward


def _operands(kind: str, h: int, w: int) -> list[Tensor]:
    """Channels-first maps, as a 1x1 convolution gives them."""
    half = CHANNELS // 2
    if kind == "criss_cross":
        eighth = (1, CHANNELS // 8, h, w)
        return [torch.randn(eighth), torch.randn(eighth), torch.randn(1, CHANNELS, h, w)]
    if kind == "concatenation":
        return [torch.randn(1, h * w), torch.randn(1, h * w), torch.randn(1, half, h * w)]
    # Of the size that trained embeddings have: scores of a few units.
    return [half**-0.25 * torch.randn(1, half, h * w) for _ in range(2)] + [torch.randn(1, half, h * w)]


def _operators(contestant: str) -> dict[str, Callable[..., Tensor]]:
    if contestant == "segnl":
        from segnl.ops.criss_cross import criss_cross_context
        from segnl.ops.non_local import concatenation_context, dot_product_context, softmax_context

        operators = (softmax_context, dot_product_context, concatenation_context, criss_cross_context)
    elif contestant == "plain":
        from segnl.ops.criss_cross import reference_criss_cross_context
        from segnl.ops.non_local import (
            reference_concatenation_context,
            reference_dot_product_context,
            reference_softmax_context,
        )

        operators = (
            reference_softmax_context,
            reference_dot_product_context,
            reference_concatenation_context,
            reference_criss_cross_context,
        )
    else:
        raise CannotRunError(f"{contestant} has modules, no operators")
    return dict(zip((*PAIRWISE, "criss_cross"), operators, strict=True))


def _blocks(contestant: str) -> dict[str, Callable[[], nn.Module]]:
    if contestant == "segnl":
        from segnl.models.blocks.criss_cross import CrissCrossBlock, CrissCrossConfig
        from segnl.models.blocks.non_local import NonLocalBlock, NonLocalConfig

        def non_local(kind: Any) -> Callable[[], nn.Module]:
            return lambda: NonLocalBlock(CHANNELS, NonLocalConfig(pairwise=kind))

        criss_cross: Callable[[], nn.Module] = lambda: CrissCrossBlock(CHANNELS, CrissCrossConfig(recurrence=1))  # noqa: E731
    elif contestant == "plain":

        def non_local(kind: Any) -> Callable[[], nn.Module]:
            return lambda: PlainNonLocal(kind)

        criss_cross = PlainCrissCross
    else:
        cnn, ops = _mmcv()

        def non_local(kind: Any) -> Callable[[], nn.Module]:
            return lambda: cnn.NonLocal2d(CHANNELS, norm_cfg={"type": "BN"}, mode=kind)

        def criss_cross() -> nn.Module:
            return ops.CrissCrossAttention(CHANNELS)

    return {**{kind: non_local(kind) for kind in PAIRWISE}, "criss_cross": criss_cross}


def _mmcv() -> tuple[Any, Any]:
    """mmcv-lite's Python; a module with every name replaces the compiled extension, which is not used here."""

    class Extension(types.ModuleType):
        def __getattr__(self, name: str) -> None:
            if name.startswith("__"):
                raise AttributeError(name)

    sys.modules.setdefault("mmcv._ext", Extension("mmcv._ext"))
    import mmcv.cnn
    import mmcv.ops

    return mmcv.cnn, mmcv.ops


PAIRS_HELD = {"embedded_gaussian": 4.2, "dot_product": 2.2, "concatenation": 3.3}
"""Matrices of all pairs that the textbook forms hold at once with their gradients, from the peaks at 97x97."""


def _refuse_what_cannot_fit(contestant: str, kind: str, mode: str, n: int) -> None:
    """Refuses a case that does not fit: a machine that swaps or kills would end the whole run."""
    if contestant == "segnl" or kind == "criss_cross":
        return
    held = 2.0 if mode == "forward" else PAIRS_HELD[kind]
    if contestant == "mmcv" and kind == "concatenation":
        held = float(CHANNELS)  # a vector of theta and phi for each pair
    elif contestant == "mmcv" and kind == "embedded_gaussian":
        held = min(held, 3.2)  # scales its scores in place
    required, memory = 4 * n * n * held, _memory()
    if required > 0.85 * memory["MemAvailable"]:
        is_permanent = required > 0.85 * memory["MemTotal"]
        limit = f"the {memory['MemTotal'] / 2**30:.0f} GiB here" if is_permanent else "what was free at the time"
        raise CannotRunError(f"needs about {required / 2**30:.0f} GiB, which does not fit in {limit}")


def _memory() -> dict[str, int]:
    """Returns the entries of /proc/meminfo in bytes."""
    with open("/proc/meminfo") as file:
        return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in file}


class PlainNonLocal(nn.Module):
    """The usual non-local block: 1x1 convolutions, a matrix of all pairs, a batch norm that begins at 0."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        half = CHANNELS // 2
        self.kind, self.scale = kind, half**-0.5
        self.theta, self.phi, self.g = (nn.Conv2d(CHANNELS, half, 1) for _ in range(3))
        self.score = nn.Conv1d(CHANNELS, 1, 1, bias=False)  # over [theta, phi], of half the channels each
        self.w_z = nn.Conv2d(half, CHANNELS, 1, bias=False)
        self.norm = nn.BatchNorm2d(CHANNELS)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        from segnl.ops import non_local

        theta, phi, g = (layer(x).flatten(2) for layer in (self.theta, self.phi, self.g))
        if self.kind == "concatenation":
            # The economical form: a score for each position instead of a vector for each pair.
            for_theta, for_phi = self.score.weight.chunk(2, dim=1)
            scores = (nn.functional.conv1d(y, weight)[:, 0] for y, weight in ((theta, for_theta), (phi, for_phi)))
            context = non_local.reference_concatenation_context(*scores, g)
        elif self.kind == "dot_product":
            context = non_local.reference_dot_product_context(theta, phi, g)
        else:
            context = non_local.reference_softmax_context(theta, phi, g, scale=self.scale)
        return x + self.norm(self.w_z(context.unflatten(2, x.shape[2:])))


class PlainCrissCross(nn.Module):
    """The usual criss-cross block: 1x1 convolutions, scores of rows and columns joined, gamma that begins at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = (nn.Conv2d(CHANNELS, CHANNELS // 8, 1) for _ in range(2))
        self.value = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        from segnl.ops.criss_cross import reference_criss_cross_context

        return x + self.gamma * reference_criss_cross_context(self.query(x), self.key(x), self.value(x))
