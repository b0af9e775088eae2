"""Layer 1: pure functions on tensors, without parameters and without config."""
