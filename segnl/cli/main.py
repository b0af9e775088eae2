"""The command line. Parsing and help import no torch; each command imports what it runs."""

import argparse
import importlib
import keyword
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from segnl.cli.arguments import repeat_options
from segnl.cli.output import safe_output
from segnl.core.child_process import MODULE_FOLDER
from segnl.core.errors import ConfigError, MachineError, SegnlError, StoppedError, TerminatedError, as_segnl_error
from segnl.core.log import console_log, one_line, printable
from segnl.core.outputs import require_own

COMMANDS = (
    "new", "train", "eval", "predict", "compare", "score", "inspect", "probe", "demo", "cost", "check", "data",
    "import", "export", "curves", "denoise", "video-demo", "env",
)  # fmt: skip
"""Names in the order of --help; the module of `video-demo` is `video_demo`, that of `import`, a keyword, `import_`."""

EPILOG = """\
a recipe is a YAML file that describes one training run; a study is one that lists heads and seeds
exit codes: 0 done, 2 config or usage, 3 data, 4 checkpoint, 5 NaN or infinity in training, 6 disk or environment,
130 Ctrl-C, 143 SIGTERM, 129 a closed terminal (a training run saves first, and the same command resumes it)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    An error is one line on standard error, and a traceback before it with --debug. Logging, warnings and the import
    path are as before when this returns.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # albumentations would ask the network at import
    try:
        folder = os.getcwd()
    except OSError as err:
        with safe_output():
            return _show(MachineError(f"the working folder cannot be read ({err.strerror}); change to one that exists"))
    # matplotlib fails at import for damaged settings. `head: {name: mylab.heads.swirl}` is found below this folder.
    # Every Python process that a library starts (data workers, torch's compiler) would else import from there first.
    settings = {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull, MODULE_FOLDER: folder, "PYTHONSAFEPATH": "1"}
    own = {name: os.environ.get(name) for name in settings}
    os.environ |= settings
    path = list(sys.path)
    try:
        with safe_output() as output, console_log():
            code = _run(repeat_options(sys.argv[1:] if argv is None else argv))
            output.flush()
            if output.is_lost and code == 0:
                code = _show(
                    MachineError(f"standard output cannot be written ({output.error}); all files are complete")
                )
            return code
    finally:
        sys.path[:] = path
        for name, value in own.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _run(words: Sequence[str]) -> int:
    args = argparse.Namespace(debug=False)
    has_several_processes = os.environ.get("WORLD_SIZE", "1") != "1"  # its text may be no number
    try:
        for name, value in os.environ.items():
            if name.startswith("OPENCV_IO_MAX_") and not (value.isdecimal() and len(value) < 19):  # it aborts at import
                raise MachineError(f"{name}={value[:40]}: expected a whole number; correct or unset it")
        _parser().parse_args(words, args)
        if has_several_processes and args.command_name not in ("train", "eval"):
            raise ConfigError("torchrun: only train and eval run in several processes; start this command alone")
        if getattr(args, "json", None) is not None:
            require_own(args.json, args.command_name, option="--json")
        return args.command.run(args) or 0
    except TerminatedError as err:
        print(f"segnl: {err}", file=sys.stderr)
        return err.exit_code
    except KeyboardInterrupt:
        print("segnl: interrupted", file=sys.stderr)
        return 130
    except Exception as err:
        error = as_segnl_error(err)
        if error is None:
            raise
        if not isinstance(error, StoppedError) and not error.is_relayed:
            if args.debug:
                sys.stderr.write(printable(traceback.format_exc()))
            return _show(error, f"segnl: rank {os.environ.get('RANK', 0)}" if has_several_processes else "segnl")
        return error.exit_code


def _show(error: SegnlError, prefix: str = "segnl") -> int:
    """Writes the error's line to standard error and returns its exit code."""
    sys.stderr.write(f"{prefix}: error: {one_line(str(error))}\n")  # one write, because several ranks share a terminal
    return error.exit_code


class _Parser(argparse.ArgumentParser):
    """Escapes control characters in its messages: `*` of a shell may name any file."""

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message(printable(message), file)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="segnl",
        description="Compare semantic-segmentation context heads: one backbone, one data pipeline, one evaluator.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        file = f"{name}_" if keyword.iskeyword(name) else name.replace("-", "_")
        module = importlib.import_module(f"segnl.cli.{file}")
        text = module.__doc__ or ""
        command = commands.add_parser(name, help=text[:1].lower() + text[1:].rstrip("."), description=text)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(command=module, command_name=name)
        if hasattr(module, "add_arguments"):
            module.add_arguments(command)
    return parser
