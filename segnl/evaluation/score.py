"""`segnl eval` and `segnl predict`: a trained network's numbers and masks, in files."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

from torch import Tensor

from segnl.core.background import Background
from segnl.core.config import JSONDict, merge, parse_override
from segnl.core.distributed import SINGLE_PROCESS, ProcessGroup
from segnl.core.errors import CheckpointError, ConfigError, DataError
from segnl.core.files import ensure_writable, inside, write_atomic
from segnl.core.progress import Progress
from segnl.data.base import IMAGE_SUFFIXES, SegmentationData
from segnl.data.find import DATASETS
from segnl.data.reading import read_image
from segnl.data.sample import Sample
from segnl.evaluation.evaluate import evaluate
from segnl.evaluation.mask_folder import MaskFolder, belongs_to, require_not_kept
from segnl.evaluation.masks import write_masks
from segnl.evaluation.predictions import RESULTS
from segnl.evaluation.predictor import Predictor, predictor_of
from segnl.evaluation.presets import is_preset, preset_dict
from segnl.evaluation.strata_plot import strata_plot
from segnl.evaluation.submission import Submission
from segnl.labels.table import ClassTable
from segnl.metrics.accumulator import Accumulator
from segnl.metrics.cityscapes_official import find_labels, official_scores
from segnl.metrics.report import metrics_dict, table_text
from segnl.models.ablation import Ablation, ablated, parse_ablation
from segnl.runs.build import build_data
from segnl.runs.checkpoint import Checkpoint, checkpoints_of, open_checkpoint
from segnl.runs.recipe import Recipe, compose, differing_keys

WRITERS = 2  # threads that compress and write PNG files; more would take the network's own cores


def score(
    run_or_file: Path,
    *,
    split: str,
    overrides: Sequence[str] = (),
    masks: Path | None = None,
    json_file: Path | None = None,
    official: bool = False,
    submission: Path | None = None,
    preset: str | None = None,
    with_strata: bool = False,
    ablate: str | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
) -> JSONDict:
    """Scores a checkpoint on a split: prints the table, writes and returns RUN/eval/SPLIT-MODE/metrics.json.

    Beside it lies per_image.npz, with the counts of every image. preset: one of evaluation/presets.py, on which the
    overrides are laid; SPLIT-PRESET is the folder then, unless they make it another protocol. masks: a folder that goes
    on where a killed evaluation of the same checkpoint and settings stopped. official: also by cityscapesscripts on the
    written masks. submission: a zip file for the benchmark's server; the split may come without labels then.
    with_strata: also where the errors are, under `strata` and in strata.png. ablate: what is done to the attention
    (models/ablation.py); the folder's name says so too.
    group: each scores its own images and writes their masks; rank 0 does all the rest, the others return {}.
    """
    checkpoint = group.run_on_all(lambda: open_checkpoint(run_or_file))
    recipe = recipe_for_scoring(checkpoint, overrides, preset)
    own_preset = preset if preset is not None and is_preset(preset, recipe.eval) else None
    ablation = parse_ablation(ablate) if ablate is not None else None
    name = "-".join([split, own_preset or recipe.eval.mode, *([ablation.slug] if ablation else [])])
    out = _results_folder(checkpoint, name)
    _require_possible(recipe, masks if official else Path(), group if submission else SINGLE_PROCESS)
    data = build_data(recipe, split, needs_labels=submission is None)
    if official:
        _require_truth(data)
    for folder in [out, *([masks] if masks else []), *([json_file.parent] if json_file else [])]:
        ensure_writable(folder)
    _same_classes(checkpoint, data.table)
    accumulator = Accumulator(data.table.num_classes, with_strata=with_strata)
    with Background(WRITERS, waiting=2 * WRITERS) as writers:
        packed = Submission(submission, data, writers) if submission else None
        belonging = belongs_to(checkpoint, recipe, data) | ({"ablation": ablate} if ablate else {}) if masks else {}
        kept = _mask_folder(partial(MaskFolder, masks, belonging, data, writers), group) if masks else None
        predictor = predictor_of(checkpoint, recipe)
        if group.is_rank0:
            _forget([out / name for name in RESULTS] + ([json_file] if json_file else []))
        with _ablated(predictor, ablation, group):
            _evaluate(predictor, data, accumulator, kept, packed, group)
        group.run_on_all(writers.finish)
    if not group.is_rank0:
        return {}
    metrics = _metrics(accumulator, data, checkpoint, recipe) | {"preset": own_preset, "ablation": ablate}
    if official and masks:
        metrics["official"] = official_scores(data.root, split, masks / "ids")
    if packed is not None:
        packed.write()
    _write_results(out, json_file, accumulator, metrics)
    _print_results(accumulator, metrics, data, recipe)
    _print_places(out, masks, submission, len(data))
    return metrics


def _results_folder(checkpoint: Checkpoint, name: str) -> Path:
    folder = inside(checkpoint.path.parent / "eval", name)
    last = checkpoints_of(checkpoint.path.parent)[:1]
    # What is not a run's last checkpoint, such as its best, leaves that one its place.
    return folder / checkpoint.path.stem if last and last != [checkpoint.path] else folder


def _require_possible(recipe: Recipe, masks: Path | None, packing: ProcessGroup) -> None:
    """masks: where the official count finds them; packing: who makes a submission."""
    if masks != Path() and (masks is None or not DATASETS.find(recipe.data.name).has_cityscapes_layout):
        raise ConfigError("--official: needs --masks DIR and a data set in Cityscapes' layout")
    if packing.world_size > 1:
        raise ConfigError("--submission: is packed by one process; score without torchrun")


def _require_truth(data: SegmentationData) -> None:
    """What the official count reads must be there before hours of work."""
    if not data.has_labels:
        raise ConfigError(f"--official: {data.root} has no labels for split '{data.split}'; leave it out")
    find_labels(data.root / "gtFine" / data.split)


@contextmanager
def _ablated(predictor: Predictor, ablation: Ablation | None, group: ProcessGroup) -> Iterator[None]:
    with ablated(predictor.model, ablation) if ablation else nullcontext():
        if ablation and group.is_rank0:
            print(f"ablation {ablation.name}: {ablation.meaning}", flush=True)
        yield


def _metrics(accumulator: Accumulator, data: SegmentationData, checkpoint: Checkpoint, recipe: Recipe) -> JSONDict:
    metrics = metrics_dict(
        accumulator.confusion,
        data.table.names,
        num_images=len(data),
        counts_absent_classes=data.counts_absent_classes,
    )
    metrics |= {"checkpoint": checkpoint.path.name, "step": checkpoint.step, "split": data.split}
    return metrics | {"eval": recipe.to_dict()["eval"]}


def _mask_folder(make: Callable[[], MaskFolder], group: ProcessGroup) -> MaskFolder:
    """Rank 0 opens the folder first: opening it removes what a killed evaluation left half written there."""
    made = [group.run_on_all(lambda: make() if group.is_rank0 else None)]
    made.append(group.run_on_all(lambda: None if group.is_rank0 else make()))
    return next(folder for folder in made if folder is not None)


def _evaluate(
    predictor: Predictor,
    data: SegmentationData,
    accumulator: Accumulator,
    kept: MaskFolder | None,
    packed: Submission | None,
    group: ProcessGroup,
) -> None:
    def keep(sample: Sample, predicted: Tensor) -> None:
        if kept is not None:
            kept.write(sample, predicted)
        if packed is not None:
            packed.add(sample, predicted)

    if kept is not None and kept.known_ids and group.is_rank0:
        print(f"{kept.folder}: goes on, {len(kept.known_ids)} of {len(data)} images have their masks", flush=True)
    known = kept.known if kept is not None else None
    evaluate(
        predictor, data, recipe=predictor.recipe, on_result=keep, accumulator=accumulator, known=known, group=group
    )


def _forget(paths: Sequence[Path]) -> None:
    """Removes an earlier evaluation's results: if this one is killed, they would pass for its own."""
    for path in paths:
        if path.is_dir():
            raise ConfigError(f"{path}: is a folder; expected the name of a file")
        if path.is_file():
            path.unlink()


def _write_results(out: Path, json_file: Path | None, accumulator: Accumulator, metrics: JSONDict) -> None:
    """metrics.json comes last: where it is, all is there."""
    accumulator.per_image.save(out / "per_image.npz")
    if accumulator.strata is not None:
        metrics["strata"] = accumulator.strata.to_dict()
        title = f"Where the errors are: {metrics['split']}, {metrics['num_images']} images, {metrics['checkpoint']}"
        write_atomic(out / "strata.png", strata_plot(metrics["strata"], title=title))
    text = json.dumps(metrics, indent=1).encode()
    for path in [*([json_file] if json_file else []), out / "metrics.json"]:
        write_atomic(path, text)


def _written(out: Path) -> list[str]:
    return [name for name in RESULTS[1:] if (out / name).exists()]


def _print_places(out: Path, masks: Path | None, submission: Path | None, num_images: int) -> None:
    for path, what in ((masks, "the masks"), (submission, "the submission")):
        if path is not None:
            print(f"{path}: {what} of {num_images} images")
    print(f"{out / 'metrics.json'} holds these numbers; beside it {', '.join(_written(out))}")


def _print_results(accumulator: Accumulator, metrics: JSONDict, data: SegmentationData, recipe: Recipe) -> None:
    if accumulator.confusion.matrix.sum() == 0:
        print(f"{recipe.data.root}, split '{data.split}': no labelled pixel, so nothing could be scored")
        return
    print(
        table_text(
            accumulator.confusion,
            data.table.names,
            num_images=len(data),
            counts_absent_classes=data.counts_absent_classes,
        )
    )
    if "official" in metrics:
        names = ("class_iou", "class_iiou", "category_iou", "category_iiou")
        values = [metrics["official"][name] for name in names]  # null where nothing of the kind is there to be scored
        shown = ", ".join(f"{n} {'-' if v is None else f'{v:.4f}'}" for n, v in zip(names, values, strict=True))
        print(f"cityscapesscripts, equal to our own count: {shown}")


def recipe_for_scoring(checkpoint: Checkpoint, overrides: Sequence[str], preset: str | None = None) -> Recipe:
    """The checkpoint's recipe with a preset and then overrides laid on; those that would mean another network raise
    CheckpointError.
    """
    mapping = checkpoint.recipe if preset is None else merge(checkpoint.recipe, {"eval": preset_dict(preset)})
    for override in overrides:
        mapping = merge(mapping, parse_override(override))
    recipe = compose(mapping, file=str(checkpoint.path))
    changed = [key for key in differing_keys(recipe.to_dict(), checkpoint.recipe) if key.startswith("model.")]
    if changed:
        raise CheckpointError(f"{checkpoint.path}: was trained with another {', '.join(changed)}; drop that --set")
    return recipe


def _same_classes(checkpoint: Checkpoint, table: ClassTable) -> None:
    names = checkpoint.classes["names"]
    if names != list(table.names):
        raise CheckpointError(
            f"{checkpoint.path}: predicts {len(names)} classes ({', '.join(names[:3])} ...), but the data set has "
            f"{table.num_classes} ({', '.join(table.names[:3])} ...); score it on the data set it was trained on"
        )


def predict_files(run_or_file: Path, images: Sequence[Path], out: Path) -> None:
    """Writes ids, colour masks and overlays of any images, or of all images in the given folders."""
    ensure_writable(out)
    require_not_kept(out)
    files = _image_files(images)
    checkpoint = open_checkpoint(run_or_file)
    predictor: Predictor = predictor_of(checkpoint, recipe_for_scoring(checkpoint, ()))
    table = predictor.class_table
    with Background(WRITERS, waiting=2 * WRITERS) as writers, Progress("predict", len(files), unit="image") as progress:
        for path in files:
            image = read_image(path)
            writers.do(partial(write_masks, out, path.stem, predictor.predict(image), table, image=image))
            progress.advance()
    print(f"{len(files)} masks are under {out}: ids/, colour/, overlay/")


def _image_files(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inner = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != ".")
            if not inner:
                kinds = ", *".join(IMAGE_SUFFIXES)
                raise DataError(f"{path}: holds no images (*{kinds}); folders in it are not looked into")
            files += inner
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(f"{path}: no such file or folder")
    by_id: dict[str, Path] = {}
    for path in files:
        if path.stem in by_id:
            raise ConfigError(f"{path}: its masks would overwrite those of {by_id[path.stem]}; predict them apart")
        by_id[path.stem] = path
    return files
