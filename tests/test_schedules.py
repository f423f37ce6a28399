import itertools

import pytest

from aelm.schedules import constant, cosine, multistep, ramp


def test_bots_schedule():
    """Luo et al. 2019: 10 epochs of linear warm-up from a hundredth, a tenth at 40, again at 70."""
    assert multistep(0, 120) == pytest.approx(0.01)
    assert multistep(5, 120) == pytest.approx(0.505)
    assert [multistep(e, 120) for e in (10, 39.99)] == [1, 1]
    assert [multistep(e, 120) for e in (40, 69.9, 70, 119)] == pytest.approx([0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("epochs", [3, 20, 120])
def test_cosine_falls_from_one_to_its_end(epochs):
    values = [cosine(e / 10, epochs, final_factor=0.1, warmup_epochs=2) for e in range(20, 10 * epochs + 1)]
    assert values[0] == pytest.approx(1)
    assert values[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(values))


def test_no_warm_up_and_trainings_shorter_than_it():
    assert constant(0, 5) == 1
    assert cosine(0, 5, warmup_epochs=0) == 1
    assert 0 < cosine(4, 5, warmup_epochs=10) < 1
    assert cosine(12, 10, warmup_epochs=10) == pytest.approx(0)


def test_a_ramp_rises_stays_and_stops():
    values = [ramp(e, 100, start=0.1, full=0.4, stop=0.8) for e in range(100)]
    assert values[:11] == [0.0] * 11
    assert all(a < b for a, b in itertools.pairwise(values[10:41]))
    assert values[40:80] == [1.0] * 40
    assert values[80:] == [0.0] * 20
    assert ramp(0, 10) == 0
    assert ramp(0, 10, full=0.0) == 1


@pytest.mark.parametrize("shares", [(0.5, 0.6, 0.5), (0.5, 0.4, 0.9), (-0.1, 0.3, 0.9), (0, 0.3, 1.2)])
def test_a_ramp_that_never_erases_is_refused(shares):
    with pytest.raises(ValueError, match=r"in shares of the training, got .* it would never erase"):
        ramp(0, 10, *shares)
