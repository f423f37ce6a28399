"""Curves: the lines that are drawn, and the logs they are read from."""

import numpy as np
import pytest
import torch
from pixels import legend
from pytorch_lightning.loggers import CSVLogger

from aelm.figures import cmc_curve, read_history, training_curves
from aelm.figures.curves import line_style, panel_of, running_mean


def test_the_cmc_shows_each_test_set_up_to_rank_20(charts, tmp_path):
    long, short = np.linspace(0.4, 0.9, 50), [0.75, 0.8]
    cmc_curve({"test": long, "_hidden $x_1$\n": short}, tmp_path / "cmc.png", mean_ap={"test": 0.3141})
    (axes,) = charts[0].axes
    first, second = axes.get_lines()
    np.testing.assert_array_equal(first.get_xdata(), np.arange(1, 21))
    np.testing.assert_allclose(first.get_ydata(), 100 * long[:20])
    np.testing.assert_allclose(second.get_ydata(), [75, 80])
    assert legend(axes) == ["test: rank-1 40.0, mAP 31.4", "_hidden $x_1$ : rank-1 75.0"]
    bottom, top = axes.get_ylim()
    assert bottom < 40
    assert top >= 100


def test_a_cmc_of_one_rank_and_of_torch_numbers_is_drawn(tmp_path):
    assert cmc_curve({"test": [0.0]}, tmp_path / "cmc.png").stat().st_size > 1000
    assert cmc_curve({"test": torch.tensor([0.1, 1.0])}, tmp_path / "cmc.png", max_rank=1).stat().st_size > 1000


@pytest.mark.parametrize("values", [[], [0.1, 1.2], [-0.1], [float("nan")], [[0.1, 0.2]]])
def test_a_cmc_that_is_no_share_is_refused(tmp_path, values):
    with pytest.raises(ValueError, match=r"the curve of 'test' must be shares in 0\.\.1"):
        cmc_curve({"test": values}, tmp_path / "cmc.png")


def test_a_cmc_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing to draw: `curves`"):
        cmc_curve({}, tmp_path / "cmc.png")
    with pytest.raises(ValueError, match="`max_rank` must be at least 1, got 0"):
        cmc_curve({"test": [1.0]}, tmp_path / "cmc.png", max_rank=0)


def test_lines_look_different():
    assert len({line_style(index) for index in range(12)}) == 12
    assert len({line_style(index)[1] for index in range(4)}) == 4


@pytest.mark.parametrize(
    ("name", "panel"),
    [
        ("train/loss", "Loss"),
        ("train/loss_epoch", "Loss"),
        ("train/loss/stage1/A", "Loss"),
        ("train/triplet_loss", "Loss"),
        ("val/loss", "Loss"),
        ("train/rank1", "Training accuracy"),
        ("train/accuracy/B", "Training accuracy"),
        ("val/mAP", "Validation"),
        ("val_occluded/rank1", "Validation"),
        ("lr-Adam", "Learning rate"),
        ("lr-SGD/pg1", "Learning rate"),
        ("lr-SGD/pg1-momentum", None),
        ("train/erased_fraction/stage1", "Erased fraction of the map"),
        ("test/mAP", None),
        ("train/flossy", None),
        ("epoch", None),
    ],
)
def test_each_metric_finds_its_panel(name, panel):
    assert panel_of(name) == panel


def series(count, start=1.0):
    return [(10 * index, start / (1 + index)) for index in range(count)]


FIVE = {"train/loss": series(9), "train/rank1": series(5), "val/mAP": series(2), "val/rank1": series(2),
        "lr-SGD": series(9), "train/erased_fraction/stage1": series(4), "test/mAP": series(1)}  # fmt: skip


@pytest.mark.parametrize(
    "missing", [(), ("lr-SGD",), ("val/mAP",), ("val/mAP", "val/rank1", "train/rank1"), tuple(FIVE)[1:]]
)
def test_missing_series_leave_no_panel_and_no_hole(charts, tmp_path, missing):
    history = {name: points for name, points in FIVE.items() if name not in missing} | {"val/loss": []}
    training_curves(history, tmp_path / "training.png")
    panels = charts[0].axes
    drawn = {name for axes in panels for name in legend(axes)}
    assert drawn == set(history) - {"test/mAP", "val/loss"}
    assert len(panels) == len({panel_of(name) for name in drawn})
    specs = [axes.get_subplotspec() for axes in panels]
    taken = sorted((row, column) for spec in specs for row in spec.rowspan for column in spec.colspan)
    rows, columns = specs[0].get_gridspec().get_geometry()
    assert taken == [(row, column) for row in range(rows) for column in range(columns)]


def test_fractions_are_shown_in_percent_and_steps_as_logged(charts, tmp_path):
    training_curves({"val/mAP": [(100, 0.25), (200, 0.5)], "train/loss": [(7, 3.0)]}, tmp_path / "training.png")
    loss, validation = charts[0].axes
    np.testing.assert_allclose(validation.get_lines()[0].get_xydata(), [[100, 25], [200, 50]])
    np.testing.assert_allclose(loss.get_lines()[0].get_xydata(), [[7, 3]])
    assert loss.get_lines()[0].get_marker() == "o"


def test_losses_that_are_not_finite_leave_gaps_and_are_named(charts, tmp_path):
    nan, inf = float("nan"), float("inf")
    training_curves({"train/loss": [(0, 1.0), (1, nan), (2, 3.0)], "val/loss": [(0, inf)]}, tmp_path / "training.png")
    (axes,) = charts[0].axes
    np.testing.assert_array_equal(axes.get_lines()[0].get_ydata(), [1, nan, 3])
    assert legend(axes) == ["train/loss", "val/loss (never finite)"]
    charts[0].canvas.draw()


def test_long_series_are_smoothed_but_not_the_learning_rate(charts, tmp_path):
    rng = np.random.default_rng(0)
    noisy = [(step, float(value)) for step, value in enumerate(5 + rng.normal(size=20_000))]
    steep = [(step, float(step >= 100)) for step in range(200)]
    training_curves({"train/loss": noisy, "lr-SGD": steep}, tmp_path / "training.png")
    loss, rate = charts[0].axes
    raw, smooth = loss.get_lines()
    assert np.std(smooth.get_ydata()[300:-300]) < 0.1 * np.std(raw.get_ydata())
    assert len(raw.get_xdata()) <= 3000
    np.testing.assert_array_equal(rate.get_lines()[0].get_ydata(), [value for _, value in steep])


def test_the_running_mean_equals_its_slow_twin_and_keeps_straight_lines():
    rng = np.random.default_rng(0)
    for length, reach in ((1, 3), (2, 1), (9, 2), (30, 7), (5, 0)):
        values = rng.normal(size=length)
        values[rng.random(length) < 0.2] = np.nan
        expected = []
        for place, value in enumerate(values):
            near = min(reach, place, length - 1 - place)
            window = [other for other in values[place - near : place + near + 1] if not np.isnan(other)]
            expected.append(np.nan if np.isnan(value) else sum(window) / len(window))
        np.testing.assert_allclose(running_mean(values, reach), expected, atol=1e-12)
    line = np.linspace(3, -4, 50)
    np.testing.assert_allclose(running_mean(line, 6), line, atol=1e-12)


def test_a_history_without_training_metrics_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"nothing to draw: no training metric among \['test/mAP'\]; expected such as"):
        training_curves({"test/mAP": [(0, 0.5)]}, tmp_path / "training.png")


# Lightning's metrics.csv


def test_reads_what_lightning_writes(tmp_path):
    logger = CSVLogger(tmp_path, name=None, version="")
    logger.log_metrics({"train/loss": 2.5, "epoch": 0}, step=9)
    logger.log_metrics({"lr-SGD/pg1": 0.05}, step=9)
    logger.log_metrics({"val/mAP": 0.25, "epoch": 0}, step=19)
    logger.save()  # new columns later on make it write the file anew
    logger.log_metrics({"train/loss": float("nan"), "train/rank1": 1.0, "epoch": 1}, step=29)
    logger.save()
    (path,) = tmp_path.rglob("metrics.csv")
    history = read_history(path)
    assert {name: points for name, points in history.items() if name != "train/loss"} == {
        "lr-SGD/pg1": [(9, 0.05)],
        "val/mAP": [(19, 0.25)],
        "train/rank1": [(29, 1.0)],
    }
    (first, second) = history["train/loss"]
    assert first == (9, 2.5)
    assert second[0] == 29
    assert np.isnan(second[1])
    assert training_curves(history, tmp_path / "training.png").exists()


def test_reads_a_log_whose_last_line_was_cut(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train/loss,val/mAP\n0,9,2.5,\n0,19,,0.5\n1,29")
    assert read_history(path) == {"train/loss": [(9, 2.5)], "val/mAP": [(19, 0.5)]}


def test_logs_that_are_none_are_refused_by_name(tmp_path):
    path = tmp_path / "metrics.csv"
    with pytest.raises(FileNotFoundError, match=r"metrics\.csv"):
        read_history(path)
    for content, columns in (("", r"\[\]"), ("a,b\n1,2\n", r"\['a', 'b'\]")):
        path.write_text(content)
        with pytest.raises(ValueError, match=f"must have a `step` column, got {columns}"):
            read_history(path)
    path.write_text("step,train/loss\n0,1.0\n1,many\n")
    with pytest.raises(ValueError, match=r"line 3 of .*metrics\.csv.* got step '1' and train/loss 'many'"):
        read_history(path)
