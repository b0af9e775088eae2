"""What every operator asks of its arguments: axes that agree, one floating dtype, one device, nothing empty."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums over positions are taken: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def agree(*arguments: tuple[str, Tensor, str], autocasts: bool = True) -> tuple[Tensor, ...]:
    """The tensors of (name, tensor, axes) triples such as ("theta", theta, "b c n"), checked against one another.

    Under autocast dtypes may differ, and the tensors are returned in autocast's dtype (float64 stays), as the matrix
    products of torch would take them; with autocasts=False and elsewhere they are returned as they came.

    Raises ValueError, naming the argument, where it is no dense tensor, or a number of axes, a size, a dtype or a
    device does not fit.
    """
    sizes: dict[str, int] = {}
    for name, tensor, axes in arguments:
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            kind = str(tensor.layout) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"{name}: {kind}; expected a dense tensor `{axes}`")
        letters = axes.split()
        if tensor.dim() != len(letters):
            raise ValueError(f"{name}: shape {tuple(tensor.shape)}; expected {len(letters)} axes `{axes}`")
        for letter, size in zip(letters, tensor.shape, strict=True):
            if size == 0:
                raise ValueError(f"{name}: shape {tuple(tensor.shape)} is empty; expected `{axes}`, each at least 1")
            if sizes.setdefault(letter, size) != size:
                known = ", ".join(f"{each}={sizes[each]}" for each in letters if each in sizes)
                raise ValueError(f"{name}: shape {tuple(tensor.shape)}; expected `{axes}` with {known}")
        if tensor.dtype not in FLOATS:
            raise ValueError(f"{name}: {tensor.dtype}; expected float32, float64, bfloat16 or float16")
    return _one_dtype(arguments, autocasts=autocasts)


def _one_dtype(arguments: Sequence[tuple[str, Tensor, str]], *, autocasts: bool) -> tuple[Tensor, ...]:
    first_name, first, _ = arguments[0]
    for name, tensor, _ in arguments[1:]:
        if tensor.device != first.device:
            raise ValueError(f"{name}: on {tensor.device}; expected {first.device}, where {first_name} is")
    device = first.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        target = torch.get_autocast_dtype(device)
        if all(tensor.dtype != torch.float64 for _, tensor, _ in arguments):
            return tuple(tensor.to(target) if autocasts else tensor for _, tensor, _ in arguments)
    for name, tensor, _ in arguments[1:]:
        if tensor.dtype != first.dtype:
            raise ValueError(f"{name}: {tensor.dtype}; expected {first.dtype}, the dtype of {first_name}")
    return tuple(tensor for _, tensor, _ in arguments)


def only_reverse_mode(operator: str, *tensors: Tensor) -> None:
    """Refuses forward-mode derivatives, which torch would let an operator of ours pass over as if they were zero.

    Raises RuntimeError under torch.func.jvp, jacfwd and torch.autograd.forward_ad.
    """
    if not torch.compiler.is_compiling() and any(unpack_dual(each).tangent is not None for each in tensors):
        raise RuntimeError(f"{operator}: no forward-mode derivative (torch.func.jvp, jacfwd); use backward or vjp")


def is_exporting() -> bool:
    """Whether a graph is being written for another runtime (torch.export, ONNX), which knows none of our operators."""
    return torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
