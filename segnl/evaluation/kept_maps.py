"""Maps of a frozen backbone for the images of evaluations, kept in files, so that other heads need not compute them.

FOLDER/images-DIGEST/IMAGE.safetensors    c2..c5 of one input of the network, followed by a CRC-32 of them and the name

DIGEST is of the backbone's weights and its arithmetic, IMAGE of the input's values: whatever the data set, the scale or
the window, the same input has the same maps, to the bit.
"""

import hashlib
import zlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.func import functional_call

from segnl.core.config import JSONDict
from segnl.core.files import LEFTOVER_AGE_S, not_a_link, read_bytes, remove_leftovers, write_atomic
from segnl.core.result_cache import ResultCache
from segnl.models.backbones.base import Backbone
from segnl.models.segmenter import Segmenter
from segnl.runs.folder import features_folder
from segnl.runs.run import Run

_CRC_BYTES = 4


class KeptMaps:
    """Maps of a backbone in the files of a folder, of at most `max_bytes` together."""

    def __init__(self, folder: Path, backbone: Backbone, max_bytes: float) -> None:
        self.folder, self.backbone = folder, backbone
        remove_leftovers(folder, min_age_s=LEFTOVER_AGE_S)
        self.shapes: dict[torch.Size, list[torch.Size]] = {}
        """Of maps, by the shape of the input."""
        self.free_bytes = max_bytes - sum(path.stat().st_size for path in folder.glob("*.safetensors"))

    def stages(self, image: Tensor) -> list[Tensor]:
        """Returns c2..c5 of a normalised image `b 3 H W`: kept ones, or those of the backbone, which are kept then."""
        digest = _sha256({"image": image})
        path = self.folder / f"{digest[:32]}.safetensors"
        kept = self._read(path, image)
        if kept is not None:
            return [stage.to(image.device) for stage in kept]
        stages: list[Tensor] = self.backbone(image)
        data = safetensors.torch.save({f"c{i + 2}": stage.cpu().contiguous() for i, stage in enumerate(stages)})
        if len(data) <= self.free_bytes:
            self.free_bytes -= len(data)
            write_atomic(path, data + _crc(path, data), is_synced=False)
        return stages

    def _read(self, path: Path, image: Tensor) -> list[Tensor] | None:
        """Returns the maps in a file; None where it is missing or damaged, or they cannot be those of the image."""
        try:
            data = read_bytes(path)
            content, crc = data[:-_CRC_BYTES], data[-_CRC_BYTES:]
            kept = safetensors.torch.load(content) if crc == _crc(path, content) else {}
        except (OSError, SafetensorError, KeyError, TypeError, RuntimeError):  # types, sizes that torch does not have
            return None
        stages = [kept[name] for name in sorted(kept)]
        device = image.device.type
        types = {image.dtype} | ({torch.get_autocast_dtype(device)} if torch.is_autocast_enabled(device) else set())
        fits = [stage.shape for stage in stages] == self._shapes_for(image) and {x.dtype for x in stages} <= types
        return stages if fits else None

    def _shapes_for(self, image: Tensor) -> list[torch.Size]:
        """Returns the shapes of the maps of an image, found on the device "meta", which computes nothing."""
        if image.shape not in self.shapes:
            named = {**dict(self.backbone.named_parameters()), **dict(self.backbone.named_buffers())}
            try:
                without_values = {name: tensor.to("meta") for name, tensor in named.items()}
                stages = functional_call(self.backbone, without_values, (image.to("meta"),))
            except (RuntimeError, TypeError):  # somebody's backbone may need values
                stages = self.backbone(image)
            self.shapes[image.shape] = [stage.shape for stage in stages]
        return self.shapes[image.shape]


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    packed = safetensors.torch.save({name: x.detach().cpu().contiguous() for name, x in tensors.items()})
    return hashlib.sha256(packed).hexdigest()


def _crc(path: Path, data: bytes) -> bytes:
    """Returns the CRC-32 of a file's maps and of its name: it may have been renamed."""
    return zlib.crc32(data, zlib.crc32(f"{path.parent.name}/{path.name}".encode())).to_bytes(_CRC_BYTES, "little")


def kept_maps_of(run: Run, model: Segmenter) -> KeptMaps | None:
    """Returns the maps that the runs beside this one share; None for a recipe without train.features."""
    recipe = run.recipe
    if recipe.train.features is None:
        return None
    settings = recipe.to_dict()["model"]
    key: JSONDict = {
        "torch": torch.__version__,
        "device": next(model.parameters()).device.type,
        "weights": _sha256(model.backbone.state_dict()),
        "settings": [settings["backbone"] | {"weights": None}, settings["norm"], settings["batch_norm"]],
        "arithmetic": [recipe.eval.precision, recipe.train.channels_last],
    }
    folder = ResultCache(not_a_link(features_folder(run.folder))).path("images", key, suffix="")
    return KeptMaps(folder, model.backbone, recipe.train.features.max_gib * 2**30)
