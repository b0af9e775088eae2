"""Criss-cross attention against a loop over pixels in float64."""

import pytest
import torch
from torch import Tensor

from segnl.ops.criss_cross import criss_cross_context, reference_criss_cross_context


def by_loops(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax over every pixel's set of neighbours."""
    b, _, h, w = query.shape
    out = torch.empty(value.shape, dtype=torch.float64)
    for image in range(b):
        for row in range(h):
            for column in range(w):
                neighbours = sorted({(row, x) for x in range(w)} | {(y, column) for y in range(h)})
                keys = torch.stack([key[image, :, y, x] for y, x in neighbours]).double()
                values = torch.stack([value[image, :, y, x] for y, x in neighbours]).double()
                weights = (keys @ query[image, :, row, column].double()).softmax(dim=0)
                out[image, :, row, column] = weights @ values
    return out


def maps(b: int, hw: tuple[int, int], dtype: torch.dtype = torch.float64, c: int = 3, d: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(b, c, *hw), (b, c, *hw), (b, d, *hw)]
    return [torch.randn(s, dtype=torch.float64, generator=generator).to(dtype).requires_grad_() for s in shapes]


@pytest.mark.parametrize("hw", [(7, 11), (1, 11), (7, 1), (1, 1)])
@pytest.mark.parametrize("b", [1, 2])
def test_context_and_gradients_match_a_loop_over_pixels(b: int, hw: tuple[int, int]) -> None:
    inputs = maps(b, hw)
    expected, context = by_loops(*inputs), criss_cross_context(*inputs)
    torch.testing.assert_close(context, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(reference_criss_cross_context(*inputs), expected, rtol=1e-12, atol=1e-12)
    grad_output = torch.randn_like(expected)
    grads = torch.autograd.grad(expected, inputs, grad_output)
    torch.testing.assert_close(torch.autograd.grad(context, inputs, grad_output), grads, rtol=1e-11, atol=1e-11)


def test_pixel_counts_itself_once_not_twice() -> None:
    query, key, _ = maps(1, (3, 4))
    value = torch.zeros(1, 1, 3, 4, dtype=torch.float64)
    value[0, 0, 1, 2] = 1.0
    context = criss_cross_context(torch.zeros_like(query), key, value)
    assert context[0, 0, 1, 2].item() == pytest.approx(1 / (3 + 4 - 1))


def test_gradcheck() -> None:
    assert torch.autograd.gradcheck(criss_cross_context, maps(1, (3, 4), d=2))


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 2e-6), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)],  # a few roundings of the dtype
)
def test_every_dtype_stays_near_float64(dtype: torch.dtype, tolerance: float) -> None:
    inputs = maps(2, (7, 11), dtype)
    precise = [x.detach().double().requires_grad_() for x in inputs]
    context, exact_context = criss_cross_context(*inputs), criss_cross_context(*precise)
    assert context.dtype == dtype
    grad_output = torch.randn_like(context)
    grads = torch.autograd.grad(context, inputs, grad_output)
    exact_grads = torch.autograd.grad(exact_context, precise, grad_output.double())
    for near, exact in zip((context, *grads), (exact_context, *exact_grads), strict=True):
        assert (near.double() - exact).abs().max() <= tolerance * exact.abs().max()


def test_autocast_rounds_the_inputs_and_accumulates_in_float32() -> None:
    inputs = maps(1, (7, 11), torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = criss_cross_context(inputs[0].bfloat16(), *inputs[1:])
    assert mixed.dtype == torch.bfloat16
    rounded = [x.detach().bfloat16().double() for x in inputs]
    torch.testing.assert_close(mixed, criss_cross_context(*rounded).bfloat16(), rtol=2**-7, atol=1e-3)
    mixed.float().sum().backward()
    assert [x.grad.dtype for x in inputs if x.grad is not None] == [torch.float32] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_large_scores_stay_finite(dtype: torch.dtype) -> None:
    query, key, value = (x.detach() * 100 for x in maps(1, (7, 11), dtype))
    inputs = [x.requires_grad_() for x in (query, key, value)]
    context = criss_cross_context(*inputs)
    grads = torch.autograd.grad(context.sum(), inputs)
    assert all(x.isfinite().all() for x in (context, *grads))


def test_memory_layout_of_the_inputs_does_not_matter() -> None:
    inputs = [x.detach() for x in maps(2, (7, 11))]
    channels_last = [x.to(memory_format=torch.channels_last) for x in inputs]
    torch.testing.assert_close(criss_cross_context(*inputs), criss_cross_context(*channels_last))
    cropped = [torch.randn(2, x.shape[1], 9, 13, dtype=torch.float64)[:, :, 1:8, 2:] for x in inputs]
    torch.testing.assert_close(criss_cross_context(*cropped), by_loops(*cropped))


def test_backward_keeps_the_inputs_and_the_weights() -> None:
    inputs, saved = maps(1, (7, 11)), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        criss_cross_context(*inputs)
    assert sum(x.numel() for x in saved) == 77 * (3 + 3 + 5) + 77 * (7 + 11)


def test_compiles_in_one_graph_forward_and_backward() -> None:
    inputs = maps(1, (7, 11))
    compiled = torch.compile(criss_cross_context, fullgraph=True, backend="aot_eager")(*inputs)
    eager = criss_cross_context(*inputs)
    torch.testing.assert_close(compiled, eager)
    expected = torch.autograd.grad(eager.sum(), inputs)
    torch.testing.assert_close(torch.autograd.grad(compiled.sum(), inputs), expected)


def test_operator_is_registered_as_torch_asks() -> None:
    q, k, v = (x.permute(0, 2, 3, 1) for x in maps(2, (3, 4)))
    torch.library.opcheck(torch.ops.segnl.criss_cross.default, (q, k, v), test_utils=("test_schema", "test_faketensor"))


def test_flops_are_those_of_rows_and_columns() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    inputs = maps(2, (7, 11))
    with FlopCounterMode(display=False) as forward:
        context = criss_cross_context(*inputs)
    with FlopCounterMode(display=False) as backward:
        context.sum().backward()
    weights = 2 * 77 * (7 + 11)
    assert forward.get_total_flops() == 2 * weights * (3 + 5)
    assert backward.get_total_flops() == 4 * weights * (3 + 5)


def test_a_second_derivative_is_refused() -> None:
    inputs = maps(1, (3, 4))
    (grad,) = torch.autograd.grad(criss_cross_context(*inputs).pow(2).sum(), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.sum().backward()


def test_an_exported_graph_holds_torch_operators_only() -> None:
    class Context(torch.nn.Module):
        def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return criss_cross_context(query, key, value)

    inputs = [x.detach() for x in maps(1, (7, 11))]
    program = torch.export.export(Context(), tuple(inputs))
    assert not [node for node in program.graph.nodes if "segnl" in str(node.target)]
    torch.testing.assert_close(program.module()(*inputs), criss_cross_context(*inputs))


def test_wrong_arguments_are_named() -> None:
    query, key, value = (x.detach() for x in maps(2, (7, 11)))
    with pytest.raises(ValueError, match=r"key: shape \(2, 2, 7, 11\); expected `b c h w` with b=2, c=3"):
        criss_cross_context(query, key[:, :2], value)
    with pytest.raises(ValueError, match=r"value: shape \(2, 5, 11, 7\); expected `b d h w` with b=2, d=5, h=7, w=11"):
        criss_cross_context(query, key, value.mT)
    with pytest.raises(ValueError, match=r"query: shape \(3, 7, 11\); expected 4 axes `b c h w`"):
        criss_cross_context(query[0], key, value)
    with pytest.raises(ValueError, match=r"query: shape \(2, 3, 0, 11\) is empty"):
        criss_cross_context(query[:, :, :0], key, value)
    with pytest.raises(ValueError, match=r"value: torch.float32; expected torch.float64, the dtype of query"):
        criss_cross_context(query, key, value.float())
    with pytest.raises(ValueError, match=r"query: torch.int64; expected float32"):
        criss_cross_context(query.long(), key, value)


@pytest.mark.parametrize("hw", [(7, 11), (1, 11), (7, 1)])
def test_images_of_a_group_are_those_computed_one_by_one(hw: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = maps(5, hw, torch.float32)
    grad_output = torch.randn(5, 5, *hw)

    def context_and_grads(group_numbers: int) -> list[Tensor]:
        monkeypatch.setattr("segnl.ops.kernels.criss_cross.GROUP_NUMBERS", group_numbers)
        context = criss_cross_context(*inputs)
        return [context, *torch.autograd.grad(context, inputs, grad_output)]

    alone = context_and_grads(1)
    for group_numbers in (2 * (7 * 11 * 18 + 7 * 11 * 5), 10**9):  # two images and one left over, and all five
        # float32 sums of at most 18 terms, in another order where memory is aligned otherwise
        torch.testing.assert_close(context_and_grads(group_numbers), alone, rtol=1e-5, atol=1e-6)
