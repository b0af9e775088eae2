"""The registration of operators."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from segnl.ops.criss_cross import criss_cross_context
from segnl.ops.kernels.criss_cross import criss_cross
from segnl.ops.library import LIBRARY
from segnl.ops.non_local import concatenation_context, softmax_context
from segnl.ops.pixel_loss import cross_entropy_sum

SHAPES = {"softmax": [(1, 2, 3), (1, 2, 261), (1, 4, 261)], "concatenation": [(1, 3), (1, 5), (1, 4, 5)]}
SHAPES["criss_cross"] = [(1, 2, 3, 5), (1, 2, 3, 5), (1, 4, 3, 5)]
OPERATORS = {"softmax": softmax_context, "concatenation": concatenation_context, "criss_cross": criss_cross_context}


def first_of(kind: str) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The operator as a function of its first input, and that input."""
    generator = torch.Generator().manual_seed(0)
    first, *others = (torch.randn(shape, generator=generator) for shape in SHAPES[kind])
    return lambda x: OPERATORS[kind](x, *others), first


def test_operators_live_under_one_name() -> None:
    assert LIBRARY.ns == "segnl"
    assert criss_cross is torch.ops.segnl.criss_cross.default


def test_calling_an_operator_does_not_import_the_compiler() -> None:
    """torch.library.custom_op does: 80 MB and seconds in every process, also in those whose memory is measured."""
    code = (
        "import sys, torch; from segnl.ops.criss_cross import criss_cross_context as f; x = torch.ones(1, 2, 3, 4); "
        "x.requires_grad_(); f(x, x, x).sum().backward(); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("kind", OPERATORS)
def test_a_second_derivative_is_an_error_below_a_plain_sum_too(kind: str) -> None:
    """There the incoming gradient is constant; a penalty on the gradient would silently lose the operator's share."""
    context, first = first_of(kind)
    x, factor = first.requires_grad_(), torch.ones((), requires_grad=True)
    (grad,) = torch.autograd.grad(context(factor * x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"segnl::\w+: cannot differentiate twice"):
        torch.autograd.grad(grad.square().sum(), factor)


@pytest.mark.parametrize("kind", OPERATORS)
def test_a_hessian_is_an_error_instead_of_zero(kind: str) -> None:
    context, first = first_of(kind)
    with pytest.raises(RuntimeError, match="cannot differentiate twice"):
        torch.autograd.functional.hessian(lambda x: context(x).sin().sum(), first)


@pytest.mark.parametrize("kind", OPERATORS)
def test_a_forward_mode_derivative_is_an_error_instead_of_zero(kind: str) -> None:
    context, first = first_of(kind)
    with pytest.raises(RuntimeError, match=f"{kind}_context: no forward-mode derivative"):
        torch.func.jvp(context, (first,), (torch.ones_like(first),))


def test_a_penalty_on_the_losss_gradient_is_an_error() -> None:
    """The pixel loss saves none of its inputs: only the error tells that its gradient depends on them."""
    x, factor = torch.randn(1, 3, 2, 2).requires_grad_(), torch.ones((), requires_grad=True)
    loss = cross_entropy_sum(factor * x, torch.zeros(1, 4, 4).long(), None, False, 0.0, True)[0]
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot differentiate twice"):
        grad.square().sum().backward()


@pytest.mark.parametrize("kind", OPERATORS)
def test_maps_of_many_sizes_share_a_compiled_graph(kind: str) -> None:
    """A float made from a map's size is a constant to torch.compile: ten sizes would be ten graphs, then an error."""
    torch._dynamo.reset()
    compiled = torch.compile(OPERATORS[kind], fullgraph=True, dynamic=True, backend="aot_eager")
    for size in range(3, 13):
        inputs = [torch.randn(*shape[:-1], size) for shape in SHAPES[kind]]
        torch.testing.assert_close(compiled(*inputs), OPERATORS[kind](*inputs))
