"""The pairwise functions against loops over pairs of positions in float64."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from segnl.ops import non_local
from segnl.ops.non_local import (
    concatenation_context,
    dot_product_context,
    reference_concatenation_context,
    reference_dot_product_context,
    reference_softmax_context,
    softmax_context,
)

Context = Callable[[Tensor, Tensor, Tensor], Tensor]


def scaled_softmax(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
    return softmax_context(theta, phi, g, scale=0.7)


def by_loops(kind: str, theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
    """The weighted sum over all positions, one position after another."""
    theta, phi, g = theta.double(), phi.double(), g.double()
    out = []
    for i in range(theta.shape[-1]):
        query = theta[..., i]  # b c, or b
        if kind in ("softmax", "tiles"):
            scores = torch.stack([0.7 * (query * phi[..., j]).sum(-1) for j in range(phi.shape[-1])], dim=-1)  # b m
            weights = scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
        elif kind == "dot_product":
            scores = torch.stack([(query * phi[..., j]).sum(-1) for j in range(phi.shape[-1])], dim=-1)
            weights = scores / phi.shape[-1]
        else:
            weights = (query[:, None] + phi).clamp(min=0) / phi.shape[-1]
        out.append(sum(weights[:, j, None] * g[:, :, j] for j in range(phi.shape[-1])))  # b d
    return torch.stack(out, dim=-1)  # type: ignore[arg-type]


KINDS: dict[str, Context] = {
    "softmax": scaled_softmax,  # the plain form, since most tests have few positions m
    "tiles": scaled_softmax,
    "dot_product": dot_product_context,
    "concatenation": concatenation_context,
}
PLAIN: dict[str, Context] = {
    "softmax": partial(reference_softmax_context, scale=0.7),
    "tiles": partial(reference_softmax_context, scale=0.7),
    "dot_product": reference_dot_product_context,
    "concatenation": reference_concatenation_context,
}


@pytest.fixture(autouse=True)
def tiles_for_small_maps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the kind `tiles` use tiles, however small the map."""
    if getattr(request.node, "callspec", None) and request.node.callspec.params.get("kind") == "tiles":
        monkeypatch.setattr(non_local, "MAX_PLAIN_POSITIONS", 0)


def maps(kind: str, b: int, n: int, m: int, d: int, dtype: torch.dtype = torch.float64, c: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(b, n), (b, m), (b, d, m)] if kind == "concatenation" else [(b, c, n), (b, c, m), (b, d, m)]
    return [torch.randn(s, dtype=torch.float64, generator=generator).to(dtype).requires_grad_() for s in shapes]


def gradients(context: Context, inputs: list[Tensor], grad_output: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(context(*inputs), inputs, grad_output))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("b", "n", "m", "d"), [(2, 77, 77, 4), (1, 77, 20, 3), (2, 5, 77, 6), (1, 1, 1, 1)])
def test_context_and_gradients_match_a_loop_over_pairs(kind: str, b: int, n: int, m: int, d: int) -> None:
    inputs = maps(kind, b, n, m, d)
    expected = by_loops(kind, *inputs)
    grad_output = torch.randn_like(expected)
    exact_grads = torch.autograd.grad(expected, inputs, grad_output)
    torch.testing.assert_close(KINDS[kind](*inputs), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(PLAIN[kind](*inputs), expected, rtol=1e-12, atol=1e-12)
    for near, exact in zip(gradients(KINDS[kind], inputs, grad_output), exact_grads, strict=True):
        torch.testing.assert_close(near, exact, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [4, 3])
def test_gradcheck(kind: str, d: int) -> None:
    assert torch.autograd.gradcheck(KINDS[kind], maps(kind, 1, 7, 11, d))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [4, 6])  # as many channels in g as in theta, or not: two kernels
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 3e-6), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)],  # a few roundings of the dtype
)
def test_every_dtype_stays_near_float64(kind: str, d: int, dtype: torch.dtype, tolerance: float) -> None:
    inputs = maps(kind, 2, 77, 30, d, dtype)
    precise = [x.detach().double().requires_grad_() for x in inputs]
    context, exact_context = KINDS[kind](*inputs), KINDS[kind](*precise)
    assert context.dtype == dtype
    grad_output = torch.randn_like(context)
    results = [context, *gradients(KINDS[kind], inputs, grad_output)]
    exact_results = [exact_context, *gradients(KINDS[kind], precise, grad_output.double())]
    for near, exact in zip(results, exact_results, strict=True):
        assert (near.double() - exact).abs().max() <= tolerance * exact.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_sums_over_many_positions_do_not_suffer_in_half_precision(kind: str) -> None:
    """4,000 equal summands: a float16 sum would overflow, a bfloat16 sum would stop growing at 256 of them."""
    m = 4000
    scores = [torch.full((1, 1), 4.0), torch.full((1, m), 4.0)]
    features = [torch.full((1, 4, 1), 4.0), torch.full((1, 4, m), 4.0)]
    for dtype in (torch.bfloat16, torch.float16):
        inputs = scores if kind == "concatenation" else features
        context = KINDS[kind](*(x.to(dtype) for x in inputs), torch.full((1, 4, m), 8.0, dtype=dtype))
        expected = {"softmax": 8.0, "tiles": 8.0, "dot_product": 512.0, "concatenation": 64.0}[kind]
        torch.testing.assert_close(context, torch.full_like(context, expected))


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_takes_mixed_dtypes_and_accumulates_in_float32(kind: str) -> None:
    inputs = maps(kind, 1, 77, 2000, 6, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        context = KINDS[kind](inputs[0], inputs[1].bfloat16(), inputs[2].bfloat16())
    assert context.dtype == torch.bfloat16
    rounded = [x.detach().bfloat16().double() for x in inputs]
    if kind == "concatenation":
        rounded[0] = inputs[0].detach().double()  # scores are added, not multiplied by a matrix, and keep float32
    exact = KINDS[kind](*rounded)
    assert (context.double() - exact).abs().max() <= 2**-7 * exact.abs().max()
    context.float().sum().backward()
    assert all(x.grad is not None and x.grad.dtype == torch.float32 for x in inputs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [4, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_large_scores_stay_finite(kind: str, d: int, dtype: torch.dtype) -> None:
    inputs = maps(kind, 1, 77, 77, d, dtype)
    inputs = [(x.detach() * (10 if x is inputs[2] else 50)).requires_grad_() for x in inputs]
    context = KINDS[kind](*inputs)
    grads = torch.autograd.grad(context.float().mean(), inputs)
    assert all(x.isfinite().all() for x in (context, *grads))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [8, 24])
def test_no_tensor_of_all_pairs_is_kept_for_backward(kind: str, d: int) -> None:
    """At 33 x 33 there are 1.2 million pairs; the operator keeps a few maps."""
    inputs, saved = maps(kind, 1, 1089, 1089, d, torch.float32, c=8), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        context = KINDS[kind](*inputs)
    assert sum(x.numel() for x in saved) <= 3 * sum(x.numel() for x in inputs)
    assert type(context.grad_fn).__name__ != "SafeSoftmaxBackward0"


@pytest.mark.parametrize("kind", KINDS)
def test_memory_layout_of_the_inputs_does_not_matter(kind: str) -> None:
    inputs = maps(kind, 2, 30, 77, 4)
    others = [*inputs[:2], inputs[2].mT.contiguous().mT]
    torch.testing.assert_close(KINDS[kind](*others), KINDS[kind](*inputs))


@pytest.mark.parametrize(
    ("kind", "d"), [("softmax", 4), ("tiles", 4), ("tiles", 6), ("dot_product", 6), ("concatenation", 6)]
)
def test_compiles_in_one_graph_forward_and_backward(kind: str, d: int) -> None:
    inputs = maps(kind, 1, 77, 30, d)
    compiled = torch.compile(KINDS[kind], fullgraph=True, backend="aot_eager")(*inputs)
    eager = KINDS[kind](*inputs)
    torch.testing.assert_close(compiled, eager)
    expected = torch.autograd.grad(eager.sum(), inputs)
    torch.testing.assert_close(torch.autograd.grad(compiled.sum(), inputs), expected)


def test_operators_are_registered_as_torch_asks() -> None:
    tests = ("test_schema", "test_faketensor")
    a, b, g = maps("concatenation", 2, 7, 11, 3)
    torch.library.opcheck(torch.ops.segnl.relu_sum.default, (a, b, g.mT, 2), test_utils=tests)
    q, k, v = (x.mT.contiguous() for x in maps("softmax", 2, 7, 11, 3))
    torch.library.opcheck(torch.ops.segnl.blocked_attention.default, (q, k, v, 0.5), test_utils=tests)


def test_an_exported_graph_holds_torch_operators_only() -> None:
    class Contexts(torch.nn.Module):
        def forward(self, theta: Tensor, phi: Tensor, g: Tensor) -> tuple[Tensor, ...]:
            concatenation = concatenation_context(theta[:, 0], phi[:, 0], g)
            return softmax_context(theta, phi, g), dot_product_context(theta, phi, g), concatenation

    inputs = [x.detach() for x in maps("softmax", 1, 77, 30, 6)]
    program = torch.export.export(Contexts(), tuple(inputs))
    assert not [node for node in program.graph.nodes if "segnl" in str(node.target)]
    torch.testing.assert_close(program.module()(*inputs), Contexts()(*inputs))


def flops(kind: str, d: int) -> tuple[int, int]:
    inputs = maps(kind, 2, 77, 130, d)
    with FlopCounterMode(display=False) as forward:
        context = KINDS[kind](*inputs)
    with FlopCounterMode(display=False) as backward:
        context.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


def test_flops_of_every_form_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, positions = 2 * 77 * 130, 2 * (77 + 130)
    assert flops("softmax", 6) == (2 * pairs * 10, 4 * pairs * 10)
    monkeypatch.setattr(non_local, "MAX_PLAIN_POSITIONS", 0)
    assert flops("softmax", 4) == (2 * pairs * 8, 2 * pairs * 20)
    assert flops("softmax", 6) == (2 * pairs * 10, 2 * pairs * (3 * 4 + 2 * 6))
    assert flops("dot_product", 6) == (2 * positions * 4 * 6, 4 * positions * 4 * 6)
    # Two tables of 3 blocks of 64 knots, and a multiply-add for each knot and each position i.
    forward = 2 * 2 * 6 * (2 * 192 * 64 + 192 + 77)
    # Backward: two tables of 2 blocks for g, one of 3 blocks for a, and a product over channels for each score.
    backward = 2 * 2 * 6 * (2 * 128 * 64 + 128 + 130 + 192 * 64 + 77 + 130)
    assert flops("concatenation", 6) == (forward, backward)


def test_a_bad_argument_is_named() -> None:
    theta, phi, g = (x.detach() for x in maps("softmax", 2, 7, 11, 3))
    for context in (softmax_context, dot_product_context):
        with pytest.raises(ValueError, match=r"phi: shape \(2, 3, 11\); expected `b c m` with b=2, c=4"):
            context(theta, phi[:, :3], g)
        with pytest.raises(ValueError, match=r"g: shape \(2, 3, 10\); expected `b d m` with b=2, d=3, m=11"):
            context(theta, phi, g[:, :, :10])
        with pytest.raises(ValueError, match=r"theta: shape \(2, 4, 0\) is empty; expected `b c n`, each at least 1"):
            context(theta[:, :, :0], phi, g)
        with pytest.raises(ValueError, match=r"theta: shape \(2, 4, 1, 7\); expected 3 axes `b c n`"):
            context(theta[:, :, None], phi, g)
        with pytest.raises(ValueError, match=r"phi: torch.float16; expected torch.float64, the dtype of theta"):
            context(theta, phi.half(), g)
    with pytest.raises(ValueError, match=r"phi_score: shape \(2, 10\)|g: shape \(2, 3, 11\); expected `b d m`"):
        concatenation_context(theta[:, 0], phi[:, 0, :10], g)
    with pytest.raises(ValueError, match=r"theta_score: torch.int64; expected float32, float64, bfloat16 or float16"):
        concatenation_context(theta[:, 0].long(), phi[:, 0], g)


@pytest.mark.parametrize("kind", KINDS)
def test_meta_tensors_give_a_shape(kind: str) -> None:
    context = KINDS[kind](*(x.to("meta") for x in maps(kind, 2, 7, 11, 3)))
    assert (context.shape, context.device.type) == ((2, 3, 7), "meta")


def test_context_of_one_position_is_its_own_value() -> None:
    theta, phi, g = maps("softmax", 2, 1, 1, 3)
    torch.testing.assert_close(softmax_context(theta, phi, g), g)
    torch.testing.assert_close(dot_product_context(theta, phi, g), (theta * phi).sum(dim=1, keepdim=True) * g)
