"""Reading weight files of any origin without running code in them."""

import io
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from torch import Tensor

from segnl.core.errors import CheckpointError, first_line
from segnl.core.files import read_bytes

# Objects that training frameworks store beside the tensors, and those that numpy values consist of. They are read as
# `Inert`: their code is neither imported nor called.
_HARMLESS = ("mmengine.", "mmcv.", "mmseg.", "numpy.", "argparse.", "pathlib.", "omegaconf.", "addict.")
_HARMLESS_NAMES = ("_codecs.encode", "__builtin__.getattr", "builtins.getattr", "__builtin__.set", "builtins.set")
MOST_REPEATED = 4
"""Bytes of tensors to those that the file holds; tied weights are there once, and a small file could stand for any."""
_WRAPPERS = ("state_dict", "model", "model_state_dict", "module")
_PREFIXES = {"module", "_orig_mod", "model", "net", "network"}
"""First names of DistributedDataParallel, of torch.compile, and of the usual attributes of Lightning's modules."""


MAX_TUPLE = 2**17
"""Values in a tuple and in the tuples in it, which count twice at each level: 16 levels, or 65,535 values in one."""
MAX_HASHED = 2**26
"""Values in all tuples that may be keys of dictionaries: their hashes take about a second."""


class Inert:
    """Stand-in for a pickled object: accepts all arguments and does nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass

    def __call__(self, *_: object, **__: object) -> "Inert":
        """Returns another stand-in."""
        return Inert()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Returns the content of a .safetensors file or a file of torch.save, on the CPU.

    torch.load runs with weights_only=True. Raises CheckpointError when the file is missing, damaged, or wants to run
    code.
    """
    if not path.is_file():
        reason = "is a folder, a pipe or a device" if path.exists() else "no such file"
        raise CheckpointError(f"{path}: {reason}; give the path of a .safetensors or .pth file")
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load(read_bytes(path)))  # load_file reads no name that is not UTF-8
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\3\4"  # as torch tells; since torch 1.6, without compression
            file.seek(0)
            if is_zip:
                with zipfile.ZipFile(file) as archive:
                    if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                        raise ValueError("unpacks to more bytes than it has, unlike a file of torch.save")
                file.seek(0)
                _require_small_values(io.BytesIO(torch._C.PyTorchFileReader(file).get_record("data.pkl")), 1)
            else:
                _require_small_values(file, 5)
        # Classes and functions that the file names; the older format's cannot be listed.
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path) if is_zip else []
        harmless = [name for name in names if name.startswith(_HARMLESS) or name in _HARMLESS_NAMES]
        stand_ins: list[Any] = [(type("Inert", (Inert,), {}), name) for name in harmless]  # others stay forbidden
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about sparse and quantised tensors: ours name them
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        forbidden = re.search(r"GLOBAL ([\w.]+)", str(err))
        reason = f" and wants to call {forbidden.group(1)}" if forbidden else ""
        raise CheckpointError(f"{path}: holds more than tensors{reason}; nothing of it was run") from err
    except Exception as err:  # a damaged or hostile pickle makes the reader raise nearly anything
        raise CheckpointError(
            f"{path}: damaged or not a weight file ({first_line(err)[:200]}); fetch it again"
        ) from err
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds {type(content).__name__}, expected tensors by name")
    # Plain dictionaries: an OrderedDict of a pickle may have an attribute `items` of its own.
    is_read = (*_WRAPPERS, "meta")
    return {k: dict(dict.items(v)) if k in is_read and isinstance(v, dict) else v for k, v in dict.items(content)}


def _require_small_values(file: IO[bytes], num_pickles: int) -> None:
    """Raises ValueError for tuples whose hashes take years: 45 that each hold the one before twice, or one many times.

    And for a bytearray, which a few bytes make of any length. The stack is that of torch's reader: what torch reads in
    another way it refuses.
    """
    for _ in range(num_pickles):
        sizes: list[int] = []  # of the values on the stack: of a tuple, with all values in it; 0: a mark; -1: a class
        memo: dict[Any, int] = {}
        num_held = num_hashed = 0  # values of tuples that containers have got, and of those that may be hashed
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in ("GET", "BINGET", "LONG_BINGET"):
                sizes.append(memo.get(argument, 1))
            elif opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
                memo[len(memo) if argument is None else argument] = sizes[-1]
            elif opcode.name == "MARK":
                sizes.append(0)
            elif opcode.name == "GLOBAL" and str(argument).endswith(" bytearray"):
                raise pickle.UnpicklingError("GLOBAL bytearray")
            elif opcode.name == "GLOBAL" and str(argument).endswith((" OrderedDict", " Counter", " set")):
                sizes.append(-1)
            else:
                before = [kind.name for kind in opcode.stack_before]
                has_mark = "mark" in before
                place = len(sizes) - 1 - sizes[::-1].index(0) if has_mark else len(sizes)
                place -= before.index("mark") if has_mark else len(before)
                taken = sizes[place:]
                weight = {"TUPLE": 2, "REDUC": 1}.get(opcode.name[:5], 0)  # REDUCE makes torch.Size, too
                size = 1 + weight * sum(map(abs, taken))
                if weight < 2:
                    num_held += sum(own for own in taken if own > 1)
                if opcode.name == "REDUCE" and taken[0] == -1 and taken[1] > 1:  # a set of all values of a list, say
                    num_hashed += num_held
                if size > MAX_TUPLE or num_held + num_hashed > MAX_HASHED:
                    raise ValueError("a tuple of too many values or levels, or tuples too often")
                sizes[place:] = [size] * len(opcode.stack_after)


def tensors_in(content: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """Returns the tensors by name without the wrappers of training scripts.

    Opens `{"state_dict": ...}` and the like, and removes a prefix such as `module.` where all names have it.

    Raises CheckpointError when there are no tensors, or other values among them.
    """
    for key in _WRAPPERS:
        inner = content.get(key)
        if isinstance(inner, Mapping) and any(isinstance(value, Tensor) for value in inner.values()):
            content = inner
            break
    if not any(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{where}: no tensors; found the keys {', '.join(map(str, list(content)[:8]))}")
    wrong = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if wrong:
        raise CheckpointError(f"{where}: {listed(wrong)} not tensors; expected a state_dict")
    content = {name: torch.detach(value) for name, value in content.items()}  # without a pickle's own attributes
    odd = [
        str(name)
        for name, value in content.items()
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu"
    ]
    if odd:
        raise CheckpointError(f"{where}: {listed(odd)} sparse, quantised or without values; expected plain tensors")
    stored = {own.data_ptr(): own.nbytes() for own in (value.untyped_storage() for value in content.values())}
    if sum(value.nbytes for value in content.values()) > MOST_REPEATED * sum(stored.values()):
        raise CheckpointError(f"{where}: each value stands for several places; expected tensors that hold all values")
    tensors = {str(name): value for name, value in content.items()}
    while len(first := {name.partition(".")[0] for name in tensors}) == 1 and first <= _PREFIXES:
        tensors = {name.partition(".")[2]: value for name, value in tensors.items()}
    return tensors


def listed(names: list[str], most: int = 6) -> str:
    """Returns `a, b, c and 12 more`."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
