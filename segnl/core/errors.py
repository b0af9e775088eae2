"""Errors that a user can fix, one class for each exit code.

Every message is one line: where - what was wrong - what was expected - what to do.
"""

import os
import signal
import traceback


class SegnlError(Exception):
    """An error that the user can fix; `segnl` prints its one line and exits with `exit_code`."""

    exit_code = 1
    is_relayed = False
    """True on the ranks that only repeat the error of another rank: they exit with its code but print nothing."""

    def __reduce__(self) -> tuple[object, ...]:
        """Pickles message and attributes, for other processes, whatever the constructor of a subclass takes."""
        return type(self).__new__, (type(self), *self.args), self.__dict__


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text without its number and path, or the name of its class."""
    text = getattr(error, "strerror", None) or str(error)
    return next(iter(text.strip().splitlines()), type(error).__name__)


class StoppedError(SegnlError):
    """Work that a signal stopped at a safe point: everything is saved, and the message has been logged already.

    exit_code: 130 Ctrl-C, 143 SIGTERM, 129 a closed terminal.
    """

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class TerminatedError(KeyboardInterrupt):
    """SIGTERM or SIGHUP outside of a training's steps: unwinds as Ctrl-C does, so that no child process stays behind.

    Not an Exception: code that continues after errors of a logger or of a plot must not continue after this.
    """

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name}")
        self.exit_code = 128 + number


class ConfigError(SegnlError):
    """A recipe, an override or a command line that cannot be run."""

    exit_code = 2
    text_key: str | None = None
    """The dotted key of a setting that expects text and was given something else."""


class DataError(SegnlError):
    """A data set, an image or a label that is missing, damaged or out of range."""

    exit_code = 3


class CheckpointError(SegnlError):
    """A checkpoint that is missing, damaged, or of another model."""

    exit_code = 4


class NonFiniteError(SegnlError):
    """A training run whose loss, gradient or weights became infinite or NaN."""

    exit_code = 5


class MachineError(SegnlError):
    """A disk, a library or a device that does not work."""

    exit_code = 6


def _of_variable(err: Exception) -> MachineError | None:
    """Returns the error of a package that names an environment variable of its own, or quotes one, at its import."""
    frames = [frame for frame, _ in traceback.walk_tb(err.__traceback__)]
    package = str(frames[-1].f_globals.get("__name__")).partition(".")[0] if frames else ""
    if all(frame.f_code.co_name != "<module>" for frame in frames):
        return None
    for name, value in os.environ.items():
        if package.upper() in name and (name in str(err) or (value and value in str(err))):
            return MachineError(f"{name}={value[:40]}: {package} refuses this value ({first_line(err)}); unset it")
    return None


def as_segnl_error(err: Exception) -> SegnlError | None:
    """Returns the error to show to a user: `err` itself, or a MachineError for a failed system call or allocation, or
    for an environment variable that a package refuses at its import.

    None means that the program is wrong and its traceback is needed.
    """
    if isinstance(err, SegnlError):
        return err
    if isinstance(err, OSError):
        return MachineError(f"{err.filename or 'this machine'}: {err.strerror or err}")
    if isinstance(err, RuntimeError) and str(err).startswith("Symlink loop"):  # of Path.resolve, before Python 3.13
        return MachineError(f"{str(err).removeprefix('Symlink loop from ')}: is a link that leads back to itself")
    is_of_cuda = any(cls.__name__ == "OutOfMemoryError" for cls in type(err).__mro__)  # without an import of torch
    is_of_import = isinstance(err, ImportError) and "failed to map segment" in str(err)
    if isinstance(err, MemoryError) or is_of_cuda or is_of_import or "DefaultCPUAllocator" in str(err):
        reason = (str(err).splitlines() or ["allocation failed"])[0]
        return MachineError(f"out of memory ({reason}); choose smaller batches, crops or inputs, or end other programs")
    return _of_variable(err)
