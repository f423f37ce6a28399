"""The pictures of a run: known pixels, known lines, odd input, and files that are whole."""

import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import matplotlib
import numpy as np
import pytest
import torch
from pytorch_lightning.loggers import CSVLogger

from aelm.figures import (
    HeatmapRow,
    Panel,
    RankedPicture,
    RankedRow,
    cmc_curve,
    contact_sheet,
    heatmap_rows,
    ranked_rows,
    read_history,
    training_curves,
)
from aelm.figures import curves as curves_file
from aelm.figures import training as training_file
from aelm.figures.curves import line_style
from aelm.figures.heatmaps import blanked, normalised, outlined, overlay
from aelm.figures.lettering import MISSING, drawable
from aelm.figures.page import Page
from aelm.figures.pictures import box_aspect, fit, read_picture
from aelm.figures.training import panel_of, running_mean
from aelm.figures.writing import write_whole

GREEN, RED, GREY, BLUE, WHITE = (0, 158, 115), (204, 51, 17), (140, 149, 159), (0, 114, 178), (255, 255, 255)
PALE = (238, 241, 244)


def noise(height=276, width=138, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def read_png(path):
    return cv2.imread(str(path), cv2.IMREAD_COLOR)[:, :, ::-1]


@pytest.fixture
def texts(monkeypatch):
    """Every text that a page was given, in order."""
    written = []
    write = Page.write

    def listen(page, text, *where, **how):
        written.append(text)
        write(page, text, *where, **how)

    monkeypatch.setattr(Page, "write", listen)
    return written


@pytest.fixture
def charts(monkeypatch):
    """The figures that were drawn instead of their files."""
    figures = []
    for file in (curves_file, training_file):
        monkeypatch.setattr(file, "save", lambda figure, path: figures.append(figure))
    return figures


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


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
    assert drawable("a\ue123b\udce4") == f"a{MISSING}b{MISSING}"


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


def test_a_failed_drawing_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "figure.png"
    target.write_bytes(b"old")

    def fail_halfway(file):
        file.write(b"half a fil")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(target, fail_halfway)
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]
    assert target.read_bytes() == b"old"
    write_whole(target, lambda file: file.write(b"new"))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]


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


# Ranked rows. A 1:2 picture is 138 x 276 pixels in a frame of 6: cells are 150 x 288. Without titles the first row
# starts at y = 70; the query lies at x = 32, results at x = 214, 380, 546.


def test_frames_have_their_colours_and_pictures_their_pixels(tmp_path):
    query, verdicts = noise(), ("match", "miss", "ignored")
    pictures = [noise(seed=seed) for seed in (1, 2, 3)]
    results = [RankedPicture(*pair) for pair in zip(pictures, verdicts, strict=True)]
    page = read_png(ranked_rows([RankedRow(query, results)], tmp_path / "ranks.png"))
    for x, colour in ((32, BLUE), (214, GREEN), (380, RED)):
        ring = np.ones((288, 150), bool)
        ring[6:-6, 6:-6] = False
        ring[250:, 110:] = False  # where the badge lies
        assert (page[70:358, x : x + 150][ring] == colour).all()
        assert (page[70:358, x - 1] != colour).any(axis=1).all()
    np.testing.assert_array_equal(page[76:352, 38:176], query)
    for x, picture in ((220, pictures[0]), (386, pictures[1])):
        np.testing.assert_array_equal(page[76:320, x : x + 138], picture[:244])
    dashes = page[70:320, 546:552].reshape(-1, 3)
    grey, white = ((dashes == colour).all(axis=1) for colour in (GREY, WHITE))
    assert (grey | white).all()
    assert 0.3 < white.mean() < 0.5
    expected = np.rint(0.6 * pictures[2][:244].astype(float) + 0.4 * 255)
    assert np.abs(page[76:320, 552:690] - expected).max() <= 1


def test_badges_differ_by_glyph_not_only_by_colour(tmp_path):
    black = np.zeros((276, 138, 3), np.uint8)
    rows = [RankedRow(black, [RankedPicture(black, verdict) for verdict in ("match", "miss", "ignored")])]
    page = read_png(ranked_rows(rows, tmp_path / "ranks.png"))
    glyphs = []
    for x, colour in ((214, GREEN), (380, RED), (546, GREY)):
        corner = page[324:370, x + 116 : x + 156]
        assert (corner == colour).all(axis=2).sum() > 200
        glyphs.append((corner[14:34, 12:32] == 255).all(axis=2))
    assert all(glyph.sum() > 8 for glyph in glyphs)
    assert (glyphs[0] != glyphs[1]).sum() > 8
    assert (glyphs[1] != glyphs[2]).sum() > 8


def test_ranks_count_only_what_takes_part(tmp_path, texts):
    verdicts, scores = ("ignored", "match", "ignored", "miss"), (0.9, 0.8, -1, None)
    results = [RankedPicture(noise(8, 4), *pair) for pair in zip(verdicts, scores, strict=True)]
    ranked_rows([RankedRow(noise(8, 4), results, "AP", "cam 1")], tmp_path / "ranks.png")
    assert [text for text in texts if "." in text] == ["0.900", "0.800", "-1.000"]
    assert [text for text in texts if text.isdigit()] == ["1", "2"]
    assert {"query", "AP", "cam 1"} <= set(texts)


def test_another_shape_is_set_in_a_pale_ground_and_not_stretched(tmp_path):
    tall, wide = noise(), np.full((50, 100, 3), 10, np.uint8)
    rows = [RankedRow(tall, [RankedPicture(tall, "match"), RankedPicture(wide, "miss")])]
    page = read_png(ranked_rows(rows, tmp_path / "ranks.png"))
    column = page[76:352, 386 + 69]
    assert (column[:103] == PALE).all()
    assert (column[104:172] == 10).all()
    assert (column[173:240] == PALE).all()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 200), (200, 3), (64, 64)])
def test_rows_of_different_length_and_any_shape_are_drawn(tmp_path, height, width):
    image = noise(height, width)
    results = [RankedPicture(image, "match", float("nan"), "x" * 400)] * 3
    rows = [RankedRow(image, []), RankedRow(image, results, "t" * 900)]
    page = read_png(ranked_rows(rows, tmp_path / "ranks.png", title="a title\nthat goes on " * 30))
    assert page.shape[1] >= 840
    assert (page[:, -16:] == 255).all()


def test_ranked_rows_refuse_what_they_cannot_draw(tmp_path):
    with pytest.raises(ValueError, match="nothing to draw: `rows`"):
        ranked_rows([], tmp_path / "ranks.png")
    with pytest.raises(ValueError, match="`verdict` must be one of match, miss, ignored, got 'good'"):
        ranked_rows([RankedRow(noise(), [RankedPicture(noise(), "good")])], tmp_path / "ranks.png")


# Heat maps


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


# Curves


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
