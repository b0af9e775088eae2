"""Floor 4: masks, overlays and pages to look at."""
