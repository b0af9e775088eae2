"""Data sets, found by name."""

from segnl.core.components import Components
from segnl.data.base import SegmentationData

DATASETS = Components("segnl.data.datasets", "DATASET", key="data.name", base=SegmentationData)
