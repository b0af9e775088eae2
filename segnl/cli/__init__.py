"""Command line: one module per command, with its HELP, add_arguments and run."""
