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
from segnl.core.errors import ConfigError, SegnlError, StoppedError, as_segnl_error
from segnl.core.log import console_log

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
        if args.command not in SEVERAL_PROCESSES and _has_several_processes():
            raise ConfigError("torchrun: only train and eval run in several processes; start this command alone")
        run: Callable[[argparse.Namespace], int] = args.run_command
        return run(args)
    except KeyboardInterrupt:
        print("segnl: interrupted", file=sys.stderr)
        return 130
    except Exception as err:
        error = as_segnl_error(err)
        if error is None:
            raise
        if not isinstance(error, StoppedError) and not error.is_relayed:
            _print_error(error, debug=args.debug)
        return error.exit_code


def _has_several_processes() -> bool:
    return os.environ.get("WORLD_SIZE", "1") != "1"  # its text may be no number, which process_group reports


def _print_error(error: SegnlError, *, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    prefix = f"segnl: rank {os.environ.get('RANK')}" if _has_several_processes() else "segnl"
    with suppress(OSError):  # nobody reads any more; the code says it too
        sys.stderr.write(f"{prefix}: error: {error}\n")  # one write, because several ranks share a terminal


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
