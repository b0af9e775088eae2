import io

import numpy as np
from PIL import Image

from segnl.core import IGNORE
from segnl.evaluation.evaluate_run import evaluate_run
from segnl.reports.contact_sheet import GAP, HEADER, LINE, contact_sheet
from segnl.runs.run import open_run


def test_a_sheet_has_a_row_an_image_and_a_column_for_image_label_and_network(street_runs):
    run = open_run(street_runs[0])
    data, predictions = run.open_data("val"), evaluate_run(run)
    sheet = Image.open(io.BytesIO(contact_sheet({"fcn": predictions}, data, [2, 0], width=128)))
    total = 3 * (128 + GAP) + GAP
    assert sheet.width == total
    below = sheet.height - (HEADER + 2 * (64 + GAP))
    assert below > 0
    assert below % LINE == 0  # whole lines of the key
    pixels = np.asarray(sheet)
    second = HEADER + 64 + GAP
    sample = data.read(0)
    assert np.array_equal(pixels[second : second + 64, GAP : GAP + 128], sample.image)
    left = GAP + 128 + GAP
    assert np.array_equal(pixels[second : second + 64, left : left + 128], data.table.colour(sample.label))
    left += 128 + GAP
    mask = predictions.mask(0, data.table)
    assert np.array_equal(pixels[second : second + 64, left : left + 128], data.table.colour(mask))
    key = {tuple(colour) for colour in pixels[-below:].reshape(-1, 3).tolist()}
    masks = [mask for i in (2, 0) for mask in (data.read(i).label, predictions.mask(i, data.table))]
    present = set(np.unique(np.concatenate([mask.ravel() for mask in masks])).tolist()) - {IGNORE}
    colours = data.table.palette.tolist()
    assert {k for k in range(len(colours)) if tuple(colours[k]) in key} == present


def test_a_sheet_without_images_is_the_header(street_runs):
    run = open_run(street_runs[0])
    sheet = Image.open(io.BytesIO(contact_sheet({"fcn": evaluate_run(run)}, run.open_data("val"), [], width=128)))
    assert sheet.size == (3 * (128 + GAP) + GAP, HEADER)
