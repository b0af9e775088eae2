"""What can go wrong for a user, one class for each exit code.

Every message is one line: where - what was wrong - what was expected - what to do.
"""


class SegnlError(Exception):
    """A fault that the user can mend; `segnl` prints its one line and exits with `exit_code`."""

    exit_code = 1
    is_relayed = False
    """Whether another rank met the fault, and says it."""


class ConfigError(SegnlError):
    """A recipe, an override or a command line that cannot be run."""

    exit_code = 2


class DataError(SegnlError):
    """A data set, an image or a label that is missing, damaged or out of range."""

    exit_code = 3


class CheckpointError(SegnlError):
    """A checkpoint that is missing, damaged, or of another model."""

    exit_code = 4


class NonFiniteError(SegnlError):
    """Training that left the finite numbers."""

    exit_code = 5


class MachineError(SegnlError):
    """A disk, a library or a device that does not serve."""

    exit_code = 6
