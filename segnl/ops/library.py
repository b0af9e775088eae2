"""Registration of the operators that torch cannot look into, as torch.ops.segnl.

torch.compile and torch.export take such an operator as one node, the FLOP counter has a formula for it, and a kernel
for one device can be added with `LIBRARY.impl(name, kernel, "CUDA")` without touching a caller.
torch.library.custom_op does the same, but its first call imports the compiler: seconds and 80 MB in every process.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

LIBRARY = torch.library.Library("segnl", "DEF")


def operator(
    schema: str,
    *,
    shapes: Callable[..., Any],
    flops: Callable[..., int] | None = None,
    cpu_kernel: Callable[..., Any] | None = None,
) -> Callable[[Callable[..., Any]], Any]:
    """Registers a function as the operator of `schema`, and returns torch's callable for it.

    The function is written in torch for every device; cpu_kernel, where given, takes its place on the CPU.
    shapes: returns empty results for tensors without data, which have only shape and dtype.
    flops: counts floating point operations, 2 per multiply-add, from the arguments with shapes in the place of tensors.
    """
    name = schema.partition("(")[0]

    def register(function: Callable[..., Any]) -> Any:
        LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        if cpu_kernel is not None:
            LIBRARY.impl(name, cpu_kernel, "CPU")
        target = getattr(torch.ops.segnl, name).default
        torch.library.register_fake(target, shapes, lib=LIBRARY)
        if flops is not None:
            register_flop_formula(target.overloadpacket)(lambda *arguments, **_: int(flops(*arguments)))
        return target

    return register


class _Once(torch.autograd.Function):
    """Passes gradients through and raises when they are differentiated themselves."""

    @staticmethod
    def forward(ctx: Any, name: str, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.name = name
        return tensors[:count]

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError(f"{ctx.name}: cannot differentiate twice; a gradient of its gradient is not implemented")


def differentiate(target: Any, backward: Callable[..., Any], setup_context: Callable[..., Any]) -> None:
    """Registers an operator's gradient; `backward` and `setup_context` as for torch.autograd.Function.

    A gradient of the gradient is an error instead of a silent zero. torch's `once_differentiable` ties its error
    to the incoming gradient alone, which is constant below a plain sum: there it stays silent.
    """
    name = target.name()

    def once(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        with torch.no_grad():
            results = backward(ctx, *grad_outputs)
        if not torch.is_grad_enabled():
            return tuple(results)
        grads = [grad for grad in results if isinstance(grad, Tensor)]
        # The anchor serves an operator that saves none of its inputs, such as the pixel loss.
        anchor = torch.zeros((), requires_grad=True)
        guarded = iter(_Once.apply(name, len(grads), *grads, *ctx.saved_tensors, *grad_outputs, anchor))
        return tuple(next(guarded) if isinstance(grad, Tensor) else grad for grad in results)

    torch.library.register_autograd(target, once, setup_context=setup_context, lib=LIBRARY)


def differentiate_by(target: Any, backward: Any, *, saved_outputs: Sequence[int] = ()) -> None:
    """Registers the operator `backward` as the gradient of an operator whose first result alone has a gradient.

    `backward` takes the operator's tensors, those of its results that saved_outputs numbers, the gradient of the first
    result, and the operator's other arguments. It returns a gradient for each tensor.
    """

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        results = output if isinstance(output, tuple) else (output,)
        ctx.mark_non_differentiable(*results[1:])
        tensors = [value for value in inputs if isinstance(value, Tensor)]
        ctx.save_for_backward(*tensors, *(results[index] for index in saved_outputs))
        ctx.settings = inputs[len(tensors) :]

    def gradients(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        return *backward(*ctx.saved_tensors, grad, *ctx.settings), *(None for _ in ctx.settings)

    differentiate(target, gradients, setup_context)
