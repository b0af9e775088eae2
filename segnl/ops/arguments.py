"""Checks that all operators make of their arguments: axes that agree, one floating dtype, one device, nothing empty."""

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype in which sums over positions are taken: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def agree(*arguments: tuple[str, Tensor, str], autocasts: bool = True) -> tuple[Tensor, ...]:
    """Checks (name, tensor, axes) triples such as ("theta", theta, "b c n") against one another; returns the tensors.

    Under autocast dtypes may differ, and the tensors are returned in autocast's dtype (float64 stays), as for torch's
    matrix products; with autocasts=False, or outside autocast, they are returned unchanged.

    Raises ValueError, naming the argument, for one that is no dense tensor, or whose number of axes, size, dtype or
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
                known_sizes = ", ".join(f"{known}={sizes[known]}" for known in letters if known in sizes)
                raise ValueError(f"{name}: shape {tuple(tensor.shape)}; expected `{axes}` with {known_sizes}")
        if tensor.dtype not in FLOATS:
            raise ValueError(f"{name}: {tensor.dtype}; expected float32, float64, bfloat16 or float16")
    first_name, first, _ = arguments[0]
    tensors = tuple(tensor for _, tensor, _ in arguments)
    for name, tensor, _ in arguments:
        if tensor.device != first.device:
            raise ValueError(f"{name}: on {tensor.device}; expected {first.device}, where {first_name} is")
    device = first.device.type
    is_autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if is_autocast and all(tensor.dtype != torch.float64 for tensor in tensors):
        return tuple(tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors) if autocasts else tensors
    for name, tensor, _ in arguments:
        if tensor.dtype != first.dtype:
            raise ValueError(f"{name}: {tensor.dtype}; expected {first.dtype}, the dtype of {first_name}")
    return tensors


def only_reverse_mode(operator: str, *tensors: Tensor) -> None:
    """Refuses forward-mode derivatives, which torch would silently take as zero for an operator registered here.

    Raises RuntimeError under torch.func.jvp, jacfwd and torch.autograd.forward_ad.
    """
    if not torch.compiler.is_compiling() and any(unpack_dual(x).tangent is not None for x in tensors):
        raise RuntimeError(f"{operator}: no forward-mode derivative (torch.func.jvp, jacfwd); use backward or vjp")


def is_exporting() -> bool:
    """Returns True while a graph is written for another runtime (torch.export, ONNX), which lacks these operators."""
    return torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()


def with_adjacent_channels(rows: Tensor) -> Tensor:
    """Returns `.. c` with the channels of a position adjacent in memory; copies only where they are not."""
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def no_autocast(x: Tensor) -> torch.autocast:
    """Returns a context without autocast on x's device, whose products would else be rounded to half precision."""
    return torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False)  # the meta device has no autocast
