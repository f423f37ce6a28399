"""The score of a pair, split over positions, against the embeddings themselves."""

from functools import partial

import pytest
import torch
from torch import nn

from aelm.models import AELM, IFCN, CoAM, ReIDNetwork, TwoHeads
from aelm.models.similarity import merged, position_maps, similarity_maps


class Trunk(nn.Module):
    """Two maps of different depth and size."""

    def __init__(self):
        super().__init__()
        self.low, self.high = nn.Conv2d(3, 8, 8, stride=8), nn.Conv2d(8, 16, 3, stride=2, padding=1)

    def forward(self, images):
        low = self.low(images).relu()
        return [low, self.high(low).relu()]


def network(aelm=AELM, neck=False, join="all"):
    torch.manual_seed(0)
    net = ReIDNetwork(Trunk(), 5, partial(CoAM, reduction=4), partial(aelm, embed_dim=6, neck=neck), join=join)
    for module in net.modules():  # statistics as after training: a fresh norm would hide a wrong fold
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.3, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return net.eval()


def total(maps):
    return sum(part.sum((1, 2)) for stage in maps for part in stage)


@pytest.mark.parametrize("neck", [False, True])
@pytest.mark.parametrize(("aelm", "heads"), [(AELM, 2), (TwoHeads, 2), (IFCN, 1), (partial(AELM, pooling="gem"), 2)])
@pytest.mark.parametrize("size", [(64, 32), (72, 40)])
@pytest.mark.parametrize(("join", "first"), [("all", 1), ("deepest", 2)])
def test_the_parts_add_up_to_the_score_on_both_sides(neck, aelm, heads, size, join, first):
    net = network(aelm, neck, join)
    a, b = torch.rand(2, 4, 3, *size)
    score = (net.embed(a) * net.embed(b)).sum(1)
    maps = similarity_maps(net, a, b)
    assert [len(stage) for stage in maps.on_a] == [heads, heads][first - 1 :]
    assert maps.first == first
    for side in (maps.on_a, maps.on_b):
        torch.testing.assert_close(total(side), score, atol=1e-5, rtol=0)
        torch.testing.assert_close(merged(side).sum((1, 2)), score, atol=1e-5, rtol=0)
    torch.testing.assert_close(maps.score, score, atol=1e-5, rtol=0)


@pytest.mark.parametrize("neck", [False, True])
def test_each_position_against_the_slow_loop(neck):
    """Position by position: what remains of the score when only this position is pooled, on one side."""
    net = network(neck=neck)
    a, b = torch.rand(2, 2, 3, 64, 32)
    maps = similarity_maps(net, a, b)
    features = net.features(a)
    dim, start = 6, 0
    for s, (attention, head) in enumerate(zip(net.attention, net.heads, strict=True)):
        for h, classifier in enumerate((head.a, head.b)):
            plain = classifier.embed(attention(features[s]))
            positions = plain.shape[2] * plain.shape[3]
            whole = head(attention(features[s]))[h].embedding
            for y in range(plain.shape[2]):
                for x in range(plain.shape[3]):
                    one = plain[:, :, y, x] if classifier.neck is None else classifier.neck(plain[:, :, y, x])
                    part = one / positions / whole.norm(dim=1, keepdim=True) / 2  # four unit parts: length 2
                    expected = (part * net.embed(b)[:, start : start + dim]).sum(1)
                    torch.testing.assert_close(maps.on_a[s][h][:, y, x], expected, atol=1e-6, rtol=1e-4)
            start += dim


@pytest.mark.parametrize("neck", [False, True])
def test_the_means_of_the_maps_are_the_embedding(neck):
    net = network(neck=neck, join="deepest")
    images = torch.randint(256, (3, 3, 64, 32), dtype=torch.uint8)
    parts = [part.mean((2, 3)) for stage in position_maps(net, images) for part in stage]
    torch.testing.assert_close(torch.cat(parts, 1), net.embed(images))


def test_sides_swap_and_one_picture_stands_for_all():
    net = network()
    a, b = torch.rand(2, 3, 3, 64, 32)
    there, back = similarity_maps(net, a, b), similarity_maps(net, b, a)
    torch.testing.assert_close(merged(there.on_a), merged(back.on_b))
    broad, single = similarity_maps(net, a[:1], b), similarity_maps(net, a[:1].expand(3, -1, -1, -1), b)
    for side in (0, 1, 2):
        one, other = (m.score if side == 0 else merged(m[side]) for m in (broad, single))
        torch.testing.assert_close(one, other)
        assert len(one) == 3
    assert not torch.equal(merged(broad.on_a)[0], merged(broad.on_a)[1])  # the pair decides, not the picture


def test_what_cannot_be_split_is_named():
    net = network()
    images = torch.rand(2, 3, 64, 32)
    with pytest.raises(ValueError, match=r"call network\.eval\(\)"):
        similarity_maps(net.train(), images, images)
    with pytest.raises(ValueError, match="got 2 and 3"):
        similarity_maps(net.eval(), images, torch.rand(3, 3, 64, 32))
    net.heads[0] = nn.Identity()
    with pytest.raises(ValueError, match="a Identity gives no feature maps"):
        similarity_maps(net, images, images)
