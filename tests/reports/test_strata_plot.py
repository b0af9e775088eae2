"""The picture of where the errors are."""

import io
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from segnl.core.errors import MachineError
from segnl.metrics.strata import Strata
from segnl.reports.chart_style import figure_bytes, new_figure, style_axes
from segnl.reports.strata_plot import strata_plot


def picture(strata: Strata) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(strata_plot(strata.to_dict(), title="val, 1 image"))).convert("RGB"))


def test_other_errors_are_another_picture() -> None:
    label = np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3) % 3, np.ones((15, 12), np.uint8))
    right, wrong = Strata(3), Strata(3)
    right.update(label, label)
    wrong.update(np.zeros_like(label), label)
    first, second = picture(right), picture(wrong)
    assert first.shape == second.shape
    assert first.min() < 100 < first.max()
    assert (first != second).any()


def test_what_is_undefined_is_left_out() -> None:
    assert picture(Strata(3)).shape[2] == 3


def test_a_name_that_looks_like_a_formula_is_drawn_as_it_stands() -> None:
    figure = new_figure(2, 2)
    style_axes(figure.subplots(), title=r"a$\frac$", x_label="$x", y_label="$$")
    assert figure_bytes(figure).startswith(b"\x89PNG")


def test_control_characters_of_a_name_leave_an_svg_readable() -> None:
    figure = new_figure(2, 2)
    style_axes(figure.subplots(), title="two\nlines \x1b[31m", x_label="\x00\udce9", y_label="a--b")
    assert ElementTree.fromstring(figure_bytes(figure, "svg")).tag.endswith("svg")


def test_a_matplotlib_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MachineError, match=r"^no picture: matplotlib cannot be imported \(.*\); install it$"):
        picture(Strata(3))
