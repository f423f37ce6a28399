"""Heat maps against laws and a slow twin, and at known pixels."""

import numpy as np
import pytest
from pixels import noise, read_png

from aelm.figures import HeatmapRow, Panel, heatmap_rows
from aelm.figures.heatmaps import blanked, normalised, outlined, overlay


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_normalised_spans_zero_to_one_whatever_the_range(dtype):
    heat = np.random.default_rng(0).normal(size=(16, 8)).astype(dtype)
    scaled = normalised(heat)
    assert scaled.dtype == np.float32
    assert (scaled.min(), scaled.max()) == (0, 1)
    np.testing.assert_allclose(normalised(3 * heat.astype(np.float64) - 7), scaled, atol=1e-6)
    np.testing.assert_array_equal(np.argsort(scaled, None, kind="stable"), np.argsort(heat, None, kind="stable"))


@pytest.mark.parametrize("value", [0.0, -3.0, 1e30, 1e-30, 0.1])
def test_a_constant_map_has_no_heat(value):
    heat = np.full((5, 3), value, np.float32)
    assert (normalised(heat) == 0).all()
    heat[2, 1] = np.nextafter(heat[2, 1], np.float32(np.inf))
    assert value == 0 or (normalised(heat) == 0).all()
    image = noise(50, 30)
    grey = image @ [0.299, 0.587, 0.114]
    expected = 0.5 * image + 0.5 * grey[:, :, None]
    assert np.abs(overlay(image, np.full((5, 3), value)) - expected).max() <= 0.5


@pytest.mark.parametrize(
    ("shape", "size"), [((16, 8), (128, 64)), ((1, 2), (30, 60)), ((7, 3), (55, 41)), ((40, 40), (20, 20))]
)
def test_the_overlay_is_hottest_where_the_map_is(shape, size):
    heat = np.zeros(shape)
    heat[-1, -1] = 1
    black = np.zeros((*size, 3), np.uint8)
    light = overlay(black, heat).astype(int).sum(axis=2)
    row, column = np.unravel_index(light.argmax(), size)
    assert row >= size[0] * (1 - 1.5 / shape[0]) - 1
    assert column >= size[1] * (1 - 1.5 / shape[1]) - 1
    assert light[0, 0] < light.max() / 4


def test_blanking_hides_whole_positions_and_only_those():
    rng = np.random.default_rng(0)
    for shape, size in (((16, 8), (64, 32)), ((4, 2), (100, 50)), ((3, 5), (9, 10)), ((6, 6), (4, 4))):
        mask = rng.random(shape) < 0.4
        image = np.full((*size, 3), (255, 0, 255), np.uint8)
        gone = (blanked(image, mask) != image).any(axis=2)
        expected = np.zeros(size, bool)
        for row in range(size[0]):  # the slow twin: each pixel asks the position it lies in
            for column in range(size[1]):
                expected[row, column] = mask[int(row * shape[0] / size[0]), int(column * shape[1] / size[1])]
        np.testing.assert_array_equal(gone, expected)
        assert (image == (255, 0, 255)).all()


def test_an_outline_runs_along_the_border_only():
    image = np.full((80, 40, 3), 100, np.uint8)
    np.testing.assert_array_equal(outlined(image, np.zeros((8, 4), bool)), image)
    mask = np.zeros((8, 4), bool)
    mask[2:6, 1:3] = True  # rows 20 to 59, columns 10 to 29
    drawn = outlined(image, mask)
    assert (drawn[19:21, 10:30] == 255).all()
    assert (drawn[26:54, 16:24] == 100).all()
    assert (drawn[:15] == 100).all()
    assert (image == 100).all()


def test_heatmap_rows_show_the_picture_its_heat_and_what_was_erased(tmp_path):
    image = noise(320, 160)  # the size at which it is shown: nothing is resampled
    heat = np.random.default_rng(1).random((16, 8))
    mask = heat > 0.7
    panels = [Panel("A", heat), Panel("erased", None, mask), Panel("B", heat, mask), Panel("plain")]
    page = read_png(heatmap_rows([HeatmapRow(image, panels)], tmp_path / "heat.png"))
    top, lefts = 59, [32, 204, 376, 548, 720]
    expected = [image, overlay(image, heat), blanked(image, mask), outlined(overlay(image, heat), mask), image]
    for left, view in zip(lefts, expected, strict=True):
        np.testing.assert_array_equal(page[top : top + 320, left : left + 160], view)


def test_columns_are_titled_once_a_block_and_rows_stand_abreast(tmp_path, texts):
    rows = [HeatmapRow(noise(64, 32), [Panel("heat of A", np.eye(4))], f"picture {index}") for index in range(7)]
    page = read_png(heatmap_rows(rows, tmp_path / "heat.png", title="Heat"))
    assert texts.count("heat of A") == texts.count("picture") == 4
    assert [text for text in texts if text.startswith("picture ")] == [f"picture {index}" for index in range(7)]
    assert page.shape[1] <= 2 * 920
    assert "low to high, per map" in texts
    assert "erased" not in texts


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 300), (300, 5), (64, 64)])
def test_heat_maps_of_any_shape_are_drawn(tmp_path, height, width):
    both = Panel("東", np.ones((1, 1)), np.ones((2, 1), bool))
    panels = [Panel("$A_1$", np.full((3, 5), 2.0)), both, Panel("")]
    page = read_png(heatmap_rows([HeatmapRow(noise(height, width), panels, "ø" * 300)], tmp_path / "heat.png"))
    assert (page[:, -16:] == 255).all()


def test_heatmap_rows_refuse_what_they_cannot_draw(tmp_path):
    path, heat = tmp_path / "heat.png", np.zeros((4, 2))
    with pytest.raises(ValueError, match="nothing to draw: `rows`"):
        heatmap_rows([], path)
    with pytest.raises(ValueError, match=r"row 1 has the panels \['B'\], row 0 has \['A'\]"):
        heatmap_rows([HeatmapRow(noise(), [Panel("A", heat)]), HeatmapRow(noise(), [Panel("B", heat)])], path)
    with pytest.raises(ValueError, match=r"`heatmap` of panel 'A' of row 0 must be \(h, w\), got \(1, 4, 2\)"):
        heatmap_rows([HeatmapRow(noise(), [Panel("A", heat[None])])], path)
    with pytest.raises(ValueError, match=r"`mask` of panel 'A' of row 0 must be \(h, w\), got \(8,\)"):
        heatmap_rows([HeatmapRow(noise(), [Panel("A", None, np.zeros(8, bool))])], path)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="`heatmap` of panel 'A' of row 0 has NaN or infinite values"):
            heatmap_rows([HeatmapRow(noise(), [Panel("A", heat + bad)])], path)
    assert not path.exists()
