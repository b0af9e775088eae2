"""Weights from elsewhere: reading files and turning other projects' names into ours, strictly."""
