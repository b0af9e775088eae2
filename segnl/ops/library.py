"""How the operators that torch cannot see into are registered, under torch.ops.segnl.

torch.compile and torch.export take such an operator as one node, the FLOP counter asks it for its formula, and a kernel
for one device can be put in its place with `LIBRARY.impl(name, kernel, "CUDA")` without touching a caller.
torch.library.custom_op would do the same, but its first call imports the compiler: seconds and 80 MB in every process.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

LIBRARY = torch.library.Library("segnl", "DEF")

Function = TypeVar("Function", bound=Callable[..., Any])


def operator(schema: str) -> Callable[[Callable[..., Any]], Any]:
    """Registers a function, written in torch for every device, as what `schema` says; returns torch's operator."""
    name = schema.partition("(")[0]

    def register(function: Callable[..., Any]) -> Any:
        LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        return getattr(torch.ops.segnl, name).default

    return register


def shapes_of(target: Any) -> Callable[[Function], Function]:
    """Registers what an operator returns for tensors that have a shape and a dtype alone."""

    def register(function: Function) -> Function:
        torch.library.register_fake(target, function, lib=LIBRARY)
        return function

    return register


def flops_of(target: Any) -> Callable[[Function], Function]:
    """Registers an operator's floating point operations, 2 a multiply-add, as a function of its arguments' shapes."""

    def register(function: Function) -> Function:
        register_flop_formula(target.overloadpacket)(function)
        return function

    return register


class _Once(torch.autograd.Function):
    """Hands gradients on; whoever asks how they depend on the other tensors given gets an error."""

    @staticmethod
    def forward(ctx: Any, name: str, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.name = name
        return tensors[:count]

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError(f"{ctx.name}: cannot differentiate twice; a gradient of its gradient is not implemented")


def differentiate(target: Any, backward: Callable[..., Any], setup_context: Callable[..., Any]) -> None:
    """Registers an operator's gradient; `backward` and `setup_context` as for torch.autograd.Function.

    A gradient of the gradient is an error instead of a silent zero. torch's `once_differentiable` hangs its error on
    the incoming gradient alone: below a plain sum, which has a constant one, it keeps silent.
    """
    name = target.name()

    def once(ctx: Any, *given: Tensor) -> tuple[Any, ...]:
        with torch.no_grad():
            results = backward(ctx, *given)
        if not torch.is_grad_enabled():
            return tuple(results)
        grads = [each for each in results if isinstance(each, Tensor)]
        # The anchor is for an operator that has kept none of its inputs, such as the pixel loss.
        anchor = torch.zeros((), requires_grad=True)
        guarded = iter(_Once.apply(name, len(grads), *grads, *ctx.saved_tensors, *given, anchor))
        return tuple(next(guarded) if isinstance(each, Tensor) else each for each in results)

    torch.library.register_autograd(target, once, setup_context=setup_context, lib=LIBRARY)
