"""timm's networks as backbones. Needs the extra `timm`; nothing is downloaded."""

from pathlib import Path

import pytest
import torch

import segnl
from segnl.core.config import load_mapping, merge
from segnl.core.errors import CheckpointError, ConfigError
from segnl.models.backbones.timm import TimmBackbone, TimmConfig
from segnl.models.initialisation import seeded
from segnl.models.segmenter import model_config, new_segmenter
from segnl.profiling.cost import count_module
from segnl.runs.recipe import compose

timm = pytest.importorskip("timm", reason="the extra `timm` is not installed")


def backbone(model: str, **settings: object) -> TimmBackbone:
    with seeded(0, "backbone"):
        return TimmBackbone(TimmConfig.model_validate({"model": model, **settings})).eval()


@pytest.mark.parametrize(
    ("model", "settings", "arguments", "strides"),
    [
        ("resnet10t", {"output_stride": 8}, {"output_stride": 8, "out_indices": (1, 2, 3, 4)}, (4, 8, 8, 8)),
        ("convnext_atto", {"output_stride": 16}, {"output_stride": 16}, (4, 8, 16, 16)),
        ("efficientnet_b0", {}, {"out_indices": (1, 2, 3, 4)}, (4, 8, 16, 32)),
        ("vit_tiny_patch16_224", {}, {"dynamic_img_size": True, "out_indices": (2, 5, 8, 11)}, (16, 16, 16, 16)),
    ],
)
def test_stages_are_timm_s_own_feature_maps_to_the_bit(
    model: str, settings: dict[str, object], arguments: dict[str, object], strides: tuple[int, ...]
) -> None:
    ours = backbone(model, **settings)
    theirs = timm.create_model(model, features_only=True, **arguments).eval()
    theirs.load_state_dict(ours.network.state_dict())
    image = torch.randn(2, 3, 96, 160)
    with torch.no_grad():
        stages, maps = ours(image), theirs(image)
    assert ours.stage_strides == strides
    assert ours.stage_channels == tuple(stage.shape[1] for stage in stages)
    assert all(torch.equal(stage, feature_map) for stage, feature_map in zip(stages, maps, strict=True))


def test_swin_s_maps_have_channels_second_and_take_any_size() -> None:
    ours = backbone("swin_tiny_patch4_window7_224")
    with torch.no_grad():
        stages = ours(torch.randn(1, 3, 97, 130))
    assert [stage.shape[1] for stage in stages] == [96, 192, 384, 768]


def test_networks_with_windows_alone_are_exported_at_one_size() -> None:
    models = ("swin_tiny_patch4_window7_224", "vit_tiny_patch16_224", "efficientnet_b0")
    assert [backbone(model).has_free_size for model in models] == [False, True, True]


def test_an_image_of_odd_size_is_padded_to_whole_patches() -> None:
    ours = backbone("vit_tiny_patch16_224")
    image = torch.randn(1, 3, 33, 47)
    padded = torch.zeros(1, 3, 48, 48)
    padded[:, :, :33, :47] = image
    with torch.no_grad():
        assert torch.equal(ours(image)[3], ours(padded)[3])
        assert ours(image)[3].shape == (1, 192, 3, 3)


def test_a_pyramid_has_the_strides_4_to_32_and_trains_while_the_network_is_frozen() -> None:
    section = {"name": "timm", "model": "vit_tiny_patch16_224", "pyramid": True, "frozen": True}
    cfg = model_config({"backbone": section, "head": {"name": "fcn", "channels": 16}, "aux": None}, file="test")
    model = new_segmenter(cfg, 3, seed=0).train()
    stages = model.backbone(torch.randn(1, 3, 64, 96))
    assert [tuple(stage.shape[1:]) for stage in stages] == [(48, 16, 24), (96, 8, 12), (192, 4, 6), (192, 2, 3)]
    assert model.backbone.stage_strides == (4, 8, 16, 32)
    assert not any(weight.requires_grad for weight in model.backbone.network.parameters())
    assert all(weight.requires_grad for weight in model.backbone.pyramid.parameters())
    assert not model.backbone.network.training


def test_initial_values_depend_on_the_seed_alone() -> None:
    first, second = backbone("resnet10t").state_dict(), backbone("resnet10t").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("head", ["aspp", "non_local", "rcca", "ocr"])
@pytest.mark.parametrize("model", ["resnet10t", "vit_tiny_patch16_224"])
def test_heads_train_on_it(model: str, head: str) -> None:
    network = segnl.create_model(head, backbone=f"timm/{model}", num_classes=3, channels=16).train()
    logits = network(torch.randn(2, 3, 65, 97))
    assert logits.shape == (2, 3, 65, 97)
    logits.mean().backward()
    assert all(weight.grad is not None for weight in network.segmenter.head.parameters())


@pytest.mark.parametrize(
    ("model", "head"),
    [
        ("convnext_atto", "uper"),
        ("resnet10t", "ocr"),
        ("vit_tiny_patch16_224", "non_local"),
        ("efficientnet_b0", "aspp"),
        ("swin_tiny_patch4_window7_224", "rcca"),
    ],
)
def test_parameters_and_flops_are_counted(model: str, head: str) -> None:
    """Some networks read a tensor's numbers while they are built, which fake tensors do not have."""
    mapping = {
        "model": {"backbone": {"name": "timm", "model": model}, "head": {"name": head, "channels": 8}},
        "data": {"name": "streets", "root": "nowhere", "crop_hw": [64, 97]},
        "train": {"max_steps": 1, "batch_size": 2},
    }
    recipe = compose(merge(load_mapping(Path("streets/fcn.yaml")), mapping), file="test")
    counts = count_module(recipe, 3, (64, 97), "model")
    expected = sum(weight.numel() for weight in backbone(model).parameters())
    assert counts.params > expected
    assert counts.gflops > 0


def test_weights_of_a_file_in_timm_s_names_are_loaded(tmp_path: Path) -> None:
    torch.manual_seed(1)
    theirs = timm.create_model("resnet10t").eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet10t.pth")
    ours = backbone("resnet10t")
    ours.load_pretrained(str(tmp_path / "resnet10t.pth"))
    with torch.no_grad():
        image = torch.randn(1, 3, 64, 64)
        assert torch.equal(ours(image)[3], theirs.forward_features(image))


def test_weights_of_another_network_are_refused_in_one_line(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(CheckpointError, match=r"not of resnet10t") as raised:
        backbone("resnet10t").load_pretrained(str(tmp_path / "resnet18.pth"))
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("model", "part", "first"),
    [
        ("resnet10t", "layer1.", "layer1.0.conv1.weight"),
        ("resnet10t", "running_", "conv1.1.running_mean"),
        ("resnet10t", "layer1.0.bn1.weight", "layer1.0.bn1.weight"),
        ("vit_tiny_patch16_224", "pos_embed", "pos_embed"),
        ("convnext_atto", ".norm.bias", "stages_0.blocks.0.norm.bias"),
    ],
)
def test_weights_that_lack_a_part_of_the_network_are_refused(tmp_path: Path, model: str, part: str, first: str) -> None:
    state = timm.create_model(model).state_dict()
    torch.save({name: own for name, own in state.items() if part not in name}, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=rf"part.pth: lacks (\w+\.)?{first}"):
        backbone(model).load_pretrained(str(tmp_path / "part.pth"))


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.bool])
def test_weights_of_another_type_are_not_cast_in_silence(tmp_path: Path, dtype: torch.dtype) -> None:
    state = timm.create_model("resnet10t").state_dict()
    torch.save(state | {"layer1.0.conv1.weight": state["layer1.0.conv1.weight"].to(dtype)}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=r"of another type: layer1.0.conv1.weight torch\."):
        backbone("resnet10t").load_pretrained(str(tmp_path / "odd.pth"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "resnet10t.a:b"}, r"resnet10t.a:b: has no feature maps in timm"),
        ({"model": "resnet_51"}, r"timm has no 'resnet_51'; did you mean 'resnet"),
        ({"model": "vit_tiny_patch16_224", "output_stride": 8}, r"timm cannot dilate vit_tiny_patch16_224"),
        ({"model": "resnet10t", "pyramid": True}, "has maps of several strides already"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        backbone(**settings)  # type: ignore[arg-type]


def test_recomputing_blocks_in_backward_changes_no_gradient() -> None:
    gradients = []
    for is_on in (False, True):
        ours = backbone("vit_tiny_patch16_224").train()
        ours.activation_checkpointing = is_on
        torch.manual_seed(0)
        ours(torch.randn(1, 3, 32, 32))[3].sum().backward()
        gradients.append(ours.network.model.blocks[0].mlp.fc1.weight.grad)
    assert torch.equal(*gradients)
