"""Published weights of ResNets: where they are, and the names that known projects give to a ResNet's tensors."""

from collections.abc import Callable, Mapping

from torch import Tensor

from segnl.core.errors import CheckpointError
from segnl.models.weights.strict import renamed

_TORCHVISION = "https://download.pytorch.org/models/"
_OPENMMLAB = "https://download.openmmlab.com/pretrain/third_party/"
# torchvision's first weights (IMAGENET1K_V1), from which the published segmentation recipes start.
URLS = {
    "resnet18": f"{_TORCHVISION}resnet18-f37072fd.pth",
    "resnet34": f"{_TORCHVISION}resnet34-b627a593.pth",
    "resnet50": f"{_TORCHVISION}resnet50-0676ba61.pth",
    "resnet101": f"{_TORCHVISION}resnet101-63fe2227.pth",
    "resnet152": f"{_TORCHVISION}resnet152-394f9c45.pth",
    "resnet18_v1c": f"{_OPENMMLAB}resnet18_v1c-b5776b93.pth",
    "resnet50_v1c": f"{_OPENMMLAB}resnet50_v1c-2cccc1ad.pth",
    "resnet101_v1c": f"{_OPENMMLAB}resnet101_v1c-e67eebb6.pth",
}
# Names of the stem, ours to theirs: torchvision; CCNet's authors and CSAIL; PyTorch-Encoding.
PLAIN_STEM = {"stem.0": "conv1", "stem.1": "bn1"}
NUMBERED_STEM = PLAIN_STEM | {"stem.3": "conv2", "stem.4": "bn2", "stem.6": "conv3", "stem.7": "bn3"}
NESTED_STEM = {f"stem.{index}": f"conv1.{index}" for index in (0, 1, 3, 4, 6)} | {"stem.7": "bn1"}


def resnet_names(state: Mapping[str, Tensor], where: str) -> tuple[Callable[[str], str], str]:
    """Returns the function from our names to the file's, and the kind of its stem.

    Raises CheckpointError when the stem's names are unknown.
    """
    if "stem.0.weight" in state:
        return renamed({}), "deep" if "stem.3.weight" in state else "plain"
    if "conv1.0.weight" in state:
        return renamed(NESTED_STEM), "deep"
    if "conv1.weight" in state and "conv3.weight" in state:
        return renamed(NUMBERED_STEM), "deep"
    if "conv1.weight" in state:
        return renamed(PLAIN_STEM), "plain"
    raise CheckpointError(f"{where}: not a ResNet's weights: neither conv1.weight nor stem.0.weight is in it")
