"""Arms side by side and occlusion curves: what is drawn is what was given."""

import math

import numpy as np
import pytest
from pixels import legend, read_png

from aelm.figures import comparison
from aelm.figures.comparison import ArmRow, Interval, Line, comparison_chart, occlusion_chart

NAN = math.nan
ROWS = [
    ArmRow("ifcn", [30.0, 34.0], Interval(32, 29, 35), None),
    ArmRow("a $ b_" + "c" * 80, [35.0], Interval(35, NAN, NAN), Interval(5, 3, 7)),
]
HOW = {"baseline": "ifcn", "interval": "95 % t-interval"}


@pytest.fixture
def drawn(monkeypatch):
    figures = []
    monkeypatch.setattr(comparison, "save", lambda figure, path: figures.append(figure))
    return figures


def points(axes):
    return [[list(map(float, xy)) for xy in zip(*line.get_data(), strict=True)] for line in axes.get_lines()]


def test_seeds_means_and_differences_stand_where_they_belong(drawn, tmp_path):
    comparison_chart({"x (%)": ROWS, "y": ROWS[:1]}, tmp_path / "x.png", **HOW)
    left, right, *_ = drawn[0].axes
    assert points(left) == [[[30, 0], [34, 0]], [[32, 0]], [[29, 0], [35, 0]], [[35, 1]], [[35, 1]]]
    assert points(right)[:2] == [[[5, 1]], [[3, 1], [7, 1]]]
    names = [text.get_text() for text in left.get_yticklabels()]
    assert names[0] == "ifcn"
    assert (len(names[1]), names[1][-1]) == (34, "…")
    assert (left.get_title(loc="left"), len(drawn[0].axes)) == ("x (%)", 4)
    assert left.get_ylim() == right.get_ylim()
    assert left.get_ylim()[0] > left.get_ylim()[1]  # the first arm on top


def test_curves_have_one_colour_an_arm_and_a_band(drawn, tmp_path):
    band = [Interval(70, 69, 71), Interval(50, 47, 53)]
    lines = [Line("ifcn", [0, 10], band), Line("aelm", [0, 10], band)]
    panels = {"mean": (lines, lines[1:]), "side": (lines[1:], [])}
    occlusion_chart(panels, tmp_path / "x.png", **HOW)
    above, below, side, _ = drawn[0].axes
    assert legend(above) == ["ifcn", "aelm"]
    assert above.get_lines()[1].get_color() == below.get_lines()[1].get_color() == side.get_lines()[0].get_color()
    np.testing.assert_allclose(above.get_lines()[0].get_ydata(), [70, 50])
    (low, high) = np.array([(p[:, 1].min(), p[:, 1].max()) for p in [above.collections[0].get_paths()[0].vertices]])[0]
    assert (low, high) == (47, 71)
    assert above.get_title(loc="left") == "mean over kinds"


def test_odd_input_is_drawn_and_nothing_is_refused(tmp_path):
    alone = {"k": ([Line("x", [0], [Interval(1, NAN, NAN)])], [])}
    for number, path in enumerate([occlusion_chart(alone, tmp_path / "o.png", **HOW),
                                   comparison_chart({"m": ROWS[1:]}, tmp_path / "c.png", **HOW)]):  # fmt: skip
        assert read_png(path).std() > 5, number
    with pytest.raises(ValueError, match="at least one metric with one arm"):
        comparison_chart({"m": []}, tmp_path / "x.png", **HOW)
    with pytest.raises(ValueError, match="at least one kind of occluder"):
        occlusion_chart({}, tmp_path / "x.png", **HOW)
