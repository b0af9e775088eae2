"""Import of other projects' weights, export to ONNX and safetensors."""

from segnl.convert.ccnet import from_ccnet
from segnl.convert.mmaction import from_mmaction
from segnl.convert.mmseg import from_mmseg
from segnl.convert.torchvision import from_torchvision

__all__ = ["from_ccnet", "from_mmaction", "from_mmseg", "from_torchvision"]
