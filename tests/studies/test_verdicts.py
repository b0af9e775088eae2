from dataclasses import replace

import pytest

from segnl.metrics.statistics.comparison import Comparison
from segnl.studies.verdicts import BY_SEED, HOW_TO_READ, ONE_GROUP, bracket, pair_verdict, separability_verdicts

OPEN = Comparison("rcca", "aspp", 3, 3, 0.0031, -0.0018, 0.0082, p=0.15, p_holm=0.15, seeds_needed=(9, 21))
CLEAR = Comparison("rcca", "fcn", 3, 3, 0.02, 0.01, 0.03, p=0.0004, p_holm=0.0008)


def test_an_interval_that_ends_a_little_below_0_says_so():
    assert bracket(-0.0847, -0.00004) == "[-8.47, -0.00]"
    assert bracket(-0.0, 0.00004) == "[+0.00, +0.00]"


@pytest.mark.parametrize(
    ("pair", "verdict"),
    [
        (
            OPEN,
            "rcca - aspp: +0.31 [-0.18, +0.82], 3 seeds: not separable; showing a difference of this size would "
            "take 9 to 21 seeds per head",
        ),
        (
            replace(OPEN, seeds_needed=(40, None)),
            "rcca - aspp: +0.31 [-0.18, +0.82], 3 seeds: not separable; showing a difference of this size would "
            "take 40 to more than 200 seeds per head",
        ),
        (
            replace(OPEN, seeds_needed=None),
            "rcca - aspp: +0.31 [-0.18, +0.82], 3 seeds: not separable; the difference is within one standard error "
            "of 0, so no number of seeds can be planned from it",
        ),
        (
            replace(CLEAR, decisive_class=1),
            "rcca - fcn: +2.00 [+1.00, +3.00], 3 seeds: rcca is better (p < 0.001); without the class car it is not",
        ),
        (
            replace(CLEAR, by_score=-0.068),
            "rcca - fcn: +2.00 [+1.00, +3.00], 3 seeds: rcca is better (p < 0.001); -6.80 if the mean also "
            "counts classes that are predicted but in no label",
        ),
        (
            replace(OPEN, seeds_needed=(200, None)),
            "rcca - aspp: +0.31 [-0.18, +0.82], 3 seeds: not separable; showing a difference of this size would "
            "take more than 200 seeds per head",
        ),
        (
            replace(OPEN, seeds_needed=None, needs_images=True, difference=-0.00001),
            "rcca - aspp: +0.00 [-0.18, +0.82], 3 seeds: not separable; with these images, no number of seeds "
            "could show a difference of this size",
        ),
        (CLEAR, "rcca - fcn: +2.00 [+1.00, +3.00], 3 seeds: rcca is better (p < 0.001)"),
        (
            replace(CLEAR, difference=-0.02, low=-0.03, high=-0.01, p_holm=0.012, seeds_b=5),
            "rcca - fcn: -2.00 [-3.00, -1.00], 3 and 5 seeds: fcn is better (p = 0.012)",
        ),
        (
            replace(OPEN, p=0.03, p_holm=0.09, low=0.0001),
            "rcca - aspp: +0.31 [+0.01, +0.82], 3 seeds: not separable after the correction for 3 pairs; showing a "
            "difference of this size would take 9 to 21 seeds per head",
        ),
        (
            Comparison("a", "b", 1, 1, 0.01, images_low=-0.01, images_high=0.03, reason="one seed"),
            "a - b: +1.00, one seed: holds for these networks and says nothing about the heads; for these networks "
            "on new images: [-1.00, +3.00]",
        ),
        (
            Comparison("a", "b", 3, 3, 0.01, images_low=-0.01, images_high=0.03, reason="every seed scored the same"),
            "a - b: +1.00, 3 seeds, every seed scored the same: holds for these networks and says nothing "
            "about the heads; for these networks on new images: [-1.00, +3.00]",
        ),
        (
            Comparison("a", "b", 3, 3, 0.01, reason="one image"),
            "a - b: +1.00, one image: this says nothing about other images or about the heads",
        ),
        (
            Comparison("a", "b", 2, 2, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, reason="identical in every image"),
            "a - b: +0.00 [+0.00, +0.00], 2 seeds: not separable, identical in every image",
        ),
        (Comparison("a", "b", 0, 2, None, reason="no run of a counts"), "a - b: not comparable, no run of a counts"),
    ],
)
def test_the_verdict_on_a_pair(pair, verdict):
    assert pair_verdict(pair, 3, ["road", "car"]) == verdict


def how_to_read(pairs, images="and new images"):
    correction = f" after Holm's correction over the {pairs} of the study" if pairs else ""
    return HOW_TO_READ.format(correction=correction, images=images)


def test_verdicts_against_the_control_do_not_speak_of_other_pairs():
    other = replace(OPEN, a="psp", b="fcn")
    lead, *_, last = separability_verdicts([CLEAR, other])
    assert lead == "3 seeds per head: rcca is better than fcn (+2.00); no other tested pair is separable."
    assert "Heads are compared with fcn alone, not with each other." in last


def test_one_group_of_images_is_called_these_frames():
    lead, _, last = separability_verdicts([replace(CLEAR, num_groups=1, single_classes=(0, 1))])
    assert lead == "3 seeds per head, on these frames: rcca is better than fcn (+2.00)."
    assert last == f"{how_to_read('', 'on these frames')} {ONE_GROUP}"
    groups = separability_verdicts([replace(OPEN, num_groups=7, single_classes=(1,))], ["road", "car"])[-1]
    assert "for new seeds and new groups of images" in groups
    assert "The images are of 7 groups" in groups
    assert "In one group of images alone: car;" in groups


def test_the_first_sentence_names_the_separable_heads():
    other = Comparison("aspp", "fcn", 3, 3, 0.01, -0.01, 0.03, p=0.2, p_holm=0.2, seeds_needed=(12, 30))
    lead, *rest = separability_verdicts([other, CLEAR, OPEN])
    assert lead == "3 seeds per head: rcca is better than fcn (+2.00); no other pair is separable."
    assert len(rest) == 4
    assert rest[-1] == how_to_read("3 pairs")
    by_seed = separability_verdicts([other, replace(CLEAR, is_by_seed=True), OPEN])
    assert by_seed[-1] == f"{how_to_read('3 pairs')} {BY_SEED}"
    assert ", 3 seeds, seed by seed: rcca is better" in by_seed[2]
    assert separability_verdicts([other, OPEN])[0] == "3 seeds per head: no two heads are separable."
    assert separability_verdicts([OPEN])[0] == "3 seeds per head: the two heads are not separable."
    unequal = [CLEAR, Comparison("one", "fcn", 3, 1, 0.1, reason="one seed"), Comparison("none", "fcn", 0, 3, None)]
    assert (
        separability_verdicts(unequal)[0]
        == "1 to 3 seeds per head: rcca is better than fcn (+2.00); no other tested pair is separable."
    )
    both = replace(OPEN, p_holm=0.01)
    lead = separability_verdicts([both, CLEAR])[0]
    assert lead == "3 seeds per head: rcca is better than fcn (+2.00) and aspp (+0.31)."


def test_the_first_sentence_names_a_head_once_for_all_that_are_better_and_once_for_all_that_are_worse():
    worse = [replace(CLEAR, a=head, difference=-points / 100) for head, points in (("ann", 3.79), ("linear", 3.82))]
    better = [replace(CLEAR, a=head, difference=points / 100) for head, points in (("dpt", 4.58), ("uper", 11.6))]
    rcca = replace(CLEAR, difference=0.05)
    lead = separability_verdicts([*worse, *better, rcca, replace(OPEN, a="psp", b="fcn")])[0]
    assert lead == (
        "3 seeds per head: uper (+11.60), rcca (+5.00) and dpt (+4.58) are better than fcn; fcn is better than linear "
        "(+3.82) and ann (+3.79); no other tested pair is separable."
    )
