"""What every head in segnl/models/heads keeps; a new head is tested by its file's presence."""

from typing import Any

import pytest
import torch
from torch import Tensor

from segnl.models.find import HEADS
from segnl.models.initialisation import initialise
from segnl.models.segmenter import Segmenter, model_config
from segnl.testing import awake, check_head, new_head, stages

HEAD_NAMES = HEADS.names()


def segmenter(name: str) -> Segmenter:
    mapping = {
        "backbone": {"name": "resnet", "depth": 18, "width": 0.0625},
        "head": {"name": name} | ({"channels": 8} if "channels" in HEADS.find(name).Config.model_fields else {}),
        "aux": {"channels": 8},
    }
    model = Segmenter(model_config(mapping, file="test"), num_classes=3)
    initialise(model, 5)
    return model


@pytest.mark.parametrize("name", HEAD_NAMES)
def test_heads_keep_the_contract_of_every_head(name: str) -> None:
    check_head(name)


@pytest.mark.parametrize("name", HEAD_NAMES)
def test_a_head_reads_only_its_own_stages(name: str) -> None:
    head = new_head(name)
    awake(head).eval()
    own = {*head.in_stages, getattr(head, "coarse_stage", None), getattr(head, "low_stage", None)}
    alone: list[Any] = [stage if index in own else None for index, stage in enumerate(stages(2, 7, 11))]
    assert torch.equal(head(alone).context, head(stages(2, 7, 11)).context)


@pytest.mark.parametrize("name", HEAD_NAMES)
def test_auxiliary_logits_have_the_classes_and_a_weight_each(name: str) -> None:
    head = new_head(name).train()
    logits = head(stages(2, 7, 11)).aux_logits
    assert all(each.shape == (2, 3, 7, 11) for each in logits.values())
    assert set(head.aux_weights) == set(logits)


@pytest.mark.parametrize("name", HEAD_NAMES)
def test_initial_weights_agree_with_fcn_wherever_path_and_shape_agree(name: str) -> None:
    control, other = segmenter("fcn").state_dict(), segmenter(name).state_dict()
    common = [path for path in control if path in other and control[path].shape == other[path].shape]
    assert {"auxiliary.conv.conv.weight", "backbone.layer4.1.conv2.weight"} <= set(common)
    assert "classifier.weight" in common or name == "linear"  # which has the stage's channels
    assert all(torch.equal(control[path], other[path]) for path in common)


def test_initial_weights_of_any_two_heads_agree_wherever_path_and_shape_agree() -> None:
    heads = [*map(new_head, HEAD_NAMES), new_head("non_local", pairwise="concatenation")]
    first: dict[tuple[str, Any], Tensor] = {}
    for head in heads:
        for path, value in head.state_dict().items():
            assert torch.equal(value, first.setdefault((path, value.shape), value)), path


@pytest.mark.parametrize("name", HEAD_NAMES)
def test_a_heads_dropout_does_not_change_the_classifiers_random_numbers(name: str) -> None:
    image, noise = torch.randn(2, 3, 57, 41), []
    for head in ("fcn", name):
        model = segmenter(head).train()
        seen: list[Tensor] = []
        for dropout in (model.auxiliary.dropout, model.dropout):
            dropout.register_forward_hook(
                lambda module, inputs, out, seen=seen: seen.append((out == 0) & (inputs[0] != 0))
            )
        torch.manual_seed(3)
        model(image)
        noise.append(seen)
    control, other = noise
    assert control[1].shape != other[1].shape or torch.equal(control[1], other[1])
    assert torch.equal(control[0].flatten(2).any(2), other[0].flatten(2).any(2))


@pytest.mark.parametrize("name", ["rcca", "non_local", "dnl", "gc"])
def test_a_new_attention_head_is_the_control_bit_for_bit(name: str) -> None:
    image = torch.randn(2, 3, 57, 41)
    control, other = segmenter("fcn").eval(), segmenter(name).eval()
    assert torch.equal(other(image).main, control(image).main)


def test_rcca_with_gamma_zero_trains_like_fcn_bit_for_bit() -> None:
    """In training too: the same logits and the same gradients of everything but the attention."""
    image = torch.randn(2, 3, 57, 41)
    gradients = []
    for name in ("fcn", "rcca"):
        model = segmenter(name).train()
        torch.manual_seed(0)
        model(image).main.square().sum().backward()
        gradients.append({path: parameter.grad for path, parameter in model.named_parameters()})
    control, other = gradients
    assert torch.equal(other["head.shell.convs.1.conv.weight"], control["head.shell.convs.1.conv.weight"])
    assert torch.equal(other["classifier.weight"], control["classifier.weight"])
    assert other["head.shell.context.gamma.scale"] != 0
