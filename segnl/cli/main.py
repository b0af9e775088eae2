"""The command line. Parsing and help import no torch; each command imports what it runs."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

from segnl.cli import check, compare, cost, curves, data, demo, env, eval, export, import_, inspect, predict, train
from segnl.cli.arguments import repeat_set
from segnl.core.errors import ConfigError, MachineError, SegnlError, StoppedError
from segnl.core.log import console_log
from segnl.core.memory import keep_freed_memory

COMMANDS: dict[str, ModuleType] = {
    "train": train,
    "eval": eval,
    "predict": predict,
    "compare": compare,
    "inspect": inspect,
    "demo": demo,
    "cost": cost,
    "check": check,
    "data": data,
    "import": import_,
    "export": export,
    "curves": curves,
    "env": env,
}
SEVERAL_PROCESSES = ("train", "eval")
"""Commands that torchrun may start in several processes."""

EPILOG = """\
exit codes: 0 done, 2 config or usage, 3 data, 4 checkpoint, 5 training went non-finite, 6 disk or environment,
130 Ctrl-C, 143 SIGTERM, 129 a closed terminal (a training saves first, and the same command resumes it)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    An error is one line on standard error, and a traceback before it with --debug. Logging, warnings and the import
    path are as before when this returns.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # albumentations would ask the network at import
    args = _parser().parse_args(repeat_set(sys.argv[1:] if argv is None else argv))
    with console_log(), _working_folder_importable():
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    try:
        if args.command not in SEVERAL_PROCESSES:
            _one_process_only()
        keep_freed_memory()
        run: Callable[[argparse.Namespace], int] = args.run_command
        return run(args)
    except KeyboardInterrupt:
        print("segnl: interrupted", file=sys.stderr)
        return 130
    except StoppedError as err:
        return err.exit_code
    except SegnlError as err:
        return err.exit_code if err.is_relayed else _fail(str(err), err.exit_code, debug=args.debug)
    except (MemoryError, RuntimeError) as err:
        if not _is_out_of_memory(err):
            raise
        reason = (str(err).splitlines() or ["allocation failed"])[0]
        message = f"out of memory ({reason}); choose smaller batches, crops or inputs, or end other programs"
        return _fail(message, MachineError.exit_code, debug=args.debug)
    except OSError as err:
        where = err.filename or "this machine"
        return _fail(f"{where}: {err.strerror or err}", MachineError.exit_code, debug=args.debug)


def _is_out_of_memory(err: Exception) -> bool:
    """True for Python's, CUDA's and the CPU allocator's errors, told apart without an import of torch."""
    is_of_cuda = any(cls.__name__ == "OutOfMemoryError" for cls in type(err).__mro__)
    return isinstance(err, MemoryError) or is_of_cuda or "DefaultCPUAllocator" in str(err)


def _fail(message: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    who = f"segnl: rank {os.environ.get('RANK')}" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else "segnl"
    with suppress(OSError):  # nobody reads any more; the code says it too
        sys.stderr.write(f"{who}: error: {message}\n")  # one write, because several ranks share a terminal
    return code


@contextmanager
def _working_folder_importable() -> Iterator[None]:
    """Lets `head: {name: mylab.heads.swirl}` be found below the folder in which the command was started."""
    folder = str(Path.cwd())
    is_new = folder not in sys.path
    if is_new:
        sys.path.append(folder)
    try:
        yield
    finally:
        if is_new and folder in sys.path:
            sys.path.remove(folder)


def _one_process_only() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("torchrun: only train and eval run in several processes; start this command alone")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="segnl",
        description="Compare semantic-segmentation context heads: one backbone, one data pipeline, one evaluator.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name, help=module.HELP, description=module.HELP[0].upper() + module.HELP[1:] + "."
        )
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(command=name, run_command=module.run)
        module.add_arguments(command)
    return parser
