import io

import numpy as np
from PIL import Image

from segnl.evaluation.attention import AttentionRow
from segnl.reports.attention_picture import GAP, HEADER, SCALE, attention_picture, colours, overlay
from segnl.reports.chart_style import DIVERGING, SEQUENTIAL

PHOTO = np.random.default_rng(0).integers(0, 256, (28, 44, 3)).astype(np.uint8)


def row(weights, kind="softmax"):
    return AttentionRow(kind, np.asarray(weights, np.float32), 1.0, 2.0)


def test_the_scales_have_their_stops_and_0_is_clear():
    assert colours(np.array([0.0, 1.0]), is_signed=False).tolist() == [
        [SEQUENTIAL[0][0], *SEQUENTIAL[0][1]],
        [SEQUENTIAL[-1][0], *SEQUENTIAL[-1][1]],
    ]
    assert colours(np.array([0.5]), is_signed=True)[0, 0] == DIVERGING[2][0] == SEQUENTIAL[0][0] == 0


def test_weights_of_0_show_the_darkened_photo_and_the_largest_the_brightest_colour():
    painted = overlay(PHOTO, row([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]))
    assert np.ptp(painted[:14], axis=2).max() == 0  # grey
    alpha, rgb = SEQUENTIAL[-1]
    assert np.abs(painted[20, 40] - alpha * np.array(rgb)).max() <= (1 - alpha) * 255


def test_signed_weights_are_blue_below_0_and_orange_above():
    painted = overlay(PHOTO, row([[-1.0, 0.0, 1.0, 0.0]], "signed")).astype(int)
    assert painted[10, 5, 2] > painted[10, 5, 0]
    assert painted[10, 27, 0] > painted[10, 27, 2]
    assert np.ptp(painted[10, 16]) == 0
    none = overlay(PHOTO, row([[0.0, 0.0]], "signed"))
    assert np.ptp(none, axis=2).max() == 0


def test_a_panel_for_each_measure_and_a_row_for_each_network():
    networks = {
        "rcca": {"all hops": row(np.eye(7, 11)), "hop 1": row(np.eye(7, 11)), "receptive field": row(np.eye(7, 11))},
        "psp": {"receptive field": row(np.eye(7, 11), "gradient")},
    }
    picture = Image.open(io.BytesIO(attention_picture(PHOTO, (27, 0), networks, width=88)))
    assert picture.size == (GAP + 4 * (88 + GAP), 2 * (HEADER + 56 + GAP) + SCALE)
    pixels = np.asarray(picture)
    last = slice(GAP + 3 * (88 + GAP), GAP + 3 * (88 + GAP) + 88)
    below = slice(2 * HEADER + 56 + GAP, 2 * HEADER + 2 * 56 + GAP)
    assert (pixels[below, last] < 255).any(axis=2).mean() > 0.9  # psp's only panel: in the fields' column
    assert (pixels[below, GAP : GAP + 88] == 255).all()
