"""Colours in stripes, against loops over pixels and OpenCV's own CIELAB."""

import cv2
import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.func import functional_call

from aelm.models import ColourWords, ReIDNetwork, StripeHead, TimmBackbone
from aelm.models.colour_words import lab
from aelm.models.similarity import position_maps
from tests.fake_gpu import Crossings


def network(words=8, **options):
    torch.manual_seed(0)
    return ReIDNetwork(
        ColourWords(words),
        0,
        lambda depth: torch.nn.Identity(),
        lambda depth, ids: StripeHead(depth, ids, 6, **options),
    ).eval()


def test_colours_are_those_of_opencv():
    picture = np.random.default_rng(0).random((40, 30, 3), dtype=np.float32)
    picture[0, :4] = [[0, 0, 0], [1, 1, 1], [0.02, 0.03, 0.01], [1, 0, 0]]
    wanted = cv2.cvtColor(picture, cv2.COLOR_RGB2Lab) * [0.35, 1, 1]
    found = lab(torch.from_numpy(picture).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    assert np.abs(found - wanted).max() < 0.6  # of 100: OpenCV's tables


@pytest.mark.parametrize("size", [(128, 64), (250, 121), (64, 32)])
def test_a_place_has_the_shares_of_the_words_near_its_pixels(size):
    backbone, images = ColourWords(words=5, softness=9.0), torch.rand(2, 3, *size)
    (found,) = backbone(images)
    assert found.shape == (2, 5, size[0] // 8, size[1] // 8)
    words = backbone.words.detach().numpy()
    picture = images[1, :, : size[0] // 4 * 4, : size[1] // 4 * 4].permute(1, 2, 0).numpy()
    blocks = picture.reshape(size[0] // 4, 4, size[1] // 4, 4, 3).mean((1, 3))
    tint = blocks.mean((0, 1))
    blocks = (blocks * tint.mean() / tint).clip(0, 1)
    for row, column in ((0, 0), (size[0] // 8 - 1, size[1] // 8 - 1), (3, 1)):
        shares = []
        for i in range(2):
            for j in range(2):
                top, left = 8 * row + 4 * i, 8 * column + 4 * j
                colour = torch.from_numpy(blocks[top // 4, left // 4])
                seen = lab(colour[None, :, None, None]).flatten().numpy()
                near = np.exp(-((seen - words) ** 2).sum(1) / (2 * 9.0**2))
                shares.append(near / near.sum())
        assert np.allclose(found[1, :, row, column].detach(), np.mean(shares, 0), atol=1e-4)


def test_nothing_is_copied_to_a_gpu_at_each_step():
    model = network()
    with FakeTensorMode(), Crossings() as crossings, torch.device("cuda"):
        own = {name: torch.empty(part.shape) for name, part in (*model.named_parameters(), *model.named_buffers())}
        outputs = functional_call(model, own, torch.empty(2, 3, 64, 32, dtype=torch.uint8))
    assert crossings.count == 0
    assert outputs[0][0].embedding.device.type == "cuda"


def test_stripes_are_weighted_means_and_what_is_compared_their_roots():
    head, features = StripeHead(3, embed_dim=4, stripes=5, overlap=0.6, window=0.4), torch.rand(2, 3, 10, 4)
    pooled = head(features).pooled.reshape(2, 5, 3)
    for stripe in range(5):
        weights = np.zeros((10, 4))
        for row in range(10):
            for column in range(4):
                down = ((row + 0.5) / 2 - stripe - 0.5) / 0.6
                across = ((column + 0.5) / 2 - 1) / 0.4
                weights[row, column] = np.exp(-(down**2 + across**2) / 2)
        mean = (features.numpy() * weights).sum((2, 3)) / weights.sum()
        assert np.allclose(pooled[:, stripe].detach(), np.sqrt(mean), atol=1e-5)
    assert torch.equal(head(features).embedding, head.neck(head(features).pooled))


def test_maps_of_a_network_come_behind_and_roots_keep_their_sign():
    inner = TimmBackbone("resnet10t", pretrained=False, last_stride=2, options={"out_indices": [1]})
    assert inner.channels == [64]
    assert not any(key.startswith("network.layer2") for key in inner.state_dict())  # nothing deeper is built
    small = TimmBackbone("mobilenetv2_035", pretrained=False, last_stride=2, options={"out_indices": [3]})
    assert max(int(key.split(".")[2]) for key in small.state_dict() if ".blocks." in key) == 4
    backbone, images = ColourWords(words=8, backbone=inner).eval(), torch.rand(2, 3, 128, 64)
    colours, maps = backbone(images)
    mean, std = (torch.tensor(values)[:, None, None] for values in (inner.mean, inner.std))
    assert torch.allclose(maps, inner((images - mean) / std)[0], atol=1e-5)
    assert torch.equal(colours, ColourWords(words=8)(images)[0])
    head, signed = StripeHead(2, stripes=4), torch.randn(3, 2, 4, 8)
    means = torch.einsum("bchw,shw->bsc", signed, head.weights(signed)).flatten(1)
    assert torch.allclose(head.pooled(signed), means.sign() * means.abs().sqrt(), atol=1e-5)
    assert torch.allclose(head.pooled_maps(signed).mean((2, 3)), head.pooled(signed), atol=1e-5)


def test_the_embedding_is_the_mean_of_its_maps():
    model, images = network(), torch.randint(256, (3, 3, 128, 64), dtype=torch.uint8)
    ((maps,),) = position_maps(model, images)
    assert maps.shape == (3, 6, 16, 8)
    assert torch.allclose(maps.mean((2, 3)), model.embed(images), atol=1e-5)


def test_light_of_another_colour_changes_little():
    model, picture = network(), torch.nn.functional.interpolate(torch.rand(2, 3, 8, 4), (128, 64)) * 0.7
    warm = picture * torch.tensor([1.2, 1.0, 0.8])[:, None, None]
    same, other = (float((model.embed(one) * model.embed(picture[:1])).sum(1)[0]) for one in (warm[:1], picture[1:]))
    assert 1 - same < 0.1 * (1 - other)


def test_a_colour_that_a_picture_lacks_changes_nothing_and_all_sizes_can_be_compared():
    model = network()
    black = torch.zeros(1, 3, 128, 64, dtype=torch.uint8)
    assert torch.isfinite(model.embed(black)).all()
    picture = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 4), (256, 128))
    small = torch.nn.functional.interpolate(picture, (128, 64))
    assert float((model.embed(picture) * model.embed(small)).sum()) > 0.999


def test_every_parameter_gets_a_gradient_and_halves_stay_near():
    model, images = network(), torch.rand(4, 3, 128, 64)
    model(images)[0][0].embedding.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    whole = model.embed(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(model.embed(images), whole, atol=1e-5)


@pytest.mark.parametrize("options", [{"words": 0}, {"softness": 0.0}])
def test_words_out_of_range(options):
    with pytest.raises(ValueError, match="must be at least 1 and `softness` above 0"):
        ColourWords(**options)


@pytest.mark.parametrize("name", ["embed_dim", "stripes", "overlap", "window"])
def test_stripes_out_of_range(name):
    with pytest.raises(ValueError, match=f"`{name}` must be above 0, got 0"):
        StripeHead(3, **{name: 0})
