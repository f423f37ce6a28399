"""Ranked rows, checked at known pixels."""

import numpy as np
import pytest
from pixels import noise, read_png

from aelm.figures import RankedPicture, RankedRow, ranked_rows

GREEN, RED, GREY, BLUE, WHITE = (0, 158, 115), (204, 51, 17), (140, 149, 159), (0, 114, 178), (255, 255, 255)
PALE = (238, 241, 244)


# A 1:2 picture is 138 x 276 pixels in a frame of 6: cells are 150 x 288. Without titles the first row
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


def test_where_nobody_knows_frames_are_pale_and_no_sign_is_explained(tmp_path, texts):
    pictures = [noise(seed=seed) for seed in range(3)]
    results = [RankedPicture(picture, "unknown", 0.5) for picture in pictures[1:]]
    page = read_png(ranked_rows([RankedRow(pictures[0], results)], tmp_path / "ranks.png"))
    for x, colour in ((32, BLUE), (214, (195, 202, 209)), (380, (195, 202, 209))):
        ring = np.ones((288, 150), bool)
        ring[6:-6, 6:-6] = False
        assert (page[40:328, x : x + 150][ring] == colour).all()
    np.testing.assert_array_equal(page[46:322, 220:358], pictures[1])
    assert texts == ["query", "", "1", "0.500", "", "2", "0.500", ""]


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
    with pytest.raises(ValueError, match="`verdict` must be one of match, miss, ignored, unknown, got 'good'"):
        ranked_rows([RankedRow(noise(), [RankedPicture(noise(), "good")])], tmp_path / "ranks.png")
