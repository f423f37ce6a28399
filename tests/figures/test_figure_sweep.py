import pytest
from pixels import read_png

from aelm.figures.comparison import SweepPoint, arrangement, sweep_chart


def points(*values, key="t"):
    return [SweepPoint({key: setting, "fixed": "1"}, value) for setting, value in values]


def test_what_runs_along_the_axis():
    assert arrangement(points(("0.5", 0.1), ("0.7", 0.2))) == ("t", [])
    mixed = [SweepPoint({"arm": a, "t": t, "seed": s}, 0.1) for a in "xyz" for t in ("0.5", "0.7") for s in "01"]
    assert arrangement(mixed) == ("t", ["arm"])  # numbers go along, though there are more arms
    assert arrangement([SweepPoint({"seed": s}, 0.1) for s in "01"]) == ("seed", [])
    assert arrangement(points(("0.5", 0.1))) == ("", [])
    # A key that only some points have varies as well.
    assert arrangement([SweepPoint({}, 0.1), SweepPoint({"t": "1"}, 0.1)])[0] == "t"


def drawn(tmp_path, found, name="x.png"):
    return sweep_chart(found, tmp_path / name, metric="val/mAP").read_bytes()


def test_values_failures_and_lines_show(tmp_path):
    plain = drawn(tmp_path, points(("0.5", 0.1), ("0.7", 0.2)))
    assert plain == drawn(tmp_path, points(("0.7", 0.2), ("0.5", 0.1)))  # whatever ended first
    assert plain != drawn(tmp_path, points(("0.5", 0.1), ("0.7", 0.3)))
    assert plain != drawn(tmp_path, [*points(("0.5", 0.1), ("0.7", 0.2)), *points(("0.9", None))])
    assert read_png(tmp_path / "x.png").std() > 5


@pytest.mark.parametrize(
    "found",
    [
        points(("0.5", None)),
        points(("a $ b_", 0.5), ("人", None), ("c" * 80, 1.0)),
        [SweepPoint({}, 0.5)],
        points(("0.5", None), ("0.5", 0.5), ("0.5", None)),
        [SweepPoint({"a": "1"}, 0.5), SweepPoint({"a": "x"}, 0.5), SweepPoint({}, float("nan"))],
    ],
)
def test_odd_sweeps_are_drawn(tmp_path, found):
    assert len(drawn(tmp_path, found)) > 1000


def test_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one point"):
        sweep_chart([], tmp_path / "x.png", metric="val/mAP")
