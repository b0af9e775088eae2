"""The checks that all operators share; each operator's own tests hold its messages."""

import pytest
import torch

from segnl.ops.arguments import accumulation_dtype, agree, only_reverse_mode


def test_sums_are_taken_in_float32_except_float64() -> None:
    halves_and_single = (torch.float16, torch.bfloat16, torch.float32)
    assert [accumulation_dtype(dtype) for dtype in halves_and_single] == [torch.float32] * 3
    assert accumulation_dtype(torch.float64) == torch.float64


def test_autocast_casts_mixed_dtypes_to_its_own() -> None:
    x, y = torch.zeros(2, 3), torch.zeros(2, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"y: torch.bfloat16; expected torch.float32, the dtype of x"):
        agree(("x", x, "b n"), ("y", y, "b"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert [t.dtype for t in agree(("x", x, "b n"), ("y", y, "b"))] == [torch.bfloat16] * 2
        assert agree(("x", x, "b n"), ("y", y, "b"), autocasts=False) == (x, y)
        assert agree(("x", x.double(), "b n"))[0].dtype == torch.float64
        with pytest.raises(ValueError, match=r"y: torch.bfloat16; expected torch.float64"):
            agree(("x", x.double(), "b n"), ("y", y, "b"))


def test_tensors_on_two_devices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"y: on meta; expected cpu, where x is"):
        agree(("x", torch.zeros(2), "b"), ("y", torch.zeros(2, device="meta"), "b"))


def test_anything_but_a_dense_tensor_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"y: ndarray; expected a dense tensor `b n`"):
        agree(("x", torch.zeros(2), "b"), ("y", torch.zeros(2, 3).numpy(), "b n"))
    with pytest.raises(ValueError, match=r"x: torch.sparse_coo; expected a dense tensor `b n`"):
        agree(("x", torch.zeros(2, 3).to_sparse(), "b n"))


def test_forward_mode_is_refused_and_reverse_mode_is_not() -> None:
    def sine(x: torch.Tensor) -> torch.Tensor:
        only_reverse_mode("sine", x)
        return x.sin()

    x = torch.ones(3)
    torch.testing.assert_close(torch.func.grad(lambda y: sine(y).sum())(x), x.cos())
    with pytest.raises(RuntimeError, match=r"sine: no forward-mode derivative"):
        torch.func.jvp(sine, (x,), (x,))
