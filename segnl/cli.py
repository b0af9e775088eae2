"""The command line. Parsing and help import no torch; each command imports what it runs."""

import argparse
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from segnl.core.command_line import one_set_each
from segnl.core.errors import ConfigError, MachineError, SegnlError
from segnl.core.memory import keep_freed_memory

EPILOG = """\
exit codes: 0 done, 2 config or usage, 3 data, 4 checkpoint, 5 training went non-finite, 6 disk or environment,
130 Ctrl-C, 143 SIGTERM, 129 a closed terminal (a training saves first, and the same command goes on from there)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. A fault is one line on standard error, a traceback too with --debug."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # albumentations would ask the network at import
    warnings.showwarning = _show_warning
    sys.path.append(str(Path.cwd()))  # so that `head: {name: mylab.heads.swirl}` is found beside the recipe's user
    args = _parser().parse_args(one_set_each(sys.argv[1:] if argv is None else argv))
    try:
        if args.run_command not in (_train, _eval):
            _one_process_only()
        keep_freed_memory()
        run: Callable[[argparse.Namespace], int] = args.run_command
        return run(args)
    except KeyboardInterrupt:
        print("segnl: interrupted", file=sys.stderr)
        return 130
    except SegnlError as err:
        return err.exit_code if err.is_relayed else _fail(str(err), err.exit_code, debug=args.debug)
    except OSError as err:
        where = err.filename or "this machine"
        return _fail(f"{where}: {err.strerror or err}", MachineError.exit_code, debug=args.debug)


def _fail(message: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    who = f"segnl: rank {os.environ.get('RANK')}" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else "segnl"
    with suppress(OSError):  # nobody reads any more; the code says it too
        sys.stderr.write(f"{who}: error: {message}\n")  # in one piece, for several ranks write to one terminal
    return code


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, UserWarning):
        with suppress(OSError):  # nobody reads any more
            print(f"segnl: warning: {message}", file=sys.stderr)


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
    for name, text, add, run in COMMANDS:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(run_command=run)
        add(command)
    return parser


def _add_config(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="a recipe, such as configs/camvid/rcca_r18.yaml"
    )
    _add_set(command)


def _add_set(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="A.B=C",
        help="change one key; several may follow one --set, and it may be repeated",
    )


def _add_checkpoint(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="RUN_OR_FILE",
        help="a run's folder (its last checkpoint) or a file",
    )


def _add_train(command: argparse.ArgumentParser) -> None:
    _add_config(command)
    command.add_argument("--run", metavar="NAME", help="folder under checkpoints/ (default DATASET-CONFIG-sSEED)")
    command.add_argument("--print", dest="only_print", action="store_true", help="show the resolved recipe and stop")
    command.add_argument("--fresh", action="store_true", help="move an existing run aside and start over")


def _train(args: argparse.Namespace) -> int:
    from segnl.engine.recipe import load_recipe

    recipe = load_recipe(args.config, args.overrides)
    if args.only_print:
        from segnl.core.config import dump_yaml

        print(dump_yaml(recipe.tree()), end="")
        return 0
    from segnl.core.distributed import joined
    from segnl.engine.fit import fit
    from segnl.engine.runs import run_folder

    with joined() as ranks:
        return fit(recipe, run_folder(recipe, args.config, args.run), fresh=args.fresh, ranks=ranks)


def _add_eval(command: argparse.ArgumentParser) -> None:
    _add_checkpoint(command)
    _add_set(command)
    command.add_argument("--split", default="val", help="which part of the data set (default val)")
    command.add_argument(
        "--preset",
        metavar="NAME",
        help="a published protocol: cityscapes-whole, cityscapes-slide, cityscapes-ms, cityscapes-slide-ms, "
        "ade20k-mmseg, ade20k-mmseg-ms or ade20k-csail; --set is laid on it",
    )
    command.add_argument(
        "--masks",
        type=Path,
        metavar="DIR",
        help="also write every mask: ids, colour, overlay, error; the same command again goes on with those written",
    )
    command.add_argument(
        "--official", action="store_true", help="Cityscapes: also by cityscapesscripts (needs --masks)"
    )
    command.add_argument(
        "--submission",
        type=Path,
        metavar="FILE.zip",
        help="also pack the masks as the server of Cityscapes or ADE20K takes them; the split needs no labels then",
    )
    command.add_argument(
        "--strata",
        action="store_true",
        help="also where the errors are: near boundaries, in small objects, by row, by distance from the centre (costs "
        "several times what decoding and counting an image do)",
    )
    command.add_argument(
        "--ablate", metavar="WHAT", help="break the attention: gamma0, shuffled or window=R (docs/compare.md)"
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="also write metrics.json there")


def _eval(args: argparse.Namespace) -> int:
    from segnl.core.distributed import joined
    from segnl.inspection.score import score

    with joined() as ranks:
        score(
            args.checkpoint,
            split=args.split,
            overrides=args.overrides,
            masks=args.masks,
            json_file=args.json,
            official=args.official,
            submission=args.submission,
            preset=args.preset,
            with_strata=args.strata,
            ablate=args.ablate,
            ranks=ranks,
        )
    return 0


def _add_predict(command: argparse.ArgumentParser) -> None:
    _add_checkpoint(command)
    command.add_argument("images", nargs="+", type=Path, metavar="IMAGE_OR_DIR")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="receives ids/, colour/ and overlay/")


def _predict(args: argparse.Namespace) -> int:
    from segnl.inspection.score import predict_files

    predict_files(args.checkpoint, args.images, args.out)
    return 0


def _add_compare(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", type=Path, required=True, metavar="FILE", help="a study (docs/compare.md)")
    command.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at once, a GPU each (default 1)")
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")


def _compare(args: argparse.Namespace) -> int:
    from segnl.compare.run import compare

    return compare(args.config, args.json, num_jobs=args.jobs)


def _demo(args: argparse.Namespace) -> int:
    from segnl.compare.demo import demo

    return demo()


def _add_inspect(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--checkpoint", nargs="+", type=Path, required=True, metavar="RUN", help="runs' folders or checkpoint files"
    )
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="receives report.html and sheet.png")
    command.add_argument("--split", default="val", help="which part of the data set (default val)")
    command.add_argument("--images", type=int, default=60, metavar="N", help="how many the page shows (default 60)")
    command.add_argument(
        "--sheet", type=int, default=8, metavar="N", help="rows of sheet.png, an image each (default 8)"
    )


def _inspect(args: argparse.Namespace) -> int:
    from segnl.inspection.inspect_runs import inspect_runs

    inspect_runs(args.checkpoint, args.out, split=args.split, num_images=args.images, sheet=args.sheet)
    return 0


def _add_cost(command: argparse.ArgumentParser) -> None:
    _add_config(command)
    command.add_argument("--input", default="769x769", metavar="HxW", help="the image's size (default 769x769)")
    command.add_argument("--module", choices=("attention", "head", "model"), default="model", help="default model")
    command.add_argument("--classes", type=int, metavar="N", help="how many, where the data set's table is not there")
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")


def _cost(args: argparse.Namespace) -> int:
    from segnl.core.files import write_atomic
    from segnl.engine.cost import cost
    from segnl.engine.recipe import load_recipe

    recipe = load_recipe(args.config, args.overrides)
    found = cost(recipe, hw=_size(args.input), part=args.module, num_classes=args.classes)
    print("\n".join(found.lines()))
    if args.json is not None:
        write_atomic(args.json, json.dumps(found.tree(), indent=1).encode())
    return 0


def _add_check(command: argparse.ArgumentParser) -> None:
    _add_config(command)
    command.add_argument("--split", help="one part of the data set alone (default: train and val)")
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the report there")


def _check(args: argparse.Namespace) -> int:
    from segnl.engine.recipe import load_recipe
    from segnl.inspection.data_report import report_data

    return report_data(load_recipe(args.config, args.overrides), args.split, args.json)


def _add_data(command: argparse.ArgumentParser) -> None:
    kinds = command.add_subparsers(metavar="KIND", required=True)
    streets = kinds.add_parser("streets", help="procedural street scenes in Cityscapes' layout (docs/streets.md)")
    streets.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the data set goes")
    streets.add_argument("--train", type=int, default=400, metavar="N", help="training images (default 400)")
    streets.add_argument("--val", type=int, default=100, metavar="N", help="validation images (default 100)")
    streets.add_argument("--hw", default="256x512", metavar="HxW", help="rows x columns (default 256x512)")
    streets.add_argument("--seed", type=int, default=0, help="another seed, other streets (default 0)")


def _data(args: argparse.Namespace) -> int:
    from segnl.datasets.streets_files import generate
    from segnl.engine.progress import Progress

    with Progress("streets", args.train + args.val, unit="image") as progress:
        made = generate(
            args.out,
            num_train=args.train,
            num_val=args.val,
            hw=_size(args.hw),
            seed=args.seed,
            progress=lambda done, total: progress.advance(),
        )
    print(f"{args.out}: {args.train} training and {args.val} validation streets, {made} of them made now")
    return 0


def _size(text: str) -> tuple[int, int]:
    rows, _, columns = text.partition("x")
    if not (rows.isdecimal() and columns.isdecimal()):
        raise ConfigError(f"{text}: expected rows x columns, such as 256x512")
    return int(rows), int(columns)


def _add_import(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", type=Path, metavar="FILE", help="the other project's checkpoint")
    command.add_argument("--from", dest="kind", required=True, choices=("mmseg", "ccnet", "torchvision"))
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="the checkpoint to write")
    command.add_argument(
        "--peer-config", type=Path, metavar="FILE", help="mmsegmentation's own config, where its checkpoint has none"
    )
    command.add_argument("--recurrence", type=int, default=2, metavar="R", help="CCNet, whose files do not say it")
    command.add_argument(
        "--abn", choices=("abs", "plain"), default="abs", help="how CCNet's in-place batch norm read its weight"
    )
    _add_config(command)


def _import(args: argparse.Namespace) -> int:
    from segnl.engine.adopt import adopt

    found = adopt(
        args.file,
        args.kind,
        args.config,
        args.out,
        overrides=args.overrides,
        peer=args.peer_config,
        recurrence=args.recurrence,
        abn=args.abn,
    )
    print("\n".join(found))
    return 0


def _add_export(command: argparse.ArgumentParser) -> None:
    _add_checkpoint(command)
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="model.onnx, or model.safetensors")
    command.add_argument("--half", action="store_true", help="safetensors: weights in float16")


def _export(args: argparse.Namespace) -> int:
    from segnl.engine.export import export

    print("\n".join(export(args.checkpoint, args.out, half=args.half)))
    return 0


def _add_curves(command: argparse.ArgumentParser) -> None:
    command.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="runs' folders")
    command.add_argument("--out", type=Path, required=True, metavar="FILE.png", help="the picture; also .svg or .pdf")


def _curves(args: argparse.Namespace) -> int:
    from segnl.inspection.curves import curves

    print(curves(args.runs, args.out))
    return 0


def _add_nothing(command: argparse.ArgumentParser) -> None:
    """A command without arguments of its own."""


def _env(args: argparse.Namespace) -> int:
    from segnl.inspection.environment_report import environment_report

    print(environment_report())
    return 0


COMMANDS = (
    ("train", "train a recipe, or go on with it", _add_train, _train),
    ("eval", "score a trained network on a data set's split", _add_eval, _eval),
    ("predict", "write masks, colour masks and overlays for any images", _add_predict, _predict),
    ("compare", "train and compare every head of a study; its table and its page", _add_compare, _compare),
    ("inspect", "one page of image, truth and every network's mask, for any runs", _add_inspect, _inspect),
    ("demo", "make a small street data set, compare four heads on it, in some minutes", _add_nothing, _demo),
    ("cost", "parameters, FLOPs, memory and time of a recipe's network, its head or its attention", _add_cost, _cost),
    ("check", "look for every fault of a data set at once, and count its classes", _add_check, _check),
    ("data", "make the embedded data set", _add_data, _data),
    ("import", "weights from mmsegmentation, CCNet or torchvision, strictly", _add_import, _import),
    ("export", "a trained network as ONNX, or its weights alone as safetensors", _add_export, _export),
    ("curves", "loss, learning rate and mIoU of any runs against steps, as one picture", _add_curves, _curves),
    ("env", "versions, devices and git state: what a bug report needs", _add_nothing, _env),
)
