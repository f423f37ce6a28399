"""Bars of coverage, the occlusion curve of one network, outlines of body parts."""

import math

import numpy as np
import pytest
from matplotlib.colors import to_hex
from pixels import legend, noise

from aelm.figures import HeatmapRow, Panel, curves, heatmap_rows
from aelm.figures.curves import occlusion_chart, part_bars
from aelm.figures.heatmaps import TRACE, traced
from aelm.figures.page import INK, rgb

NEVER = (math.nan, math.nan, math.nan)


@pytest.fixture
def drawn(monkeypatch):
    figures = []
    monkeypatch.setattr(curves, "save", lambda figure, path: figures.append(figure))
    return figures


def test_bars_stand_where_they_should_with_chance_across(drawn, tmp_path):
    bars = {"stage 1": {"A": [(0.5, 0.1, 0.3), (0.25, 0.05, 0.2)], "B": [(0.75, 0.1, 0.3), NEVER]}}
    part_bars(bars, ["head", "bag"], tmp_path / "x.png", title="parts")
    (axes,) = drawn[0].axes
    assert [round(bar.get_height(), 6) for bar in axes.patches] == [50, 25, 75, 0]
    centres = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
    assert centres == pytest.approx([-0.2, 0.8, 0.2, 1.2])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["head", "bag"]
    assert set(legend(axes)) == {"A", "B", "by chance"}
    assert axes.patches[0].get_hatch() != axes.patches[2].get_hatch()  # not by colour alone


def test_the_curve_of_all_kinds_is_the_strong_one_with_its_interval(drawn, tmp_path):
    points = [(0.5, 0.4, 0.6), (0.25, 0.2, 0.3)]
    curves = {"mean": points, "below": [(0.5, 0.5, 0.5), (0.3, 0.3, 0.3)]}
    occlusion_chart({"mAP": curves, "rank1": curves}, [0.0, 0.3], tmp_path / "x.png")
    assert len(drawn[0].axes) == 2
    for axes in drawn[0].axes:
        mean, below = axes.get_lines()
        assert mean.get_xdata().tolist() == pytest.approx([0, 30])
        assert mean.get_ydata().tolist() == pytest.approx([50, 25])
        assert below.get_ydata().tolist() == pytest.approx([50, 30])
        assert mean.get_linewidth() > below.get_linewidth()
        assert to_hex(mean.get_color()) == INK
        (band,) = axes.collections
        assert band.get_paths()[0].get_extents().bounds == pytest.approx((0, 20, 30, 40))
        assert legend(axes) == ["mean", "below"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda path: part_bars({}, ["head"], path), "`panels` is empty; give at least one stage"),
        (lambda path: part_bars({"s": {"A": []}}, ["head"], path), "s, A: expected 1 bars, one a part, got 0"),
        (lambda path: occlusion_chart({}, [0.1], path), "`panels` is empty; give at least one score"),
        (lambda path: occlusion_chart({"mAP": {"side": []}}, [0.1], path), "mAP, side: expected 1 points, got 0"),
        (lambda path: occlusion_chart({"mAP": {"x": [(0, 0, 0)]}}, [0.1], path.with_suffix(".gif")), "png"),
    ],
)
def test_what_cannot_be_drawn_is_named(tmp_path, draw, message):
    with pytest.raises(ValueError, match=message):
        draw(tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_borders_of_labels_are_traced_and_nothing_else():
    image = noise(64, 32)
    labels = np.zeros((16, 8), np.uint8)
    labels[4:8] = 3
    found = traced(image, labels)
    changed = (found != image).any(2)
    rows = np.flatnonzero(changed.any(1))
    assert len(rows) == 2
    assert all(min(abs(row - 16), abs(row - 32)) <= 1 for row in rows)
    assert (found[rows] == rgb(TRACE)).all()
    assert np.array_equal(traced(image, np.zeros((16, 8), np.uint8)), image)


def test_a_heat_map_is_drawn_with_the_outlines_of_the_parts(tmp_path):
    labels = np.zeros((16, 8), np.uint8)
    labels[4:12, 2:6] = 1
    heat = np.random.default_rng(0).random((4, 2))
    plain, traced_too = (tmp_path / name for name in ("plain.png", "traced.png"))
    heatmap_rows([HeatmapRow(noise(64, 32), [Panel("A", heat)])], plain)
    heatmap_rows([HeatmapRow(noise(64, 32), [Panel("A", heat, labels=labels)])], traced_too)
    assert plain.read_bytes() != traced_too.read_bytes()
    with pytest.raises(ValueError, match=r"`labels` of panel 'A' of row 0 must be \(h, w\), got \(4,\)"):
        heatmap_rows([HeatmapRow(noise(64, 32), [Panel("A", heat, labels=np.zeros(4, np.uint8))])], plain)
