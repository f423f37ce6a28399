"""Boxes of a frame: the same embeddings as those of files, and no box that stops a tracker."""

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from aelm import FrameEmbedder, load_embedder
from aelm.embed.batches import embed_files
from tests.pictures_on_disk import save_model


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return load_embedder(save_model(tmp_path_factory.mktemp("model") / "model.ckpt"))


@pytest.fixture
def frame():
    return np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)


BOXES = np.array([[10, 20, 50, 100], [60.4, 5.0, 90.2, 70.0], [100, 40, 130, 110]])


def test_boxes_are_embedded_as_their_crops_are(embedder, frame, tmp_path):
    files = []
    for number, (left, top, right, bottom) in enumerate(BOXES.round().astype(int)):
        files.append(str(tmp_path / f"{number}.png"))
        cv2.imwrite(files[-1], frame[top:bottom, left:right])
    found = FrameEmbedder(embedder, colour="bgr")(frame, BOXES)
    np.testing.assert_allclose(found.features, embed_files(embedder, files), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.features, axis=1), 1, atol=1e-5)
    assert (found.inside > 0.97).all()


def test_colour_and_batches_do_not_matter_but_for_the_order_of_channels(embedder, frame):
    one = FrameEmbedder(embedder, colour="bgr")(frame, BOXES).features
    other = FrameEmbedder(embedder, colour="rgb", batch_size=2)(np.ascontiguousarray(frame[:, :, ::-1]), BOXES).features
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert np.abs(FrameEmbedder(embedder, colour="rgb")(frame, BOXES).features - one).max() > 1e-3


def test_padding_and_rounding_are_the_same_in_both_orders_of_colours(embedder, frame):
    padded = replace(embedder, preprocess="resize_pad")
    rgb, bgr = (FrameEmbedder(padded, colour=colour) for colour in ("rgb", "bgr"))
    boxes = [[3.4, 5.6, 30.6, 20.4], [-9, -9, 20, 20.4]]
    plain = rgb(frame, boxes)
    np.testing.assert_allclose(bgr(np.ascontiguousarray(frame[:, :, ::-1]), boxes).features, plain.features, atol=1e-6)
    np.testing.assert_allclose(rgb(frame, [[3, 6, 31, 20]]).features, plain.features[:1], atol=1e-6)
    assert plain.inside.max() <= 1


def test_what_leaves_the_frame_is_cut_off_and_told(embedder, frame):
    found = FrameEmbedder(embedder, colour="bgr")(frame, [[-40, 20, 40, 100], [0, 20, 40, 100]])
    np.testing.assert_allclose(found.features[0], found.features[1], atol=1e-6)
    np.testing.assert_allclose(found.inside, [0.5, 1.0])


def test_boxes_without_a_picture_are_zeros(embedder, frame):
    nan, huge = float("nan"), 1e30
    boxes = [
        [200, 0, 300, 50],  # beside the frame
        [10, 10, 10, 50],  # empty
        [50, 50, 10, 10],  # upside down
        [nan, 0, 10, 10],
        [0, 0, float("inf"), 10],
        [-huge, -huge, huge, huge],
        [10, 20, 50, 100],
    ]
    found = FrameEmbedder(embedder, colour="bgr")(frame, boxes)
    assert (found.features[:5] == 0).all()
    assert (found.inside[:5] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(found.features[5:], axis=1), 1, atol=1e-5)
    assert found.inside[5] < 1e-6
    assert found.inside[6] == 1


@pytest.mark.parametrize("none", [[], np.empty((0, 4)), np.empty(0), SimpleNamespace(xyxy=np.empty((0, 4)))])
def test_no_boxes_are_no_embeddings(embedder, frame, none):
    found = FrameEmbedder(embedder, colour="bgr")(frame, none)
    assert found.features.shape == (0, embedder.dim)
    assert found.inside.shape == (0,)


@pytest.mark.parametrize("boxes", [SimpleNamespace(xyxy=BOXES), torch.tensor(BOXES), BOXES.tolist()])
def test_boxes_come_in_several_forms(embedder, frame, boxes):
    embed = FrameEmbedder(embedder, colour="bgr")
    np.testing.assert_array_equal(embed(frame, boxes).features, embed(frame, BOXES).features)


@pytest.mark.parametrize(
    ("frame", "boxes", "told"),
    [
        (np.zeros((4, 4), np.uint8), [], r"\(H, W, 3\) of uint8, got uint8 \(4, 4\)"),
        (np.zeros((4, 4, 3)), [], "got float64"),
        (None, [], "got NoneType"),
        (np.zeros((4, 4, 3), np.uint8), [[1, 2, 3]], r"must be \(n, 4\).*got \(1, 3\)"),
        (np.zeros((4, 4, 3), np.uint8), ["a"], "must be numbers"),
    ],
)
def test_other_input_is_named(embedder, frame, boxes, told):
    with pytest.raises(ValueError, match=told):
        FrameEmbedder(embedder, colour="bgr")(frame, boxes)


def test_settings_are_checked(embedder):
    with pytest.raises(ValueError, match="`colour` must be 'rgb' or 'bgr'"):
        FrameEmbedder(embedder, colour="grey")
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        FrameEmbedder(embedder, colour="rgb", batch_size=0)
