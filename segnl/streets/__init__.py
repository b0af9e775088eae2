"""The generator of synthetic street scenes."""
