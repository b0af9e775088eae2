"""Score a trained network on a data set's split."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from segnl.cli.arguments import add_checkpoint, add_json, add_set, path_of
from segnl.core.errors import ConfigError
from segnl.core.files import ensure_writable, write_atomic
from segnl.core.outputs import json_file

if TYPE_CHECKING:
    from segnl.evaluation.evaluate_run import EvaluationRequest
    from segnl.evaluation.evaluation import Evaluation
    from segnl.evaluation.presets import Preset
    from segnl.models.ablation import Ablation


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add = command.add_argument
    add_checkpoint(command)
    add_set(command)
    add("--split", default="val", help="split of the data set (default val)")
    add(
        "--preset",
        type=_preset,
        metavar="NAME",
        help="published inference settings: cityscapes-whole, cityscapes-slide, cityscapes-ms, cityscapes-slide-ms, "
        "ade20k-mmseg, ade20k-mmseg-ms or ade20k-csail (the five scales of MIT CSAIL's code); --set overrides "
        "single keys",
    )
    add(
        "--masks",
        type=path_of,
        metavar="DIR",
        help="also write every mask: ids, colour, overlay, error; after a kill, the same command resumes from them",
    )
    add("--official", action="store_true", help="Cityscapes: also score with cityscapesscripts")
    add(
        "--submission",
        type=path_of,
        metavar="FILE.zip",
        help="also pack the masks for the server of Cityscapes or ADE20K; the split needs no labels then",
    )
    add(
        "--strata",
        action="store_true",
        help="also count errors by place: near boundaries, in small objects, by row, by distance from the centre "
        "(several times slower than decoding and counting an image)",
    )
    add(
        "--ablate",
        type=_ablation,
        metavar="NAME",
        help="change the attention of non_local, dnl or rcca: gamma0 (off), shuffled, window=R (R positions at most)",
    )
    add_json(command, "also write the scores to FILE")


def _preset(name: str) -> "Preset":
    from segnl.evaluation.presets import find_preset

    return find_preset(name)


def _ablation(text: str) -> "Ablation":
    from segnl.models.ablation import parse_ablation

    return parse_ablation(text)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from segnl.core.distributed import process_group
    from segnl.evaluation.evaluate_run import EvaluationRequest, evaluate_run
    from segnl.runs.run import open_run

    request = EvaluationRequest(
        split=args.split,
        preset=args.preset,
        ablation=args.ablate,
        with_strata=args.strata,
        official=args.official,
        masks=args.masks,
        submission=args.submission,
        json_file=args.json,
    )
    with process_group() as group:
        with group.shared_errors():
            if group.is_rank0 and args.json is not None:
                _require_own_place(args.json, args.checkpoint, args.masks, args.submission)
                ensure_writable(args.json.parent)
            settings = {"eval": args.preset.settings} if args.preset else None
            run = open_run(args.checkpoint, args.overrides, settings=settings, trust_modules=args.trust_modules)
        evaluation = evaluate_run(run, request, group=group)
        if group.is_rank0:
            _report(evaluation, request, args.json)


def _require_own_place(out: Path, checkpoint: Path, masks: Path | None, submission: Path | None) -> None:
    """Raises ConfigError for a --json file that is one of the other files that the command writes."""
    from segnl.evaluation.mask_folder import places_of

    run = checkpoint if checkpoint.is_dir() else checkpoint.parent
    places = [run / "eval", run / "cache", *(places_of(masks) if masks else []), *([submission] if submission else [])]
    if any(out.resolve().is_relative_to(place.resolve()) for place in places):
        raise ConfigError(f"--json {out}: is where this command writes another file; give another name")


def _report(evaluation: "Evaluation", request: "EvaluationRequest", out: Path | None) -> None:
    """Writes the --json file and strata.png, then prints the scores and the paths of all files."""
    from segnl.metrics.confusion import table_text

    metrics = evaluation.metrics
    if out is not None:
        write_atomic(out, json_file(metrics, "eval"))
    if request.with_strata:
        from segnl.reports.strata_plot import strata_plot

        title = f"Where the errors are: {metrics['split']}, {metrics['num_images']} images, {metrics['checkpoint']}"
        write_atomic(evaluation.folder / "strata.png", strata_plot(metrics["strata"], title=title))
    if metrics["num_pixels"] == 0:
        print(f"split '{metrics['split']}': no labelled pixel, so nothing was scored")
    else:
        print(
            table_text(
                evaluation.confusion,
                list(metrics["per_class"]),
                num_images=metrics["num_images"],
                counts_absent_classes="miou_official150" in metrics,
            )
        )
        for name, value in metrics.get("metrics", {}).items():
            print(f"{name}: {'-' if value is None else f'{value:.4f}'}")
        labelled = [name for name, pixels in metrics["per_class_pixels"].items() if pixels]
        if len(labelled) == 1 and len(metrics["per_class"]) > 1:
            print(f"note: all labelled pixels are '{labelled[0]}', so the score says nothing; see `segnl check`")
        if "official" in metrics:
            print(f"cityscapesscripts, equal to segnl's own scores: {_official_text(metrics['official'])}")
    for folder, name in ((request.masks, "the masks"), (request.submission, "the submission")):
        if folder is not None:
            print(f"{folder}: {name} of {metrics['num_images']} images")
    if evaluation.is_from_cache:
        print("weights, data and settings are unchanged since an earlier evaluation; its result is reused")
    beside = "per_image.npz, strata.png" if request.with_strata else "per_image.npz"
    print(f"{evaluation.folder / 'metrics.json'} holds these numbers; in the same folder: {beside}")


def _official_text(official: dict[str, float | None]) -> str:
    names = ("class_iou", "class_iiou", "category_iou", "category_iiou")
    values = [official[name] for name in names]  # None if no class of the kind occurs
    return ", ".join(f"{n} {'-' if v is None else f'{v:.4f}'}" for n, v in zip(names, values, strict=True))
