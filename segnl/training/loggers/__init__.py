"""Loggers, a file each: hooks that write what happens in a training run somewhere."""
