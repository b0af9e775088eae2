"""segformer_mlp, uper and dpt beside transformers' and mmsegmentation's implementations: same weights, same numbers.

Neither package is a dependency of segnl; a test is skipped where its package is not installed. mmsegmentation's
SegformerHead is another head than the paper's (a norm and an activation after each stage's layer), so it is left out.
Everything is float64, so that no ReLU falls on the other side of 0 by rounding.
"""

import importlib
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnl.models.find import HEADS

CHANNELS = (3, 4, 5, 6)
WIDTH = 8
ODD_SIZES = ((13, 21), (7, 11), (4, 6), (4, 6))
DOUBLING_SIZES = ((24, 40), (12, 20), (6, 10), (3, 5))


def our_head(name: str, **settings: Any) -> Any:
    head_class = HEADS.find(name)
    return head_class(head_class.Config(channels=WIDTH, **settings), CHANNELS, 3).double().eval()


@torch.no_grad()
def randomise(module: nn.Module) -> None:
    torch.manual_seed(0)
    for key, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if key.endswith("var") else torch.randn_like(tensor) / 3)


@torch.no_grad()
def copy(source: nn.Module, target: nn.Module) -> None:
    """Copies weights and statistics in their order; the number of elements decides, for a 1x1 convolution and a linear
    layer have the same.
    """
    pairs = zip(source.state_dict().values(), target.state_dict().values(), strict=True)
    for theirs, ours in pairs:
        ours.copy_(theirs.reshape(ours.shape))


def stages(sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    torch.manual_seed(1)
    return [
        torch.randn(2, c, *hw, dtype=torch.float64, requires_grad=True) for c, hw in zip(CHANNELS, sizes, strict=True)
    ]


def assert_same(ours: Tensor, theirs: Tensor, our_maps: list[Tensor], their_maps: list[Tensor]) -> None:
    """Compares outputs and the gradients of the inputs for a random gradient of the output."""
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)  # sums in another order
    torch.manual_seed(2)
    direction = torch.randn_like(ours)
    ours.backward(direction)
    theirs.backward(direction)
    for x, y in zip(our_maps, their_maps, strict=True):
        assert x.grad is not None
        assert x.grad.abs().max() > 0
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-9, atol=1e-9)


def of_transformers(module: str, name: str) -> Any:
    reason = "transformers is not installed"
    return getattr(pytest.importorskip(f"transformers.models.{module}", reason=reason, exc_type=ImportError), name)


def transformers_config(name: str, **settings: Any) -> Any:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed", exc_type=ImportError)
    return getattr(transformers, name)(num_labels=3, **settings)


def of_mmseg(name: str) -> Any:
    """A head of mmsegmentation; with mmcv-lite, whose compiled operators are missing, empty classes stand for them."""
    pytest.importorskip("mmcv", reason="mmsegmentation is not installed")

    class Operators(types.ModuleType):
        def __getattr__(self, attribute: str) -> Any:
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            return type(attribute, (), {})

    try:
        importlib.import_module("mmcv.ops")
    except ImportError:
        for module in ("mmcv.ops", "mmcv.ops.point_sample"):
            sys.modules[module] = Operators(module)
            sys.modules[module].__spec__ = importlib.machinery.ModuleSpec(module, None)
    reason = "mmsegmentation is not installed"
    return getattr(pytest.importorskip("mmseg.models.decode_heads", reason=reason, exc_type=ImportError), name)


def test_segformer_mlp_equals_transformers() -> None:
    config = transformers_config("SegformerConfig", hidden_sizes=list(CHANNELS), decoder_hidden_size=WIDTH)
    theirs = of_transformers("segformer.modeling_segformer", "SegformerDecodeHead")(config).double().eval()
    randomise(theirs)
    ours = our_head("segformer_mlp")
    copy(theirs.linear_projections, ours.layers)
    copy(nn.ModuleList([theirs.linear_fuse, theirs.batch_norm]), ours.join)
    our_maps, their_maps = stages(ODD_SIZES), stages(ODD_SIZES)
    assert_same(theirs.classifier(ours(our_maps).context), theirs(their_maps), our_maps, their_maps)


def copy_uper(theirs: nn.Module, ours: Any, pool_blocks: nn.Module) -> None:
    copy(pool_blocks, ours.pool_levels)
    copy(theirs.bottleneck, ours.pool_join)
    copy(theirs.lateral_convs, ours.laterals)
    copy(theirs.fpn_convs, ours.levels)
    copy(theirs.fpn_bottleneck, ours.join)


def test_uper_equals_transformers() -> None:
    backbone = transformers_config("ResNetConfig")
    config = transformers_config("UperNetConfig", backbone_config=backbone, hidden_size=WIDTH)
    theirs = of_transformers("upernet.modeling_upernet", "UperNetHead")(config, list(CHANNELS)).double().eval()
    randomise(theirs)
    ours = our_head("uper")
    copy_uper(theirs, ours, theirs.psp_modules)
    our_maps, their_maps = stages(ODD_SIZES), stages(ODD_SIZES)
    assert_same(theirs.classifier(ours(our_maps).context), theirs(their_maps), our_maps, their_maps)


@pytest.mark.parametrize("align_corners", [False, True])
def test_uper_equals_mmsegmentation(align_corners: bool) -> None:
    theirs = of_mmseg("UPerHead")(
        in_channels=list(CHANNELS),
        in_index=[0, 1, 2, 3],
        channels=WIDTH,
        num_classes=3,
        norm_cfg={"type": "BN"},
        align_corners=align_corners,
    )
    theirs = theirs.double().eval()
    randomise(theirs)
    ours = our_head("uper")
    ours.align_corners = align_corners
    copy_uper(theirs, ours, theirs.psp_modules)
    our_maps, their_maps = stages(ODD_SIZES), stages(ODD_SIZES)
    assert_same(theirs.conv_seg(ours(our_maps).context), theirs(their_maps), our_maps, their_maps)


def doubled_before_the_last_convolution(ours: Any, maps: list[Tensor]) -> Tensor:
    """Our context with the step that we leave out: both packages double the size of the last fusion's map."""
    fused: list[Tensor] = []
    handle = ours.join.register_forward_pre_hook(lambda module, inputs: fused.append(inputs[0]))
    ours(maps)
    handle.remove()
    return ours.join(F.interpolate(fused[0], scale_factor=2, mode="bilinear", align_corners=True))


def test_dpt_equals_transformers() -> None:
    """Of the neck, reassembly is left out: it is for tokens, and here the backbone gives maps."""
    config = transformers_config(
        "DPTConfig",
        neck_hidden_sizes=list(CHANNELS),
        fusion_hidden_size=WIDTH,
        use_batch_norm_in_fusion_residual=True,
        use_bias_in_fusion_residual=False,
    )
    neck = of_transformers("dpt.modeling_dpt", "DPTNeck")(config).double().eval()
    top = of_transformers("dpt.modeling_dpt", "DPTSemanticSegmentationHead")(config).head.double().eval()
    randomise(neck)
    randomise(top)
    ours = our_head("dpt")
    ours.align_corners = True
    copy(neck.convs, ours.inputs)
    for layer, fusion in zip(neck.fusion_stage.layers, reversed(ours.fusions), strict=True):
        copy(layer.projection, fusion.out)
        for theirs, unit in ((layer.residual_layer1, fusion.input_unit), (layer.residual_layer2, fusion.unit)):
            if unit is not None:
                for i, convolution in enumerate(unit.convs, 1):
                    their_modules = getattr(theirs, f"convolution{i}"), getattr(theirs, f"batch_norm{i}")
                    copy(nn.ModuleList(their_modules), convolution)
    copy(top[:2], ours.join)
    our_maps, their_maps = stages(DOUBLING_SIZES), stages(DOUBLING_SIZES)
    fused = neck.fusion_stage([conv(x) for conv, x in zip(neck.convs, their_maps, strict=True)])[-1]
    assert_same(doubled_before_the_last_convolution(ours, our_maps), top[:3](fused), our_maps, their_maps)


def test_dpt_equals_mmsegmentation() -> None:
    """Without its reassembly, as above."""
    theirs = of_mmseg("DPTHead")(
        embed_dims=6,
        post_process_channels=list(CHANNELS),
        in_channels=[6] * 4,
        in_index=[0, 1, 2, 3],
        input_transform="multiple_select",
        channels=WIDTH,
        num_classes=3,
        norm_cfg={"type": "BN"},
    )
    theirs = theirs.double().eval()
    randomise(theirs)
    ours = our_head("dpt")
    ours.align_corners = True
    copy(theirs.convs, ours.inputs)
    for block, fusion in zip(theirs.fusion_blocks, reversed(ours.fusions), strict=True):
        copy(block.project, fusion.out)
        copy(block.res_conv_unit2, fusion.unit)
        if fusion.input_unit is not None:
            copy(block.res_conv_unit1, fusion.input_unit)
    copy(theirs.project, ours.join)
    our_maps, their_maps = stages(DOUBLING_SIZES), stages(DOUBLING_SIZES)
    theirs.reassemble_blocks = nn.Identity()
    context = doubled_before_the_last_convolution(ours, our_maps)
    assert_same(theirs.conv_seg(context), theirs(their_maps), our_maps, their_maps)
