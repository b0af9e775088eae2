"""What every head in segnl/models/heads keeps; a new head is tested by its file's presence."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segnl.models.find import HEADS
from segnl.models.initialisation import initialise
from segnl.models.segmenter import Segmenter, model_config

HEAD_NAMES = HEADS.names()
CHANNELS = (4, 8, 12, 16)


def head_of(name: str, **settings: Any) -> nn.Module:
    kind = HEADS.find(name)
    head = kind(kind.Config(name=name, channels=8, **settings), CHANNELS, 3)
    initialise(head, 0)
    return head


def awake(model: nn.Module) -> nn.Module:
    """The model with parameters and running statistics away from their initial values, so that every branch acts."""
    torch.manual_seed(1)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(
                torch.rand_like(tensor) + 0.5 if name.endswith("running_var") else torch.randn_like(tensor) / 3
            )
    return model


def stages(batch: int, h: int, w: int) -> list[Tensor]:
    torch.manual_seed(2)
    return [torch.randn(batch, channels, h, w) for channels in CHANNELS]


def segmenter(name: str) -> Segmenter:
    mapping = {
        "backbone": {"name": "resnet", "depth": 18, "width": 0.0625},
        "head": {"name": name, "channels": 8},
        "aux": {"channels": 8},
    }
    model = Segmenter(model_config(mapping, file="test"), num_classes=3)
    initialise(model, 5)
    return model


@pytest.mark.parametrize("name", HEAD_NAMES)
@pytest.mark.parametrize(("batch", "h", "w"), [(2, 7, 11), (1, 7, 11), (1, 1, 5), (2, 1, 1)])
def test_context_has_the_stages_size_and_out_channels(name: str, batch: int, h: int, w: int) -> None:
    head = head_of(name).train(batch > 1)
    context = head(stages(batch, h, w)).context
    assert context.shape == (batch, head.out_channels, h, w)
    assert context.isfinite().all()


@pytest.mark.parametrize("name", HEAD_NAMES)
def test_every_parameter_of_the_head_learns_at_batch_one(name: str) -> None:
    head = awake(head_of(name)).train()
    out = head(stages(1, 7, 11))
    torch.stack([each.square().sum() for each in (out.context, *out.aux_logits.values())]).sum().backward()
    learning = [parameter for parameter in head.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in learning)


@pytest.mark.parametrize("name", HEAD_NAMES)
def test_gradient_of_a_batch_of_one_is_that_of_the_first_of_two(name: str) -> None:
    """torch's batch norm can return wrong gradients for a batch of 1 with unusual strides."""
    head = awake(head_of(name)).eval()
    both = [stage.requires_grad_() for stage in stages(2, 7, 11)]
    cotangent = torch.randn(2, head.out_channels, 7, 11)
    (of_two,) = torch.autograd.grad((head(both).context * cotangent)[:1].sum(), both[3])
    (of_one,) = torch.autograd.grad((head([stage[:1] for stage in both]).context * cotangent[:1]).sum(), both[3])
    torch.testing.assert_close(of_one, of_two, rtol=1e-3, atol=1e-3 * float(of_two.abs().max()))  # other kernels


@pytest.mark.parametrize("name", HEAD_NAMES)
def test_channels_last_gives_the_same_context(name: str) -> None:
    head = awake(head_of(name)).eval()
    plain = head(stages(2, 7, 11)).context
    head.to(memory_format=torch.channels_last)
    other = head([stage.contiguous(memory_format=torch.channels_last) for stage in stages(2, 7, 11)]).context
    torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", HEAD_NAMES)
def test_a_head_runs_in_bfloat16_under_autocast(name: str) -> None:
    head = awake(head_of(name)).eval()
    with torch.autocast("cpu", torch.bfloat16):
        context = head(stages(2, 7, 11)).context
    full = head(stages(2, 7, 11)).context
    assert (context.float() - full).abs().max() < 0.1 * full.abs().max()  # 8 bits through three convolutions


@pytest.mark.parametrize("name", HEAD_NAMES)
def test_a_head_reads_only_its_own_stages(name: str) -> None:
    head = awake(head_of(name)).eval()
    own = {*head.in_stages, getattr(head, "coarse_stage", None), getattr(head, "low_stage", None)}
    alone: list[Any] = [stage if index in own else None for index, stage in enumerate(stages(2, 7, 11))]
    assert torch.equal(head(alone).context, head(stages(2, 7, 11)).context)


@pytest.mark.parametrize("name", HEAD_NAMES)
def test_auxiliary_logits_have_the_classes_and_a_weight_each(name: str) -> None:
    head = head_of(name).train()
    logits = head(stages(2, 7, 11)).aux_logits
    assert all(each.shape == (2, 3, 7, 11) for each in logits.values())
    assert set(head.aux_weights) == set(logits)


@pytest.mark.parametrize("name", HEAD_NAMES)
def test_initial_values_depend_on_the_seed_alone(name: str) -> None:
    first = head_of(name).state_dict()
    torch.manual_seed(99)
    assert all(torch.equal(value, first[path]) for path, value in head_of(name).state_dict().items())


@pytest.mark.parametrize("name", HEAD_NAMES)
def test_initial_weights_agree_with_fcn_wherever_path_and_shape_agree(name: str) -> None:
    control, other = segmenter("fcn").state_dict(), segmenter(name).state_dict()
    common = [path for path in control if path in other and control[path].shape == other[path].shape]
    assert {"classifier.weight", "auxiliary.conv.conv.weight", "backbone.layer4.1.conv2.weight"} <= set(common)
    assert all(torch.equal(control[path], other[path]) for path in common)


def test_initial_weights_of_any_two_heads_agree_wherever_path_and_shape_agree() -> None:
    heads = [*map(head_of, HEAD_NAMES), head_of("non_local", pairwise="concatenation")]
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
