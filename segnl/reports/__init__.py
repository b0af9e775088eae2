"""Pages, charts, galleries and curves."""
