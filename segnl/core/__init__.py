"""Layer 0: configuration, files, seeds, processes; below everything else of the package."""

IGNORE = 255
"""The train id of an ignored pixel: it is neither trained on nor scored (torch calls it ignore_index)."""
