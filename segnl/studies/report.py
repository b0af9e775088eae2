"""The page of a study: its results in the form that reports/page.py draws."""

from collections.abc import Sequence

from segnl.core.environment import machine
from segnl.core.files import shell_word, write_atomic
from segnl.evaluation.attention import RunAttention
from segnl.reports.attention import add_attention
from segnl.reports.charts import cost_plots, difference_chart, score_charts
from segnl.reports.contact_sheet import contact_sheet
from segnl.reports.error_map import error_map_plots, error_maps
from segnl.reports.gallery import gallery
from segnl.reports.learning_curves import learning_plots
from segnl.reports.page import DifferenceChart, Fact, Page, write_page
from segnl.runs.build import build_data
from segnl.runs.recipe import Recipe
from segnl.runs.run import finished_run
from segnl.runs.trust import dotted_names, trust_options
from segnl.studies.ablations import ablation_grid
from segnl.studies.control import is_varied, num_shared_tensors
from segnl.studies.learning_rates import rates_text
from segnl.studies.results import StudyResults
from segnl.studies.study import Study
from segnl.studies.table import BEST, heads_dict, table_columns, table_rows
from segnl.studies.verdicts import image_scope, verdicts

SHEET_IMAGES = 6


def write_report(results: StudyResults) -> None:
    """Writes STUDY/report.html and STUDY/sheet.png."""
    study = results.study
    data = build_data(study.runs[0].recipe, study.cfg.split)
    first_runs = {head: study.runs_of(head)[0] for head in study.heads}
    networks = {head: results.evaluations[run.name] for head, run in first_runs.items()}
    pictures = gallery(networks, data, num_images=study.cfg.gallery)
    looks = {
        head: RunAttention(finished_run(run.folder, run.recipe), networks[head], data)
        for head, run in first_runs.items()
    }
    attention_file = study.folder / "attention.json"
    attention = add_attention(pictures, looks, attention_file, num_images=study.cfg.attention_images, command="compare")
    indices = [data.sample_ids.index(image["id"]) for image in pictures["images"][:SHEET_IMAGES]]
    write_atomic(study.folder / "sheet.png", contact_sheet(networks, data, indices))
    runs = [results.counted_runs(head) for head in study.heads]
    counted = [[results.evaluations[run.name] for run in own] for own in runs]
    maps = error_maps({run.name: results.evaluations[run.name] for own in runs for run in own}, data)
    file, run = shell_word(study.file), shell_word(study.runs[0].folder)
    run += trust_options(dotted_names(study.runs[0].recipe.to_dict()))
    again = "".join(f" --set {shell_word(text)}" for text in study.overrides)
    page = Page(
        title=f"{study.name}: {', '.join(study.heads)}",
        kicker=_kicker(study),
        verdicts=[*verdicts(results), *([study.cfg.note] if study.cfg.note else [])],
        facts=_facts(results, data.table.names),
        columns=[*table_columns(results.heads, results.pairs).values()],
        rows=table_rows(results.heads, results.pairs),
        gallery=pictures,
        cost=cost_plots(heads_dict(results.heads)),
        ablations=ablation_grid(results.ablations),
        attention=attention,
        error_map=error_map_plots([[maps[run.name] for run in own] for own in runs]),
        learning=learning_plots([[run.folder for run in own] for own in runs]),
        charts=score_charts(counted, data.table.names, results.any_evaluation),
        differences=_differences(results),
        control=_control(results),
        refused=[f"{name} {reason}" for name, reason in results.refused.items()],
        gallery_note=_gallery_note(study),
        best_note=BEST,
        commands=[
            f"segnl compare --config {file}{again}    # this study again; finished runs are not trained again",
            f"segnl eval --checkpoint {run}    # the scores of one run, class by class",
            f"segnl predict --checkpoint {run} IMAGE_OR_DIR --out out    # masks for your own images",
        ],
    )
    write_page(study.folder / "report.html", page, "compare")


def _kicker(study: Study) -> str:
    if len(study.heads) > 1 and study.same_recipes == (study.heads,):
        return "segnl compare: one recipe under several names with other seeds; every difference is chance"
    if study.cfg.varies != ("model.head",):
        return f"segnl compare: one recipe, one evaluator; only {', '.join(study.cfg.varies)} may differ"
    return "segnl compare: one backbone, one data pipeline, one evaluator; only the head differs"


def _gallery_note(study: Study) -> str:
    if len(study.runs) == len(study.heads):
        return ""
    seeds = {head: study.runs_of(head)[0].seed for head in study.heads}
    if len(set(seeds.values())) == 1:
        return f"The masks of seed {study.runs[0].seed}."
    return f"The masks of each head's first seed: {', '.join(f'{head} {seed}' for head, seed in seeds.items())}."


def _facts(results: StudyResults, class_names: Sequence[str]) -> list[tuple[str, str]]:
    study, recipe, evaluation = results.study, results.study.runs[0].recipe, results.any_evaluation
    num_images, num_classes = len(evaluation.sample_ids), len(class_names)
    commonest, miou = evaluation.most_frequent_class()
    backbone = recipe.to_dict()["model"]["backbone"]
    rows, columns = recipe.data.crop_hw
    seeds = {head: ", ".join(map(str, study.seeds_of(head))) for head in study.heads}
    has_same_seeds = len(set(seeds.values())) == 1
    seeds_text = seeds[study.heads[0]] if has_same_seeds else "; ".join(f"{head}: {seeds[head]}" for head in seeds)
    recipes = {head: study.runs_of(head)[0].recipe for head in study.heads}
    facts = [
        ("Data", f"{recipe.data.title}, {num_images} {study.cfg.split} images, {num_classes} classes"),
        ("Budget", f"{study.steps_text} of {recipe.train.batch_size} crops, {rows}x{columns} pixels"),
        ("Seed" if len({run.seed for run in study.runs}) == 1 else "Seeds", seeds_text),
        ("Backbone", f"{backbone['name']}, output stride {backbone.get('output_stride', '?')}{_frozen_text(recipe)}"),
        ("Learning rate", rates_text(study.cfg.learning_rates, study.search.chosen if study.search else None, recipes)),
        (f"Predicting the commonest class alone ({class_names[commonest]})", f"{100 * miou:.1f} % mIoU"),
        ("Machine", str(machine()["cpu"])),
    ]
    git = [results.evaluations[run.name].metrics["git"] for run in study.runs]
    commits = [own["commit"][:10] + (" with changes" if own["dirty"] else "") for own in git if own["commit"]]
    return [*facts, ("Code", ", ".join(dict.fromkeys(commits)))] if commits else facts


def _frozen_text(recipe: Recipe) -> str:
    """Returns what a frozen backbone's heads were trained on; nothing for another backbone."""
    if not recipe.has_fixed_features:
        return ""
    kept = f", its maps kept in {recipe.train.features.dtype}" if recipe.train.features else ""
    return f", frozen: the heads learn from {recipe.data.views} fixed crops of each image{kept}"


def _differences(results: StudyResults) -> list[DifferenceChart]:
    """A chart for every head compared with the control, where both have runs that count."""
    control = results.study.heads[0]
    return [
        difference_chart(
            pair.a,
            control,
            {name: (own.difference, own.low, own.high) for name, own in classes.items()},
            is_about_heads=all(own.is_about_heads for own in classes.values()),
            images=image_scope(pair.num_groups),
        )
        for pair, classes in zip(results.pairs, results.classes, strict=True)
        if pair.b == control and classes
    ]


def _control(results: StudyResults) -> list[Fact]:
    study, varies = results.study, results.study.cfg.varies
    steps = "" if len(set(study.steps.values())) > 1 else f"{study.steps_text}, "
    same_recipe = Fact(
        f"The recipe, except for {', '.join(varies)} and the seed: data, {steps}optimiser, loss, evaluation.",
        "A study whose recipes differ elsewhere is refused before any training.",
    )
    seed = study.shared_seed
    if seed is None:
        own_seeds = Fact(
            "The heads have no seed in common, as the study's file says: initial weights and batches differ between "
            "heads.",
            "Each run was checked against what its recipe and seed give (hashes in compare.json).",
            holds=not results.refused,
        )
        return [same_recipe, own_seeds]
    runs = [run for run in study.runs if run.seed == seed]
    batches = sorted({results.hashes[run.name].batches for run in runs})
    backbones = sorted({results.hashes[run.name].modules()["backbone"] for run in runs})
    are_counted = not any(run.name in results.refused for run in runs)
    same_weights = Fact(
        "Initial weights, wherever two heads have a parameter of the same name and shape: "
        f"{num_shared_tensors(results.hashes, runs)} tensors in all heads.",
        f"SHA-256 of the backbone's, seed {seed}: {', '.join(backbones)}",
        holds=are_counted and (len(backbones) == 1 or is_varied("backbone", varies)),
    )
    same_batches = Fact(
        "Images, crops, flips and colour changes, in the same order.",
        f"SHA-256 of the first batches, seed {seed}: {', '.join(batches)}",
        holds=len(batches) == 1 or is_varied("batches", varies),
    )
    return [same_recipe, same_weights, same_batches]
