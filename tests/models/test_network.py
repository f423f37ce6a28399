from functools import partial

import pytest
import torch
from torch import nn

from aelm.models import AELM, IFCN, CoAM, RandomAELM, ReIDNetwork, TimmBackbone, TwoHeads


class Trunk(nn.Module):
    """Two maps of different depth and size."""

    def __init__(self):
        super().__init__()
        self.low, self.high = nn.Conv2d(3, 8, 8, stride=8), nn.Conv2d(8, 16, 3, padding=1)

    def forward(self, images):
        low = self.low(images).relu()
        return [low, self.high(low).relu()]


# Not "rezero", which starts as the identity: whether attention was read at all would not show.
COAM = partial(CoAM, reduction=4, mode="sequential")


def network(aelm=AELM, coam=COAM, trunk=None, join="deepest"):
    torch.manual_seed(0)
    return ReIDNetwork(trunk or Trunk(), 5, coam, partial(aelm, embed_dim=6), join=join)


@pytest.mark.parametrize(("aelm", "heads"), [(AELM, 2), (RandomAELM, 2), (TwoHeads, 2), (IFCN, 1)])
@pytest.mark.parametrize("size", [(64, 32), (40, 48)])
def test_outputs_by_stage_and_head(aelm, heads, size):
    outputs = network(aelm)(torch.rand(3, 3, *size), torch.tensor([0, 1, 4]))
    assert [len(stage) for stage in outputs] == [heads, heads]
    assert all(head.logits.shape == (3, 5) for stage in outputs for head in stage)


@pytest.mark.parametrize("aelm", [AELM, RandomAELM, TwoHeads, IFCN])
def test_every_parameter_gets_a_gradient(aelm):
    net = network(aelm)
    outputs = net(torch.rand(6, 3, 64, 32), torch.arange(6) % 5)
    sum(nn.functional.cross_entropy(head.logits, torch.arange(6) % 5) for s in outputs for head in s).backward()
    assert [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize(("join", "first", "length"), [("all", 0, 2), ("deepest", 1, 2**0.5)])
def test_embedding_is_the_unit_join_of_unit_parts_and_does_not_depend_on_the_batch(join, first, length):
    net = network(join=join).eval()
    images = torch.rand(4, 3, 64, 32)
    embedding = net.embed(images)
    parts = [nn.functional.normalize(h.embedding, dim=1) for stage in net(images)[first:] for h in stage]
    torch.testing.assert_close(embedding, torch.cat(parts, 1) / length)
    torch.testing.assert_close(net.embed(images[1:2]), embedding[1:2])


def test_ranking_is_by_what_comes_out_of_the_neck():
    net = network(partial(AELM, neck=True))
    images = torch.rand(4, 3, 64, 32)
    net(images, torch.tensor([0, 1, 2, 3]))  # moves the neck's statistics away from 0 and 1
    heads = net.eval()(images)[-1]
    after, before = (
        torch.cat([nn.functional.normalize(vector, dim=1) for vector in vectors], 1) / 2**0.5
        for vectors in ([h.embedding for h in heads], [h.pooled for h in heads])
    )
    torch.testing.assert_close(net.embed(images), after)
    assert not torch.allclose(after, before, atol=1e-3)


def test_an_unknown_join_is_named():
    with pytest.raises(ValueError, match="deepest, all, got 'both'"):
        network(join="both")


@pytest.mark.parametrize("fill", ["swap", "zero", "drop"])
@pytest.mark.parametrize("erase", ["raw", "attended"])
def test_what_is_erased_in_front_of_attention_or_behind(erase, fill):
    net = network(partial(AELM, fill=fill, erase=erase))
    images, pids = torch.rand(4, 3, 64, 32), torch.tensor([0, 1, 2, 3])
    outputs = net(images, pids)
    for maps, attention, head, (a, b) in zip(net.features(images), net.attention, net.heads, outputs, strict=True):
        attended, gone = attention(maps), b.mask[:, None]
        torch.testing.assert_close(head.a(attended, pids).logits, a.logits)
        source = maps if erase == "raw" else attended
        filled = torch.where(gone, source.roll(2, 0), source) if fill == "swap" else source * ~gone
        seen = attention(filled) if erase == "raw" else attended if fill == "drop" else filled
        torch.testing.assert_close(head.b(seen, erased=b.mask if fill == "drop" else None).logits, b.logits)
    assert b.mask.any()
    net.eval()
    parts = [nn.functional.normalize(head.embedding, dim=1) for head in net(images)[-1]]
    torch.testing.assert_close(net.embed(images), torch.cat(parts, 1) / 2**0.5)  # in use nothing is erased


def test_without_attention_there_is_one_map_to_erase():
    images, pids = torch.rand(4, 3, 64, 32), torch.tensor([0, 1, 2, 3])
    raw, attended = (
        network(partial(AELM, fill="drop", erase=erase), lambda channels: nn.Identity())(images, pids)
        for erase in ("raw", "attended")
    )
    for one, other in zip(raw[-1], attended[-1], strict=True):
        assert torch.equal(one.pooled, other.pooled)


def test_uint8_pictures_are_normalised_inside():
    net = network().eval()
    images = torch.randint(256, (2, 3, 64, 32), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    ready = (images / 255 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(net.embed(images), net.embed(ready))


def test_a_backbone_with_one_map_and_channels_last():
    net = network(trunk=nn.Conv2d(3, 8, 4, stride=4)).eval()
    images = torch.rand(2, 3, 32, 16)
    plain = net.embed(images)
    torch.testing.assert_close(net.to(memory_format=torch.channels_last).embed(images), plain)


def test_explaining_changes_no_embedding():
    net = network().eval()
    images = torch.rand(2, 3, 64, 32)
    plain, shown = net(images), net(images, explain=True)
    for s in range(2):
        for h in range(2):
            assert torch.equal(plain[s][h].embedding, shown[s][h].embedding)
        assert shown[s][1].mask.shape == shown[s][1].heatmap.shape


def test_embedding_is_in_evaluation_mode_and_leaves_the_mode_as_it_was():
    net, images = network(), torch.rand(3, 3, 64, 32)
    wanted = net.eval().embed(images)
    net.train()
    net.heads[0].eval()
    modes, before = [m.training for m in net.modules()], {k: v.clone() for k, v in net.state_dict().items()}
    assert torch.equal(net.embed(images), wanted)
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_on_a_real_backbone():
    net = network(trunk=TimmBackbone("resnet10t", pretrained=False), coam=partial(CoAM, reduction=16)).eval()
    assert net.embed(torch.zeros(2, 3, 128, 64)).shape == (2, 12)


class Foreign(nn.Sequential):
    """A backbone of somebody else, with attributes of its own meaning."""

    channels = 16
    mean = torch.full((1, 3, 1, 1), 0.5)
    std = torch.full((3,), 0.25)


def test_a_backbone_keeps_its_attributes_and_the_modes_of_its_parts():
    trunk = Foreign(nn.Conv2d(3, 16, 8, stride=8), nn.BatchNorm2d(16))
    trunk[1].eval()
    network = ReIDNetwork(trunk, 5, CoAM, AELM)
    assert network.normalised == ((0.5,) * 3, (0.25,) * 3)
    assert trunk.training
    assert not trunk[1].training
    assert network.embed(torch.zeros(2, 3, 64, 32, dtype=torch.uint8)).shape == (2, 1024)
