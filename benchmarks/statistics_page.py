"""Text of docs/statistics.md, with tables from benchmarks/results/{calibration,aa}/. benchmarks/pages.py writes it."""

import json
from pathlib import Path
from typing import Any

from command import commit_text
from studies_page import aa_section

Result = dict[str, Any]

METHOD = """\
# The statistics of a comparison

`segnl compare` estimates how much better one head is than another, with an interval. This page explains how, for a
reader who knows t intervals, and shows how often the intervals cover the true difference. `benchmarks/pages.py` writes
it; the tables come from `make calibrate` and `./run.sh bench aa`.

## What is estimated

The expected difference in data-set mIoU between two heads **when both are trained with new seeds and scored on new
images** of the same kind. Not: the difference of these trained networks on other images (that leaves out the seeds),
nor that of other seeds on exactly these images (that leaves out the images). A better head is better next time.

## The model

Data-set IoU is not a mean over images but a ratio of sums, intersections over unions. To first order it behaves like a
mean. Image *i* contributes to class *c*

    IoU_c + n (I_ic - IoU_c U_ic) / sum_j U_jc            (n images; I, U: intersection and union in pixels)

The mean of the contributions over the images is exactly IoU_c; their mean over the classes is the contribution to the
mIoU. Their variance is that of the jackknife (leave one image out), without its n re-computations.

The contribution of head *h*, seed *s*, image *i* is modelled as

    head + seed(h, s) + image(h, i) + residual(h, s, i)

The common component of `image` cancels, because both heads are scored on the same images. With S seeds a head and n
images, the variance of the difference of the two means has three components:

    seeds / S  +  images / n  +  residual / (S n)

- *Between seeds*: the variance of a head's mIoU over its runs, divided by S, added over both heads. It estimates
  the first and the third component.
- *Between images*: the variance over the images of the difference of the heads' mean contributions, divided by n. It
  estimates the second and the third component.
- *Residual*: both of them contain it. It is estimated separately, from the contributions without the effects of seeds
  and images, and counted once. The seeds' variance is at least the residual's, the images' at least 0.

The interval is the difference plus or minus Student's t times the root of that sum. Its degrees of freedom are
Satterthwaite's: those of the t distribution whose variance estimate is as uncertain as this sum. Three seeds a head
leave about four degrees of freedom when seeds dominate, many when images do.

Three refinements:

- *Rare classes.* A class that three images hold makes a few large contributions, and the variance of such numbers is
  less certain than n - 1 degrees of freedom imply. Their excess kurtosis lowers the degrees of freedom.
- *Other heads of the study.* With two seeds, a head's own variance has one degree of freedom, which makes intervals
  very wide. Pooling the variance over all heads gives more, and fails when heads differ in variance (see the second
  table). So each head borrows half a degree of freedom from the other heads: its variance moves a little towards
  their mean where that raises it, and is never lowered. The half degree itself narrows the interval, most at two
  seeds.
- *Seeds in pairs.* Runs of one seed share their batches and the initial weights of all modules that the heads have in
  common, and often score alike whatever the head. Every study tests whether they do: the F test of seeds in the layout
  of heads by seeds, p < 0.01. If so, heads are compared seed by seed: the variance over seeds is then that of the
  differences between runs of one seed, divided by S, with S - 1 degrees of freedom and half a one borrowed from the
  other pairs as above. If not, pairing would only halve the degrees of freedom, and is not done. All heads with several
  runs must have the same seeds; a refused run therefore prevents pairing.

## The verdicts

- All pairs of a study are tested, and p values are corrected for that by Holm's method. "rcca is better" means
  p < 0.05 after the correction; everything else is "not separable", which does not mean equal. The brackets are
  uncorrected 95 % intervals.
- "A difference of this size would take about 9 seeds a head": with that many, a true difference as large as the
  estimated one would pass Holm's hardest step with a probability of 80 %. The estimate rests on few seeds; use it for
  planning only.
- With one seed the variance over seeds is unknown, whatever the number of images. The interval is then for these
  networks on new images, marked "images only", without a p value.
- Differences of single classes have intervals of the same kind, with no correction over the classes.

Not covered: new training images, other recipes, images of another kind. Video frames of one scene count as independent
images, which they are not.

Special cases: a class in neither label nor prediction of a run is left out of its mean, as in the score. Heads may have
different numbers of seeds; if one of them has one, the pair is treated as one seed. A single image gives no interval.
Two heads that agree in every image differ by 0 [0, 0] and are not separable. Runs of a head that all score exactly the
same do not measure its variance, and the pair is treated as one seed.
"""

MAIN = """\
## Calibration

{studies:,} simulated studies a line: four heads, {images} images, 8 classes of which the rarest is in 8 % of the
images, pixel counts drawn from the model of `benchmarks/calibration_population.py`, random seed {seed}.

- *seeds' share*: of the variance of a difference.
- *covers*: how often the 95 % interval covers the true difference, over all six pairs; *worst*: the pair with the
  lowest coverage.
- *false*: how often two identical heads are called different (p < 0.05, before Holm's correction).
- *width*: mean width of the interval over that of an oracle who knows the variance.
- *sum*: coverage and, in brackets, width of another interval: variance over seeds plus variance over images as they
  are, with each head's own degrees of freedom.
- *bootstrap*: the same for the percentile bootstrap over images, which is common and ignores the variance over seeds;
  on the first {bootstrapped} studies.

"""

UNEQUAL = """\
## When heads differ in variance

Seeds dominate, and the last of the four heads varies more from seed to seed than the others: its standard deviation is
two or three times theirs. {studies:,} studies a line. `pooled`: one variance over seeds for all heads. It is not used,
because it fails for the pairs of the head that varies more. At three times the others' standard deviation and few
seeds, segnl's own intervals fall short too for the worst pair; the table says by how much.

"""

ALIKE = """\
## When runs of one seed score alike

As above, seeds dominate. *Shared*: how much of the variance of a seed's effect all four heads have in common, with
equal variances or with one head that varies twice as much. *By seed*: in how many studies the seeds agree, so that
heads are compared seed by seed. `unpaired`: heads are never compared so. {studies:,} studies a line.

"""

FAMILY = """\
## Four identical heads

How often any of the six pairs is called different after Holm's correction. {studies:,} studies a line; seeds and images
both vary.

"""


def statistics_page(results: Path) -> str:
    """Returns the page: the method, and the tables if the calibration was run."""
    path = results / "calibration" / "calibration.json"
    twice = aa_section(results / "aa")
    if not path.is_file():
        return f"{METHOD}\n## Calibration\n\nNot run yet: `make calibrate`.\n\n{twice}"
    result = json.loads(path.read_text())
    lines = {group: [cell for cell in result["cells"] if cell["group"] == group] for group in GROUPS}
    parts = [METHOD]
    for group, (text, table) in GROUPS.items():
        words = text.format(**(result | {"studies": lines[group][0]["studies"]}))
        parts.append(words + "\n".join(table(lines[group])) + "\n")
    return "\n".join([*parts, _origin(result), twice])


def _main_table(cells: list[Result]) -> list[str]:
    lines = [
        "| what varies | seeds | seeds' share | covers | worst | false | width | sum | bootstrap |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    names = {"seeds": "seeds mostly", "both": "both", "images": "images mostly"}
    for cell in cells:
        values = [
            names[cell["name"]],
            str(cell["seeds"]),
            f"{100 * cell['seed_share']:.0f} %",
            _percent(cell["coverage"]),
            _percent(cell["worst_coverage"]),
            _percent(cell["false_alarms"]),
            f"{cell['width_ratio']:.2f}",
            _with_width(cell, "plain_sum_"),
            _with_width(cell, "bootstrap_"),
        ]
        lines.append(f"| {' | '.join(values)} |")
    return lines


def _unequal_table(cells: list[Result]) -> list[str]:
    lines = [
        "| heads | seeds | covers | worst pair | width | pooled covers | pooled, worst pair | pooled width |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for cell in cells:
        values = [
            cell["name"],
            str(cell["seeds"]),
            _percent(cell["coverage"]),
            _percent(cell["worst_coverage"]),
            f"{cell['width_ratio']:.2f}",
            _percent(cell["pooled_coverage"]),
            _percent(cell["pooled_worst_coverage"]),
            f"{cell['pooled_width_ratio']:.2f}",
        ]
        lines.append(f"| {' | '.join(values)} |")
    return lines


def _alike_table(cells: list[Result]) -> list[str]:
    lines = [
        "| shared | seeds | by seed | covers | worst pair | false | width | unpaired covers | unpaired width |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for cell in cells:
        values = [
            cell["name"],
            str(cell["seeds"]),
            f"{100 * cell['by_seed']:.0f} %",
            _percent(cell["coverage"]),
            _percent(cell["worst_coverage"]),
            _percent(cell["false_alarms"]),
            f"{cell['width_ratio']:.2f}",
            _percent(cell["unpaired_coverage"]),
            f"{cell['unpaired_width_ratio']:.2f}",
        ]
        lines.append(f"| {' | '.join(values)} |")
    return lines


def _family_table(cells: list[Result]) -> list[str]:
    lines = ["| seeds | any pair called different | a given pair, uncorrected |", "|---:|---:|---:|"]
    for cell in cells:
        lines.append(f"| {cell['seeds']} | {_percent(cell['false_alarms_holm'])} | {_percent(cell['false_alarms'])} |")
    return lines


GROUPS = {
    "main": (MAIN, _main_table),
    "unequal": (UNEQUAL, _unequal_table),
    "alike": (ALIKE, _alike_table),
    "identical": (FAMILY, _family_table),
}


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _with_width(cell: Result, prefix: str) -> str:
    return f"{_percent(cell[f'{prefix}coverage'])} ({cell[f'{prefix}width_ratio']:.2f})"


def _origin(result: Result) -> str:
    commit = commit_text(result)
    return (
        f"{result['machine']['cpu']}; {result['cpu_s']} s of processor time; numpy {result['versions']['numpy']}; "
        f"commit {commit}.\n"
    )
