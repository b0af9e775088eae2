from typing import Any

import pytest
import torch
from torch import nn

from segnl.core.errors import ConfigError
from segnl.models.heads.base import HeadOutput
from segnl.models.segmenter import BatchNormConfig, Segmenter, model_config, new_segmenter, set_batch_norm


def model_settings(**over: Any) -> dict[str, Any]:
    backbone = {"name": "resnet", "depth": 18, "width": 0.0625}
    return {"backbone": backbone, "head": {"name": "rcca", "channels": 8}, "aux": {"channels": 8}} | over


def model_of(**over: Any) -> Segmenter:
    return new_segmenter(model_config(model_settings(**over), file="test.yaml"), num_classes=5, seed=0)


def test_logits_stay_at_feature_size() -> None:
    logits = model_of().train()(torch.randn(2, 3, 57, 41))
    assert logits.main.shape == (2, 5, 8, 6)
    assert logits.aux["auxiliary"].shape == (2, 5, 8, 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda out: out.context, r"RCCAHead returned a Tensor; expected HeadOutput\(context\)"),
        (lambda out: HeadOutput(out.context[:, 1:]), "RCCAHead returned 7 channels, but its out_channels is 8"),
    ],
)
def test_what_an_own_head_returns_is_checked(change: Any, message: str) -> None:
    model = model_of().eval()
    model.head.register_forward_hook(lambda module, inputs, out: change(out))
    with pytest.raises(ConfigError, match=message):
        model(torch.randn(1, 3, 33, 41))


def test_the_auxiliary_head_runs_in_training_only() -> None:
    assert model_of().eval()(torch.randn(1, 3, 33, 41)).aux == {}


def test_aux_null_builds_no_auxiliary_head() -> None:
    model = model_of(aux=None)
    assert not [name for name in model.state_dict() if name.startswith("auxiliary")]
    assert model.train()(torch.randn(2, 3, 33, 41)).aux == {}


def test_the_auxiliary_head_reads_its_configured_stage() -> None:
    assert model_of(aux={"channels": 8, "stage": 1}).auxiliary.conv.conv.in_channels == 8


def test_auxiliary_losses_have_their_configured_weights() -> None:
    head = {"name": "da", "channels": 8, "branch_weight": 0.7}
    weights = model_of(head=head, aux={"channels": 8, "weight": 0.3}).aux_weights
    assert weights == {"auxiliary": 0.3, "position": 0.7, "channel": 0.7}
    assert model_of(head={"name": "ocr", "channels": 8}, aux=None).aux_weights == {"coarse": 0.4}


def test_classifiers_start_with_small_weights_and_bias_zero() -> None:
    model = model_of(head={"name": "fcn", "channels": 512})
    assert model.classifier.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert model.classifier.bias.abs().max() == 0


def test_the_same_seed_gives_the_same_model() -> None:
    first, second = model_of().state_dict(), model_of().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_every_batch_norm_has_the_settings_of_the_recipe() -> None:
    model = model_of(batch_norm={"eps": 1e-3, "momentum": 0.01})
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}


def test_batch_norm_settings_reach_every_dimension() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm3d(2))
    set_batch_norm(model, BatchNormConfig(eps=0.5))
    assert [norm.eps for norm in model] == [0.5, 0.5]


def test_align_corners_reaches_the_head() -> None:
    assert model_of(align_corners=True).head.align_corners


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"head": {"name": "rcca", "recurence": 2}}, "model.head.recurence: unknown key; did you mean 'recurrence'?"),
        ({"head": {"name": "rca"}}, "test.yaml: model.head.name: holds 'rca'; did you mean 'rcca'?"),
        ({"head": {"channels": 8}}, "test.yaml: model.head.name: missing; add it"),
        ({"head": {"name": "rcca", "recurrence": 0}}, "test.yaml: model.head.recurrence: holds 0"),
        ({"backbone": {"name": "resnet", "dept": 18}}, "model.backbone.dept: unknown key; did you mean 'depth'?"),
        ({"align_corner": True}, "model.align_corner: unknown key; did you mean 'align_corners'?"),
    ],
)
def test_a_wrong_setting_is_reported_with_its_dotted_path(over: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        model_config(model_settings(**over), file="test.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_survive_a_round_trip_through_plain_values() -> None:
    cfg = model_config(model_settings(), file="test.yaml")
    assert model_config(cfg.model_dump(), file="test.yaml").model_dump() == cfg.model_dump()


def test_one_image_of_one_position_in_training_is_refused_in_a_line() -> None:
    message = r"^model: cannot take images of shape \(1, 3, 8, 8\) \(Expected more than 1 value per channel.*--debug"
    with pytest.raises(ConfigError, match=message):
        model_of().train()(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("error", "is_of_sizes"),
    [
        (AssertionError("height (8) must be divisible by window (7)"), True),
        (RuntimeError("Kernel size cannot be greater than actual input size"), True),
        (RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer"), False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), False),
    ],
)
def test_what_layers_say_about_sizes_is_one_line_and_other_errors_stay(
    error: Exception, is_of_sizes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = model_of().eval()
    monkeypatch.setattr(network.backbone, "forward", lambda image: (_ for _ in ()).throw(error))
    for call in (network, network.stages):
        with pytest.raises(ConfigError if is_of_sizes else RuntimeError):
            call(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("section", [None, 5, [1]])
def test_a_section_that_is_no_mapping_is_refused(section: Any) -> None:
    with pytest.raises(ConfigError, match=r"^q\.yaml: model: holds .*, expected keys"):
        model_config(section, file="q.yaml")
