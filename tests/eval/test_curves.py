"""The curves of the report: what is drawn is what was given, on an axis that can be read."""

import math
import re

import pytest

from eval.report.curves import curves, log_ticks, short_number, side_by_side, thinned
from eval.report.figures import Series


def drawn(figure):
    """The polylines' points, in the order of the SVG."""
    found = re.findall(r'<polyline class="line[^"]*" points="([^"]*)"', figure)
    return [[tuple(map(float, point.split(","))) for point in line.split()] for line in found]


def series(x, y, **more):
    return Series(name="run", css="s0", x=x, y=y, **more)


def test_a_smaller_value_is_drawn_lower_and_later_samples_further_right():
    for log_y in (False, True):
        (line,) = drawn(curves([series([10, 20, 40], [4.0, 2.0, 1.0])], x_label="x", y_label="y", log_y=log_y))
        assert [x for x, _ in line] == sorted(x for x, _ in line)
        assert [y for _, y in line] == sorted(y for _, y in line), "y grows downwards on a screen"
    equal = [y for _, y in line]
    assert equal[1] - equal[0] == pytest.approx(equal[2] - equal[1], abs=0.2), "halving is one step on a log axis"


def test_points_that_were_not_measured_are_left_out_and_a_line_of_none_is_not_drawn():
    figure = curves([series([1, 2, 3], [1.0, None, math.nan]), series([1], [None])], x_label="x", y_label="y")
    assert [len(line) for line in drawn(figure)] == [1]
    assert curves([series([], [])], x_label="x", y_label="y") == ""
    assert side_by_side(["", ""]) == ""


def test_a_long_curve_is_thinned_without_changing_its_mean_and_keeps_its_last_value():
    x = list(range(10_001))
    thin = thinned(series(x, [float(v) for v in x]), most=101)
    assert len(thin.x) == 101
    assert thin.y[-1] == 10_000
    assert math.fsum(thin.y[:-1]) / 100 == pytest.approx(4999.5)


def test_a_band_where_only_some_points_have_one_closes_on_the_line():
    figure = curves([series([1, 2], [2.0, 1.0], band=([1.5, None], [2.5, None]))], x_label="x", y_label="y")
    polygon = re.search(r'<polygon class="band s0" points="([^"]*)"', figure).group(1).split()
    assert polygon[1] == polygon[2], "no band at the second point"
    assert polygon[0] != polygon[3]


@pytest.mark.parametrize(("low", "high"), [(0.2, 6.0), (0.011, 0.012), (1e-4, 1.0), (3.0, 3.0)])
def test_log_ticks_enclose_what_is_shown_and_are_few(low, high):
    ticks = log_ticks(low, high)
    assert ticks[0] <= low <= high <= ticks[-1]
    assert ticks == sorted(set(ticks))
    assert 2 <= len(ticks) <= 10


def test_names_cannot_become_markup_and_numbers_are_short():
    figure = curves([Series(name="<b>", css="s1", x=[1], y=[1.0])], x_label="<i>", y_label="&", title="<u>")
    assert "<b>1.00" in figure, "the legend's own"
    for raw in ("<b></", "<i></text", "<u>"):
        assert raw not in figure
    assert [short_number(v) for v in (0.25, 800.0, 50_000.0, 1.2e6)] == ["0.25", "800", "50k", "1.2M"]
