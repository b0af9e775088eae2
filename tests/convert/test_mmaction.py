import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from segnl import video
from segnl.convert import from_mmaction
from segnl.convert.import_checkpoint import import_video
from segnl.core.errors import CheckpointError, ConfigError

RECORDS = ["plain", "nl-dot_product", "nl-embedded_gaussian"]


def record(shared: Path, name: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    with safe_open(shared / "parity" / f"video-i3d-r50-{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a mapping
        config = json.loads(file.metadata()["config"])
    state = {key.removeprefix("state/"): value for key, value in tensors.items() if key.startswith("state/")}
    return config, state, tensors


@pytest.mark.parametrize("name", RECORDS)
def test_the_recorded_logits_and_input_gradient(shared: Path, name: str) -> None:
    config, state, tensors = record(shared, name)
    model = from_mmaction(config, state)
    clip = tensors["input"].requires_grad_()
    logits = model(clip)
    (gradient,) = torch.autograd.grad((logits * tensors["cotangent"]).sum(), clip)
    assert (logits - tensors["output"]).abs().max() < 1e-5
    assert (gradient - tensors["grad_input"]).abs().max() < 1e-5 * tensors["grad_input"].abs().max()
    assert model.report.num_used == len(state)


# From here on the weights are our own under mmaction2's names: from_mmaction was run beside mmaction2 1.2.0 for these
# configs (outputs and input gradients within 2e-13 and 2e-12 of the largest value, in float64).
TINY = {"base_channels": 4, "conv1_kernel": (5, 7, 7), "stage_blocks": (1, 2, 1, 1)}
NON_LOCAL = ((0,), (0, 1), (1,), (0,))
VARIANTS: list[tuple[dict[str, Any], list[str]]] = [
    ({"depth": 18, "inflate": 0}, ["layer1.0.conv2.conv.weight"]),
    ({"inflate_style": "3x3x3", "style": "caffe"}, ["layer4.0.conv3.bn.weight"]),
    ({"non_local": 1, "non_local_cfg": {"mode": "gaussian"}}, ["layer1.0.non_local_block.g.conv.weight"]),
    (
        {"non_local": NON_LOCAL, "non_local_cfg": {"mode": "concatenation", "sub_sample": True}},
        ["layer2.1.non_local_block.concat_project.conv.weight", "layer2.1.non_local_block.phi.0.conv.weight"],
    ),
    (
        {"non_local": NON_LOCAL, "non_local_cfg": {"reduction": 4, "norm_cfg": {"type": "BN3d"}}},
        ["layer3.0.non_local_block.conv_out.bn.running_var"],
    ),
    ({"with_pool2": False, "conv1_stride_t": 2, "in_channels": 2}, ["conv1.conv.weight"]),
]


def state_for(config: dict[str, Any]) -> dict[str, Tensor]:
    """Weights that fit the config, found from what the import says is missing."""
    state = {"cls_head.fc_cls.weight": torch.zeros(3, 1)}
    model = None
    from segnl.convert import mmaction

    section = mmaction._backbone_section(config, "test")
    model = mmaction.ImportedClassifier(
        mmaction.validate(mmaction.VideoConfig, {"num_classes": 3, **section}, file="test")
    )
    rename = mmaction.renamed(mmaction._names(model))
    state = {rename(name): value for name, value in model.state_dict().items()}
    score = "concat_project.conv.weight"
    return {name: value.flatten(3) if name.endswith(score) else value for name, value in state.items()}


@pytest.mark.parametrize(("changes", "names"), VARIANTS)
def test_other_configs_are_read(changes: dict[str, Any], names: list[str]) -> None:
    config = TINY | changes
    state = state_for(config)
    assert {f"backbone.{name}" for name in names} <= set(state)
    logits = from_mmaction(config, state)(torch.randn(1, config.get("in_channels", 3), 8, 33, 41))
    assert logits.shape == (1, 3)
    assert logits.isfinite().all()


def test_a_c2d_has_kernels_without_time() -> None:
    config = {"type": "C2D", "depth": 18, "pretrained": "torchvision://resnet18", "norm_eval": False}
    state = state_for(config)
    flat = {name: value[:, :, 0] if value.dim() == 5 else value for name, value in state.items()}
    clip = torch.randn(1, 3, 2, 25, 33)
    assert torch.equal(from_mmaction(config, flat)(clip), from_mmaction(config, state)(clip))


def recognizer(backbone: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "Recognizer3D",
        "backbone": {"type": "ResNet3d", **backbone},
        "cls_head": {
            "type": "I3DHead",
            "num_classes": 3,
            "in_channels": 128,
            "spatial_type": "avg",
            "dropout_ratio": 0.2,
        },
        "data_preprocessor": {
            "type": "ActionDataPreprocessor",
            "mean": [1, 2, 3],
            "std": [4, 5, 6],
            "format_shape": "NCTHW",
        },
        "test_cfg": {"average_clips": "prob"},
    }


def test_a_checkpoint_becomes_a_file_that_segnl_opens(tmp_path: Path) -> None:
    state = state_for(TINY)
    text = f"model = {recognizer(TINY)!r}\n"
    torch.save({"meta": {"cfg": text}, "state_dict": state}, tmp_path / "i3d.pth")
    report = import_video(tmp_path / "i3d.pth", None, tmp_path / "out.safetensors")
    assert report.num_used == len(state)
    model = video.load(tmp_path / "out.safetensors")
    clip = torch.randint(0, 256, (1, 3, 8, 33, 41), dtype=torch.uint8)
    normalised = (clip - torch.tensor([1.0, 2, 3]).view(3, 1, 1, 1)) / torch.tensor([4.0, 5, 6]).view(3, 1, 1, 1)
    expected = from_mmaction(recognizer(TINY), state)
    torch.testing.assert_close(model(clip), expected(normalised))
    assert model.dropout.p == 0.2
    assert not model.training


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "SlowFast"}, "type: holds 'SlowFast'; known: ResNet3d, C2D"),
        (TINY | {"depht": 50}, "depht: unknown keys of mmaction2"),
        (TINY | {"stage_blocks": (10**9, 1, 1, 1)}, "stage_blocks: holds .*, expected four integers of 1 to 256"),
        (TINY | {"inflate": (1, 1, 1)}, r"inflate: holds \(1, 1, 1\), expected 0 or 1"),
        (TINY | {"inflate": (1, 1, 1, 1, 1)}, "inflate: holds"),
        (TINY | {"non_local": ((0,), (0, 1, 0), (1,), (0,))}, "non_local: holds"),
        (TINY | {"non_local_cfg": {"mode": "cosine"}}, "non_local_cfg.mode: holds 'cosine'; known: embedded_gaussian"),
        (TINY | {"norm_cfg": {"type": "GN"}}, "norm_cfg.type: holds 'GN'"),
        ({**recognizer(TINY), "neck": {"type": "TPN"}}, "neck: holds"),
    ],
)
def test_what_cannot_be_represented_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mmaction(config, state_for(TINY))


def test_tensors_of_another_config_are_refused() -> None:
    with pytest.raises(CheckpointError, match="the tensors do not fit the model"):
        from_mmaction(TINY | {"inflate": 0}, state_for(TINY))
