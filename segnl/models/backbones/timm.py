"""Any network of timm with feature maps: convolutional networks, hierarchical transformers and plain ones (ViT).

Needs the extra `timm`. Source of the pyramid: ViTDet, Li et al. 2022, arXiv:2203.16527, section 3.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from segnl.core.config import suggest
from segnl.core.errors import CheckpointError, ConfigError, MachineError
from segnl.core.log import log
from segnl.models.backbones.base import Backbone, BackboneConfig
from segnl.models.initialisation import seeded
from segnl.models.weights.files import listed, read_checkpoint, tensors_in
from segnl.models.weights.pretrained import weights_path
from segnl.models.weights.strict import WEIGHT_TYPES, require_finite

NUM_STAGES = 4
DOWNLOADED = ("imagenet", "pretrained")
IMAGENET_MEAN_STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Arguments by which timm's transformers take images of any size; a network without them has another signature.
ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})


class TimmConfig(BackboneConfig):
    """Settings of a network of timm.

    weights: `pretrained` (or `imagenet`) for those that timm downloads for this model, or the path of a file.
    """

    name: str = "timm"
    model: str = Field(min_length=1, max_length=200)
    """timm's name, such as convnext_tiny or vit_small_patch16_dinov3."""
    output_stride: Literal[8, 16, 32] | None = None
    """Output stride, for networks whose strides timm can turn into dilation; null: the network's own."""
    pyramid: bool = False
    """For networks whose maps all have one stride (ViT): four maps at 1/4, 1/2, 1 and 2 times that stride, made from
    the last one by trained transposed convolutions and by pooling. false: the maps after each quarter of the blocks."""


class TimmBackbone(Backbone):
    """The last four feature maps of a network of timm, exactly as `features_only=True` returns them, as `b c h w`.

    A transformer's class and register tokens are left out, its position embedding is interpolated to the image's size,
    and an image is padded below and on the right to whole patches. Initial values are timm's own.
    """

    Config = TimmConfig

    def __init__(self, cfg: TimmConfig) -> None:
        super().__init__()
        self.cfg = cfg
        with torch.device("meta"):  # its layout only
            layout = _build(cfg).feature_info
        num_maps, is_plain = len(layout), len(set(layout.reduction())) == 1
        if num_maps < NUM_STAGES:
            raise ConfigError(f"model.backbone.model: {cfg.model} has {num_maps} feature maps; expected at least 4")
        if cfg.pyramid and not is_plain:
            raise ConfigError(f"model.backbone.pyramid: {cfg.model} has maps of several strides already; leave it out")
        if is_plain:
            self.out_indices = tuple(num_maps * quarter // NUM_STAGES - 1 for quarter in range(1, NUM_STAGES + 1))
        else:
            self.out_indices = tuple(range(num_maps - NUM_STAGES, num_maps))
        self.network = _build(cfg, out_indices=self.out_indices)
        info = self.network.feature_info
        self.stage_channels, self.stage_strides = tuple(info.channels()), tuple(info.reduction())
        has_patches = any(name.endswith("patch_embed") for name, _ in self.network.named_modules())
        self.multiple = self.stage_strides[0] if has_patches else 1
        """Sides of the padded image are multiples of it."""
        # Maps cut into windows (Swin): torch.export does not come to an end with their symbolic sizes.
        self.has_free_size = not any(getattr(module, "window_size", None) for module in self.network.modules())
        self.pyramid = None
        if cfg.pyramid:
            self.pyramid = Pyramid(self.stage_channels[-1])
            self.stage_channels = self.pyramid.stage_channels
            self.stage_strides = tuple(self.stage_strides[-1] * 2**power // 4 for power in range(NUM_STAGES))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps a normalised float image `b 3 H W` to c2..c5."""
        rows, columns = (-size % self.multiple for size in image.shape[-2:])
        stages: list[Tensor] = self.network(F.pad(image, (0, columns, 0, rows)) if rows or columns else image)
        if self.pyramid is not None:
            return self.pyramid(stages[-1])
        is_channels_last = getattr(self.network, "output_fmt", None) == "NHWC"  # Swin
        return [stage.permute(0, 3, 1, 2) if is_channels_last else stage for stage in stages]

    def frozen_part(self) -> list[nn.Module]:
        """Returns the network without the pyramid, which has no pretrained weights."""
        return [self.network]

    def load_pretrained(self, weights: str) -> None:
        """Loads timm's weights for this model, or those of a file in timm's, or this module's, tensor names.

        Raises CheckpointError when the file does not fit, MachineError when weights cannot be fetched.
        """
        if weights in DOWNLOADED:
            arguments: dict[str, Any] = {}
        else:
            path = weights_path(weights, DOWNLOADED)
            content = read_checkpoint(path)
            averages = (content.get(key) for key in ("state_dict_ema", "model_ema"))  # which timm prefers
            state = tensors_in(next((own for own in averages if isinstance(own, dict)), content), str(path))
            if any(name.startswith("network.") for name in state):
                super().load_pretrained(weights)
                return
            floats = {_leaf(name) for name, own in self.network.state_dict().items() if own.is_floating_point()}
            types = [
                f"{name} {own.dtype}"
                for name, own in state.items()
                if own.dtype not in WEIGHT_TYPES or (_leaf(name) in floats and not own.is_floating_point())
            ]
            if types:
                raise CheckpointError(f"model.backbone.weights: {weights}: of another type: {listed(types)}")
            arguments = {"pretrained_cfg_overlay": {"state_dict": state}}
        try:
            with seeded(0, "backbone"), _noted_missing() as missing:
                network = _build(self.cfg, out_indices=self.out_indices, pretrained=True, **arguments)
        except Exception as err:  # of huggingface_hub, of the network, or of tensors that do not fit
            reason = (str(err).strip().splitlines() or [type(err).__name__])[0][:200]
            if arguments:
                raise CheckpointError(f"model.backbone.weights: {weights}: not of {self.cfg.model} ({reason})") from err
            raise MachineError(
                f"model.backbone.weights: {self.cfg.model}: cannot be fetched by timm ({reason}); give the path of a "
                "file, or null"
            ) from err
        require_finite(network.state_dict(), f"model.backbone.weights: {weights}")
        addresses = {tensor.data_ptr() for tensor in missing}
        lacking = [name for name, own in network.state_dict().items() if own.data_ptr() in addresses]
        if lacking:
            raise CheckpointError(f"model.backbone.weights: {weights}: lacks {listed(lacking)} of {self.cfg.model}")
        self.network.load_state_dict(network.state_dict())
        mean_std = tuple(tuple(self.network.pretrained_cfg[key]) for key in ("mean", "std"))
        if mean_std != IMAGENET_MEAN_STD:
            log.warning(
                "%s was trained with mean %s and std %s (of 1); give them, times 255, as model.input.mean and std",
                self.cfg.model,
                *map(list, mean_std),
            )

    @property
    def activation_checkpointing(self) -> bool:
        """Whether timm stores only the input of each block for backward."""
        return bool(getattr(self, "_activation_checkpointing", False))

    @activation_checkpointing.setter
    def activation_checkpointing(self, is_on: bool) -> None:
        object.__setattr__(self, "_activation_checkpointing", is_on)
        switch: Callable[[bool], None] | None = getattr(self.network, "set_grad_checkpointing", None)
        if switch is not None:
            switch(is_on)


class Pyramid(nn.Module):
    """Maps of 1/4, 1/2, 1 and 2 times the stride of one map, by two, one and no transposed convolution, and pooling."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half, quarter = max(1, channels // 2), max(1, channels // 4)
        self.stage_channels = (quarter, half, channels, channels)
        self.up4 = nn.Sequential(
            nn.ConvTranspose2d(channels, half, 2, 2), nn.GroupNorm(1, half), nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, 2),
        )  # fmt: skip
        self.up2 = nn.ConvTranspose2d(channels, half, 2, 2)
        self.down2 = nn.MaxPool2d(2, ceil_mode=True)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps `b c h w` to the four maps, the finest first."""
        return [self.up4(x), self.up2(x), x, self.down2(x)]


@contextmanager
def _noted_missing() -> Iterator[list[Tensor]]:
    """Yields a list of the floating-point tensors for which a file holds no values; timm leaves them as they are."""
    missing: list[Tensor] = []
    load_state_dict = nn.Module.load_state_dict

    def load(module: nn.Module, *args: Any, **settings: Any) -> Any:
        keys = load_state_dict(module, *args, **settings)
        own = module.state_dict()
        missing.extend(own[name] for name in keys.missing_keys if name in own and own[name].is_floating_point())
        return keys

    nn.Module.load_state_dict = load  # type: ignore[assignment, method-assign]
    try:
        yield missing
    finally:
        nn.Module.load_state_dict = load_state_dict  # type: ignore[method-assign]


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _build(cfg: TimmConfig, *, out_indices: Sequence[int] | None = None, **arguments: Any) -> Any:
    """Returns timm's feature network. Raises ConfigError for an unknown name or a stride that it cannot have."""
    if importlib.util.find_spec("timm") is None:
        raise ConfigError("model.backbone: timm is not installed; pip install 'segnl[timm]'")
    timm = importlib.import_module("timm")
    if not timm.is_model(cfg.model.partition(".")[0]):
        near = suggest(cfg.model, timm.list_models(), otherwise="timm.list_models() lists all")
        raise ConfigError(f"model.backbone.model: timm has no {cfg.model!r}{near}")
    if out_indices is not None:
        arguments["out_indices"] = out_indices
    if cfg.output_stride is not None:
        arguments["output_stride"] = cfg.output_stride
    for any_size in ANY_SIZE:
        try:
            return timm.create_model(cfg.model, features_only=True, **any_size, **arguments)
        except TypeError as err:
            refused = str(err)
            if not any(key in refused for key in any_size):
                break
        except (RuntimeError, AssertionError, ValueError, AttributeError) as err:
            is_fake_tensor_s = type(err).__module__.startswith("torch._subclasses")  # profiling then takes real ones
            if arguments.get("pretrained") or is_fake_tensor_s:
                raise
            refused = str(err) or type(err).__name__
            break
    if "output_stride" in refused:
        raise ConfigError(f"model.backbone.output_stride: timm cannot dilate {cfg.model}; leave it out")
    raise ConfigError(f"model.backbone.model: {cfg.model}: has no feature maps in timm ({refused.splitlines()[0]})")


BACKBONE = TimmBackbone
