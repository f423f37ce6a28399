"""Pictures and text of any kind go in, whole files come out."""

import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import matplotlib
import numpy as np
import pytest
from pixels import noise, read_png

from aelm.figures import (
    HeatmapRow,
    Panel,
    RankedPicture,
    RankedRow,
    cmc_curve,
    contact_sheet,
    heatmap_rows,
    ranked_rows,
    training_curves,
)
from aelm.figures.page import MISSING, Page, box_aspect, drawable, fit, read_picture

# Pictures from files and arrays


@pytest.mark.parametrize("name", ["plain.png", "it's (1) $x_1$ %20.png", "東京 ёж ø.png", "a,b=c.bmp", "scan.tif"])
def test_reads_a_lossless_file_of_any_name_as_rgb(tmp_path, name):
    image = noise(9, 7)
    (tmp_path / name).write_bytes(cv2.imencode("." + name.split(".")[-1], image[:, :, ::-1])[1].tobytes())
    np.testing.assert_array_equal(read_picture(tmp_path / name), image)


def test_reads_grey_files_as_rgb(tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), noise(5, 4)[:, :, 0])
    assert read_picture(str(tmp_path / "grey.png")).shape == (5, 4, 3)


def test_unreadable_pictures_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg"):
        read_picture(tmp_path / "gone.jpg")
    for content in (b"", b"no picture"):
        (tmp_path / "junk.jpg").write_bytes(content)
        with pytest.raises(ValueError, match=rf"junk\.jpg.*\({len(content)} bytes\)"):
            contact_sheet([noise(), tmp_path / "junk.jpg"], tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((3, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)],
)
def test_arrays_that_are_no_picture_are_refused(array):
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8 RGB, got"):
        read_picture(array)


@pytest.mark.parametrize(("height", "width"), [(276, 138), (10, 20), (1, 1), (500, 3), (3, 500), (77, 31)])
def test_fit_fills_one_side_and_keeps_the_shape(height, width):
    fitted = fit(noise(height, width), 138, 276)
    rows, columns = fitted.shape[:2]
    assert rows <= 276
    assert columns <= 138
    assert rows == 276 or columns == 138
    scale = min(138 / width, 276 / height)
    assert abs(rows - max(1, height * scale)) <= 0.5
    assert abs(columns - max(1, width * scale)) <= 0.5


def test_the_box_follows_most_pictures_within_bounds():
    assert box_aspect([noise(128, 64), noise(100, 50), noise(10, 90)]) == 0.5
    assert box_aspect([noise(10, 90)]) == 1.6
    assert box_aspect([noise(90, 3)]) == 0.4


# Text


def test_text_survives_odd_names():
    assert drawable("a\nb\t c\r") == "a b c"
    assert drawable("naïve ёж $x_1$ \\frac") == "naïve ёж $x_1$ \\frac"
    assert drawable("a\ufdd0b\udce4") == f"a{MISSING}b{MISSING}"


def test_text_is_shortened_to_its_room():
    page = Page(200, 20)
    assert page.shortened("short", 100) == "short"
    for text in ("a name that is far too long for its cell", "W" * 300, "iiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiii"):
        cut = page.shortened(text, 60)
        assert page.width_of(cut) <= 60
        assert cut.endswith("…")
        assert text.startswith(cut[:-1])
        longer = text[: len(cut)] + "…"
        assert page.width_of(longer) > 60


# Files


def all_figures(folder):
    """One of each, small."""
    rows = [RankedRow(noise(), [RankedPicture(noise(seed=1), "match", 0.5, "cam 2")], "AP 1.0")]
    heat = np.arange(32.0).reshape(8, 4)
    return [
        cmc_curve({"test": [0.5, 0.75, 1.0]}, folder / "cmc.png"),
        training_curves({"train/loss": [(0, 2.0), (1, 1.0)], "lr-SGD": [(0, 0.1)]}, folder / "training.png"),
        ranked_rows(rows, folder / "ranks.png", title="Ranks"),
        heatmap_rows([HeatmapRow(noise(), [Panel("A", heat), Panel("erased", None, heat > 20)])], folder / "heat.png"),
        contact_sheet([noise(), noise(seed=1)], folder / "deeper" / "sheet.png"),
    ]


def test_the_same_data_gives_the_same_bytes_in_threads_and_under_any_settings(tmp_path):
    expected = [path.read_bytes() for path in all_figures(tmp_path / "alone")]
    assert all(content.startswith(b"\x89PNG") for content in expected)
    with ThreadPoolExecutor(3) as pool:
        several = list(pool.map(all_figures, [tmp_path / str(index) for index in range(3)]))
    for paths in several:
        assert [path.read_bytes() for path in paths] == expected
    settings = {"savefig.bbox": "tight", "savefig.dpi": 50, "image.origin": "lower", "font.size": 30, "axes.grid": True,
                "font.family": "serif", "figure.facecolor": "red", "figure.dpi": 30}  # fmt: skip
    with matplotlib.rc_context(settings):
        assert [path.read_bytes() for path in all_figures(tmp_path / "rc")] == expected
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_only_png_names_are_taken(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.png, got .*figure\.jpg"):
        cmc_curve({"test": [1.0]}, tmp_path / "figure.jpg")


def test_a_page_beyond_what_agg_draws_is_refused(tmp_path):
    row = RankedRow(noise(20, 10), [RankedPicture(noise(20, 10), "miss")] * 400)
    with pytest.raises(ValueError, match=r"65535 pixels a side, this one needs .*fewer rows or columns"):
        ranked_rows([row], tmp_path / "ranks.png")


# Contact sheets: margin 24, pictures 160 x 320 pixels, gutter 6


def test_a_sheet_shows_its_pictures_in_order(tmp_path, texts):
    images = [noise(320, 160, seed) for seed in range(5)]
    page = read_png(contact_sheet(images, tmp_path / "sheet.png", columns=3))
    assert page.shape == (24 + 320 + 6 + 320 + 24, 24 + 3 * 160 + 2 * 6 + 24, 3)
    for index, image in enumerate(images):
        y, x = 24 + index // 3 * 326, 24 + index % 3 * 166
        np.testing.assert_array_equal(page[y : y + 320, x : x + 160], image)
    assert (page[350:, 24 + 2 * 166 :] == 255).all()
    assert texts == []
    contact_sheet(images[:2], tmp_path / "sheet.png", captions=["one", "two"], title="Some")
    assert texts == ["Some", "one", "two"]


def test_a_sheet_refuses_what_it_cannot_draw(tmp_path):
    path = tmp_path / "sheet.png"
    with pytest.raises(ValueError, match="nothing to draw: `images`"):
        contact_sheet([], path)
    with pytest.raises(ValueError, match="`columns` and `height` must be at least 1"):
        contact_sheet([noise()], path, columns=0)
    with pytest.raises(ValueError, match="got 1 for 2 pictures"):
        contact_sheet([noise(), noise()], path, captions=["one"])
