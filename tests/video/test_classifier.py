from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segnl import video
from segnl.core.errors import CheckpointError, ConfigError
from segnl.models.backbones.resnet import ResNet, ResNetConfig
from segnl.profiling.flops import count_algorithm_flops, num_parameters, on_fake_tensors
from segnl.video.classifier import VideoClassifier, VideoConfig
from segnl.video.resnet3d import ResNet3dConfig

TINY = {"base_channels": 4, "blocks": [1, 2, 2, 1]}


def places(depth: int, layout: str) -> dict[int, list[int]]:
    positions = sorted(ResNet3dConfig(depth=depth, non_local=layout).non_local_at())
    return {layer + 1: [block for of, block in positions if of == layer] for layer, _ in positions}


def test_presets_stand_where_the_paper_puts_them() -> None:
    assert places(50, "1") == {3: [4]}
    assert places(50, "5") == {2: [1, 3], 3: [1, 3, 5]}
    assert places(101, "5") == {2: [1, 3], 3: [6, 13, 20]}
    assert places(50, "10") == {2: [0, 1, 2, 3], 3: [0, 1, 2, 3, 4, 5]}


@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "gaussian", "dot_product", "concatenation"])
@pytest.mark.parametrize("name", ["c2d_resnet50", "i3d_resnet50"])
def test_new_non_local_blocks_change_nothing(name: str, pairwise: str) -> None:
    clip = torch.randn(2, 3, 8, 33, 41)
    logits = []
    for non_local in (None, {"layer2": [0, 1], "layer3": [-1]}):
        torch.manual_seed(0)
        model = video.create_model(name, num_classes=5, non_local=non_local, pairwise=pairwise, **TINY).eval()
        logits.append(model(clip))
    assert logits[0].shape == (2, 5)
    assert torch.equal(*logits)


def test_c2d_sees_the_order_of_pooled_pairs_only() -> None:
    model = video.create_model(
        "c2d_resnet50", num_classes=3, **TINY, stem_strides=[1, 2, 2], pool_strides=[1, 2, 2]
    ).eval()
    clip = torch.randn(1, 3, 8, 33, 41)
    swapped = clip[:, :, [4, 5, 2, 3, 1, 0, 7, 6]]  # pairs stay pairs
    torch.testing.assert_close(model(clip), model(swapped))
    assert (model(clip) - model(clip[:, :, [0, 2, 1, 3, 4, 5, 6, 7]])).abs().max() > 1e-4


@pytest.mark.parametrize(("style", "kernels"), [("3x1x1", (3, 1)), ("3x3x3", (1, 3))])
def test_every_other_block_is_inflated(style: str, kernels: tuple[int, int]) -> None:
    backbone = on_fake_tensors(
        lambda: video.create_model("i3d_resnet50", num_classes=3, inflate_style=style, base_channels=4).backbone
    )
    published = {"layer1": (1, 1, 1), "layer2": (1, 0, 1, 0), "layer3": (1, 0, 1, 0, 1, 0), "layer4": (0, 1, 0)}
    for layer, inflated in published.items():
        for block, is_inflated in zip(backbone.get_submodule(layer), inflated, strict=True):
            found = block.conv1.kernel_size[0], block.conv2.kernel_size[0]
            assert found == (kernels if is_inflated else (1, 1))


@pytest.fixture
def image_resnet(tmp_path: Path) -> tuple[ResNet, Path]:
    torch.manual_seed(1)
    resnet = ResNet(
        ResNetConfig(depth=50, blocks=(1, 2, 2, 1), width=4 / 64, output_stride=32, zero_init_residual=False)
    )
    for norm in resnet.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
            nn.init.normal_(norm.running_mean, std=0.1)
    torch.save(resnet.state_dict(), tmp_path / "resnet.pth")
    return resnet.eval(), tmp_path / "resnet.pth"


@pytest.mark.parametrize(("name", "inflation"), [("c2d_resnet50", "mean"), ("i3d_resnet50", "centre")])
def test_inflated_weights_give_a_still_clip_the_images_features(
    image_resnet: tuple[ResNet, Path], name: str, inflation: str
) -> None:
    resnet, path = image_resnet
    model = video.create_model(name, num_classes=3, weights=path, inflation=inflation, **TINY).eval()
    image = torch.randn(1, 3, 65, 81)
    features = model.backbone(image[:, :, None].expand(-1, -1, 8, -1, -1))
    torch.testing.assert_close(features, resnet(image)[-1][:, :, None].expand_as(features), atol=1e-5, rtol=1e-4)


def test_mean_inflation_keeps_the_features_of_frames_away_from_the_clips_ends(
    image_resnet: tuple[ResNet, Path],
) -> None:
    resnet, path = image_resnet
    model = video.create_model("i3d_resnet50", num_classes=3, weights=path, inflation="mean", **TINY).eval()
    image = torch.randn(1, 3, 33, 41)
    features = model.backbone(image[:, :, None].expand(-1, -1, 64, -1, -1))  # zeros beyond the clip reach four frames
    expected = resnet(image)[-1]
    torch.testing.assert_close(features[:, :, 4], expected, atol=1e-5, rtol=1e-4)
    assert (features[:, :, 0] - expected).abs().max() > 1e-3


def test_uint8_clips_are_normalised_inside() -> None:
    model = video.create_model("i3d_resnet50", num_classes=3, **TINY).eval()
    clip = torch.randint(0, 256, (2, 3, 8, 33, 41), dtype=torch.uint8)
    mean, std = (torch.tensor(getattr(model.cfg.input, name)).view(3, 1, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(model(clip), model((clip - mean) / std))


def test_a_saved_model_is_the_same_model(tmp_path: Path) -> None:
    model = video.create_model(
        "c2d_resnet50", num_classes=3, non_local={"layer3": [0]}, pairwise="gaussian", **TINY
    ).eval()
    video.save(model, tmp_path / "model.safetensors")
    loaded = video.load(tmp_path / "model.safetensors")
    assert loaded.cfg == model.cfg
    clip = torch.randn(1, 3, 8, 33, 41)
    assert torch.equal(loaded(clip), model(clip))


def test_flipped_bytes_of_a_saved_model_are_noticed(tmp_path: Path) -> None:
    video.save(video.create_model("c2d_resnet50", num_classes=3, **TINY), tmp_path / "m.safetensors")
    whole = (tmp_path / "m.safetensors").read_bytes()
    first = 8 + int.from_bytes(whole[:8], "little")  # the tensors' first byte
    in_settings = whole.index(b"dropout") + 12
    for place in (in_settings, *range(first, len(whole), len(whole) // 50), len(whole) - 5):
        (tmp_path / "m.safetensors").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match=r"m\.safetensors: "):
            video.load(tmp_path / "m.safetensors")


def test_a_file_without_a_checksum_is_loaded_with_a_warning(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = video.create_model("c2d_resnet50", num_classes=3, **TINY)
    save_file(model.state_dict(), tmp_path / "m.safetensors", {"segnl_video": model.cfg.model_dump_json()})
    with pytest.warns(UserWarning, match=r"m\.safetensors: has no checksum"):
        assert video.load(tmp_path / "m.safetensors").cfg == model.cfg


def test_a_file_whose_settings_ask_for_another_network_gets_no_memory_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = video.create_model("c2d_resnet50", num_classes=3, **TINY)
    model.cfg = model.cfg.model_copy(update={"num_classes": 5})
    video.save(model, tmp_path / "m.safetensors")
    devices, original = [], VideoClassifier.__init__

    def build(self: VideoClassifier, cfg: VideoConfig) -> None:
        original(self, cfg)
        devices.append(self.classifier.weight.device.type)

    monkeypatch.setattr(VideoClassifier, "__init__", build)
    with pytest.raises(CheckpointError, match="tensors do not fit the model"):
        video.load(tmp_path / "m.safetensors")
    assert devices == ["meta"]


def test_another_file_is_refused(image_resnet: tuple[ResNet, Path], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    for path in (image_resnet[1], tmp_path / "x.safetensors", tmp_path / "missing.safetensors"):
        with pytest.raises(CheckpointError, match=path.name):
            video.load(path)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("i3d_resnet18", {}, "'i3d_resnet18'; did you mean 'i3d_resnet101'"),
        ("i3d_resnet50", {"non_local": "7"}, "no layout '7' for this network; known: '1' at depth 50"),
        ("i3d_resnet101", {"non_local": "10"}, "no layout '10' for this network"),
        ("i3d_resnet50", {"pairwise": "cosine"}, "pairwise"),
        ("i3d_resnet50", {"stem_kernel": [4, 7, 7]}, "stem_kernel: .* expected odd numbers"),
        ("i3d_resnet50", {"widht": 2}, "widht: unknown key"),
    ],
)
def test_bad_settings_are_one_line(name: str, settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        video.create_model(name, num_classes=3, **settings)


def test_gradients_reach_the_clip_and_every_parameter() -> None:
    model = video.create_model("i3d_resnet50", num_classes=3, non_local={"layer2": [0]}, **TINY)
    clip = torch.randn(2, 3, 8, 33, 41, requires_grad=True)
    F.cross_entropy(model(clip), torch.tensor([0, 2])).backward()
    assert clip.grad is not None
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_counted_cost_of_five_blocks_is_below_that_of_inflating_every_3x3() -> None:
    """Relative to C2D, all over 32 frames of 224x224: the numbers of docs/video.md."""

    def cost(**settings: Any) -> tuple[float, float]:
        model = VideoClassifier(VideoConfig(backbone=ResNet3dConfig(**settings), num_classes=400)).eval()
        return count_algorithm_flops(model, torch.zeros(1, 3, 32, 224, 224)) / 1e9, num_parameters(model) / 1e6

    c2d: dict[str, Any] = {"stem_kernel": (1, 7, 7), "inflated": "none"}
    assert on_fake_tensors(lambda: cost(**c2d)) == pytest.approx((40.9, 24.33), rel=2e-3)
    assert on_fake_tensors(lambda: cost(**c2d, non_local="5")) == pytest.approx((63.3, 31.68), rel=2e-3)
    assert on_fake_tensors(lambda: cost(inflate_style="3x3x3")) == pytest.approx((78.2, 33.43), rel=2e-3)
