"""Parameters, FLOPs, memory and time."""
