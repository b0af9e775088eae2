"""Studies: several heads and seeds, compared under control."""
