"""`segnl eval` and `segnl predict`: a trained network's numbers and masks, in files."""

import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from segnl.core.config import Tree, merge, parse_override
from segnl.core.distributed import ALONE, Ranks
from segnl.core.errors import CheckpointError, ConfigError, DataError
from segnl.core.files import ensure_writable, inside, write_atomic
from segnl.datasets.base import IMAGE_SUFFIXES
from segnl.datasets.reading import read_image
from segnl.datasets.sample import Sample
from segnl.engine.build import build_data
from segnl.engine.checkpoint import Checkpoint, open_checkpoint
from segnl.engine.evaluate import evaluate
from segnl.engine.predictor import Predictor, predictor_of
from segnl.engine.progress import Progress
from segnl.engine.recipe import Recipe, compose, differing_keys
from segnl.inspection.masks import write_masks
from segnl.labels.table import ClassTable
from segnl.metrics.cityscapes_official import official_scores
from segnl.metrics.report import metrics_json, table_text

CITYSCAPES_LAYOUT = ("cityscapes", "streets")


def score(
    run_or_file: Path,
    *,
    split: str,
    overrides: Sequence[str] = (),
    masks: Path | None = None,
    json_file: Path | None = None,
    official: bool = False,
    ranks: Ranks = ALONE,
) -> Tree:
    """Scores a checkpoint on a split: prints the table, writes and returns RUN/eval/SPLIT-MODE/metrics.json.

    ranks: each scores its own images and writes their masks; rank 0 does all the rest, the others return {}.
    official: also by cityscapesscripts on the written masks, whose folder must then hold this split's alone.
    """
    checkpoint = ranks.together(lambda: open_checkpoint(run_or_file))
    recipe = recipe_for_scoring(checkpoint, overrides)
    out = inside(checkpoint.path.parent / "eval", f"{split}-{recipe.eval.mode}")
    if official and (masks is None or recipe.data.name not in CITYSCAPES_LAYOUT):
        raise ConfigError("--official: needs --masks DIR and a data set in Cityscapes' layout")
    data = build_data(recipe, split)
    for folder in [out, *([masks] if masks else []), *([json_file.parent] if json_file else [])]:
        ensure_writable(folder)
    _same_classes(checkpoint, data.table)
    predictor = predictor_of(checkpoint, recipe)

    def keep(sample: Sample, predicted: Tensor) -> None:
        if masks is not None:
            write_masks(masks, sample.stem, predicted.cpu().numpy(), data.table, image=sample.image, label=sample.label)

    confusion = evaluate(predictor, data, recipe=recipe, on_result=keep, ranks=ranks)
    if not ranks.is_main:
        return {}
    metrics = metrics_json(confusion, data.table.names, num_images=len(data), dataset=recipe.data.name)
    metrics |= {
        "checkpoint": checkpoint.path.name,
        "step": checkpoint.step,
        "split": split,
        "eval": recipe.tree()["eval"],
    }
    if official and masks is not None:
        metrics["official"] = official_scores(recipe.data.root.expanduser(), split, masks / "ids")
    text = json.dumps(metrics, indent=1).encode()
    write_atomic(out / "metrics.json", text)
    if json_file is not None:
        write_atomic(json_file, text)
    print(table_text(confusion, data.table.names, num_images=len(data), dataset=recipe.data.name))
    if "official" in metrics:
        names = ("class_iou", "class_iiou", "category_iou", "category_iiou")
        shown = ", ".join(f"{name} {metrics['official'][name]:.4f}" for name in names)
        print(f"cityscapesscripts, equal to our own count: {shown}")
    print(f"{out / 'metrics.json'} holds these numbers" + (f"; masks are under {masks}" if masks else ""))
    return metrics


def recipe_for_scoring(checkpoint: Checkpoint, overrides: Sequence[str]) -> Recipe:
    """The checkpoint's recipe with overrides laid on; those that would mean another network raise CheckpointError."""
    tree = checkpoint.recipe
    for override in overrides:
        tree = merge(tree, parse_override(override))
    recipe = compose(tree, file=str(checkpoint.path))
    changed = [key for key in differing_keys(recipe.tree(), checkpoint.recipe) if key.startswith("model.")]
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
    files = _image_files(images)
    checkpoint = open_checkpoint(run_or_file)
    predictor: Predictor = predictor_of(checkpoint, recipe_for_scoring(checkpoint, ()))
    with Progress("predict", len(files), unit="image") as progress:
        for path in files:
            image = read_image(path)
            write_masks(out, path.stem, predictor.predict(image), predictor.class_table, image=image)
            progress.advance()
    print(f"{len(files)} masks are under {out}: ids/, colour/, overlay/")


def _image_files(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inner = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != ".")
            if not inner:
                raise DataError(f"{path}: holds no images (*{', *'.join(IMAGE_SUFFIXES)})")
            files += inner
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(f"{path}: no such file or folder")
    by_stem: dict[str, Path] = {}
    for path in files:
        if path.stem in by_stem:
            raise ConfigError(f"{path}: its masks would overwrite those of {by_stem[path.stem]}; predict them apart")
        by_stem[path.stem] = path
    return files
