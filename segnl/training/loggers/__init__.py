"""Loggers that `train.loggers` names, a file each; log.jsonl and the terminal's lines are always written."""
