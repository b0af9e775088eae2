"""Intervals and p values for differences between heads."""
