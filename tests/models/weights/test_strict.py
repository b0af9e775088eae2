import pytest
import torch
from torch import nn

from segnl.core.errors import CheckpointError
from segnl.models.weights.strict import ImportReport, load_strict, renamed


def model() -> nn.Module:
    return nn.ModuleDict({"conv": nn.Conv2d(2, 3, 1), "norm": nn.BatchNorm2d(3)})


NAMES = renamed({"conv": "theirs.c", "norm": "theirs.bn"})


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {NAMES(name): torch.rand_like(value.float()) for name, value in model().state_dict().items()}


def test_tensors_are_loaded_under_their_mapped_names() -> None:
    ours, theirs = model(), state()
    report = load_strict(ours, theirs, NAMES, where="file")
    assert torch.equal(ours["conv"].weight, theirs["theirs.c.weight"])
    assert report.num_used == len(theirs)


def test_a_missing_counter_is_set_to_zero_and_reported() -> None:
    ours, theirs = model(), state()
    del theirs["theirs.bn.num_batches_tracked"]
    report = load_strict(ours, theirs, NAMES, where="file")
    assert report.filled == ["theirs.bn.num_batches_tracked"]
    assert ours["norm"].num_batches_tracked == 0


def test_all_mismatches_are_reported_at_once() -> None:
    theirs = state()
    del theirs["theirs.c.bias"]
    theirs["theirs.extra"] = torch.zeros(1)
    theirs["theirs.bn.weight"] = torch.zeros(4)
    with pytest.raises(CheckpointError) as caught:
        load_strict(model(), theirs, NAMES, where="file.pth")
    text = str(caught.value)
    assert "missing: theirs.c.bias" in text
    assert "unknown: theirs.extra" in text
    assert "of another shape: theirs.bn.weight (4,) instead of (3,)" in text
    assert text.startswith("file.pth: ")


def test_a_missing_tensor_leaves_the_model_unchanged() -> None:
    ours, theirs = model(), state()
    before = ours["conv"].weight.clone()
    del theirs["theirs.bn.weight"]
    with pytest.raises(CheckpointError):
        load_strict(ours, theirs, NAMES, where="file")
    assert torch.equal(ours["conv"].weight, before)


def test_skipped_modules_keep_their_values() -> None:
    ours, theirs = model(), {name: value for name, value in state().items() if ".c." in name}
    ours["norm"].weight.data.fill_(7.0)
    load_strict(ours, theirs, NAMES, where="file", skip="norm.")
    assert ours["norm"].weight.tolist() == [7.0, 7.0, 7.0]


def test_the_longest_prefix_wins_and_ends_at_a_dot() -> None:
    rename = renamed({"a": "x", "a.b": "y"})
    assert [rename(name) for name in ("a.b.c", "a.c", "ab.c", "a", "z")] == ["y.c", "x.c", "ab.c", "x", "z"]


def test_the_report_as_lines() -> None:
    report = ImportReport(num_used=2, left_out={"fc.weight": "not of the backbone"}, notes=["mean assumed"])
    assert report.lines() == [
        "2 tensors used, 1 left out",
        "left out: fc.weight: not of the backbone",
        "note: mean assumed",
    ]


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float4_e2m1fn_x2])
def test_a_tensor_of_another_type_is_not_cast_in_silence(dtype: torch.dtype) -> None:
    theirs = state()
    theirs["theirs.bn.weight"] = torch.empty(3, dtype=dtype)
    with pytest.raises(CheckpointError, match=r"of another type: theirs\.bn\.weight \w+ instead of float32"):
        load_strict(model(), theirs, NAMES, where="file")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    theirs = {name: tensor.double() for name, tensor in state().items()}
    theirs["theirs.bn.weight"][1] = value
    with pytest.raises(CheckpointError, match=r"theirs\.bn\.weight NaN, infinite"):
        load_strict(model(), theirs, NAMES, where="file")
