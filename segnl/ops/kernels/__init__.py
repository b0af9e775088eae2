"""Fast and exact kernels of the operators in segnl.ops, whose files hold the public functions and the plain forms."""
