"""Recipes, runs' folders and checkpoints: what a training run is on disk."""
