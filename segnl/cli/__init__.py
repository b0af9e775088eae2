"""Command line: a module per command, with its help as docstring, `run`, and `add_arguments` where it takes any."""
