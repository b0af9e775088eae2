"""Recipes, runs' folders and checkpoints: what a training is on disk."""
