"""Video classification with non-local blocks: C2D and I3D ResNets (docs/video.md)."""

from segnl.video.classifier import VideoClassifier, VideoConfig, create_model, load, save

__all__ = ["VideoClassifier", "VideoConfig", "create_model", "load", "save"]
