"""How operators are registered."""

import subprocess
import sys

import torch

from segnl.ops.criss_cross import criss_cross
from segnl.ops.library import LIBRARY


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
