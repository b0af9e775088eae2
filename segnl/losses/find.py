"""Losses by name."""

from segnl.core.components import Components
from segnl.losses.base import Loss

LOSSES = Components("segnl.losses", "LOSS", key="loss.name", base=Loss)
