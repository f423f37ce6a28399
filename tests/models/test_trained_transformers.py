"""Trained transformers of other projects: what the originals make of them, and what a sidecar changes."""

import json
import logging
from functools import cache

import pytest
import torch

from aelm.models import AELM, CoAM, ReIDNetwork, TimmBackbone
from aelm.models.similarity import similarity_maps
from aelm.models.trained import load_trained
from tests.models.other_files import pictures, state
from tests.models.other_transformers import TRANSFORMERS, clipreid

# The first numbers, of unit length, that each project's own code gives for the second of two pictures of 64 x 32, with
# values by the rule of `other_files`, and camera 3 of 6 where there are cameras. Made with TransReID, CLIP-ReID (whose
# forward was told that the last block of this ViT is the second) and SOLIDER-REID as they stood in 2026.
FEATURES = {
    "transreid_deit_small": [-0.04969, -0.0384949, -0.0806392, 0.029111, 0.0168773, -0.0419831, -0.0213556, -0.0554677],
    "transreid_vit_small_jpm": [0.0132156, 0.055652, 0.036118, -0.0274556, 0.0128829, -0.0166017, 0.0080258],
    "clipreid_vit": [0.0211744, -0.0537126, -0.0505637, 0.068248, 0.0344678, 0.0795253, -0.0639383, -0.09448],
    "clipreid_resnet50": [0.0007927, 0.0015207, 0.0133842, 0.0158116, 0.0072184, 0.0303893, 0.0032136, 0.003392],
    "solider_swin_tiny": [-0.0143792, -0.0357522, -0.0847235, 0.0283006, -0.0239056, -0.0065176, 0.0130425, 0.0760643],
}  # fmt: skip
# Of both pictures: the product of their features, and how many values these have.
PRODUCTS = {
    "transreid_deit_small": (0.5621804, 384),
    "transreid_vit_small_jpm": (0.4143587, 3840),
    "clipreid_vit": (0.4026033, 192),
    "clipreid_resnet50": (0.9999506, 3072),
    "solider_swin_tiny": (0.9265608, 768),
}
SIZE = (64, 32)


@cache
def values(layout):
    return state(TRANSFORMERS[layout])


@pytest.fixture
def told(tmp_path):
    """Writes a sidecar; gives the path of the file beside which it stands."""

    def write(**facts):
        (tmp_path / "w.pth.json").write_text(json.dumps(facts))
        return tmp_path / "w.pth"

    return write


@pytest.mark.parametrize("layout", TRANSFORMERS)
def test_features_are_those_of_the_original(layout, caplog):
    camera = 3 if any(key.endswith(("sie_embed", "cv_embed")) for key in TRANSFORMERS[layout]) else None
    with caplog.at_level(logging.WARNING):
        trained = load_trained("w.pth", values(layout), SIZE, camera)
    assert caplog.text == ""
    assert trained.facts.mean == trained.facts.std == (0.5, 0.5, 0.5)
    images = pictures(*SIZE)
    embedding = trained.network.embed(images)
    product, size = PRODUCTS[layout]
    assert embedding.shape == (2, size)
    assert embedding[1, : len(FEATURES[layout])].tolist() == pytest.approx(FEATURES[layout], rel=1e-4, abs=1e-6)
    assert float(embedding[0] @ embedding[1]) == pytest.approx(product, abs=1e-5)
    if layout == "solider_swin_tiny":  # it alone pools a map
        maps = similarity_maps(trained.network, images[:1], images[1:])
        assert float(maps.on_a[0][0].sum()) == pytest.approx(product, abs=1e-5)


@pytest.fixture(scope="module")
def small():
    """The values of CLIP-ReID's ViT with cameras."""
    return values("clipreid_vit")


def test_the_camera_is_a_fact_and_without_it_their_mean_is_taken(small, told, caplog):
    def embed(**facts):
        return load_trained(told(**facts), small, SIZE).network.embed(pictures(*SIZE))

    with caplog.at_level(logging.WARNING):
        mean = embed()
    assert "embeddings of 6 cameras, and which one took the pictures is not told" in caplog.text
    assert not torch.allclose(embed(camera=3), embed(camera=2), atol=1e-4)
    assert not torch.allclose(embed(camera=3), embed(camera=3, camera_weight=3), atol=1e-4)
    alike = small | {"cv_embed": small["cv_embed"].mean(0, keepdim=True).expand(6, -1)}
    assert torch.allclose(load_trained(told(camera=1), alike, SIZE).network.embed(pictures(*SIZE)), mean, atol=1e-6)


def test_the_feature_behind_the_necks_is_to_be_had(small, told):
    before, after = (
        load_trained(told(camera=0, feature=which), small, SIZE).network.heads[0] for which in ("before", "after")
    )
    tokens = torch.randn(3, 128, 11, 1)
    parts = torch.split(before(tokens).embedding, [128, 64], 1)
    for neck, part in zip(after.eval().necks, parts, strict=True):
        assert torch.equal(neck.running_mean, before.necks[0 if part.shape[1] == 128 else 1].running_mean)
    expected = torch.cat([neck(part) for neck, part in zip(after.necks, parts, strict=True)], 1)
    assert torch.allclose(after(tokens).embedding, expected)


@pytest.mark.parametrize(
    ("facts", "size", "message"),
    [
        ({"camera": 6}, SIZE, "CLIP-ReID's ViT, but `camera` must be one of 0 to 5, got 6"),
        ({"camera": "door"}, SIZE, "`camera` and `camera_weight` beside it must be numbers"),
        ({}, (256, 128), "its table of positions has 10, which do not fit pictures of 256 x 128: give their `size`"),
    ],
)
def test_what_does_not_fit_is_named(small, told, facts, size, message):
    with pytest.raises(ValueError, match=message):
        load_trained(told(**facts), small, size)


def test_patches_that_overlap_are_told_by_the_table_of_positions():
    shapes = {12: 210, 16: 128}  # as TransReID trains at 256 x 128
    for stride, patches in shapes.items():
        backbone = load_trained("w.pth", state(clipreid(64, 1, 32, patches))).network.backbone.network
        assert backbone.patch_embed.proj.stride == (stride, stride)
        assert backbone.patch_embed.num_patches == patches


@pytest.mark.parametrize(
    ("name", "options"),
    [("transreid_deit_small", {"stride": 12, "cameras": 6}), ("solider_swin_tiny", {})],
)
def test_a_training_starts_from_such_a_file(name, options, tmp_path, caplog):
    """With CoAM and AELM on two maps, the last of which is the original's."""
    torch.save(values(name), tmp_path / "w.pth")
    with caplog.at_level(logging.INFO):
        backbone = TimmBackbone(name, size=SIZE, weights=tmp_path / "w.pth", options=options)
    assert "tensors loaded, 0 missing" in caplog.text
    final, shallow = backbone.network.model.norm.weight, backbone.network.norms[0].weight
    assert torch.equal(final, shallow) == (
        name == "transreid_deit_small"
    )  # Swin's shallow map has half as many channels
    trained = load_trained("w.pth", values(name), SIZE).network.backbone
    network = ReIDNetwork(backbone, 5, coam=CoAM, aelm=AELM)
    assert network.normalised.mean == (0.5, 0.5, 0.5)
    images = torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        own, whole = backbone.eval()(images)[-1], trained(images)[-1]
    assert torch.allclose(own.flatten(2), whole.flatten(2)[:, :, -own.flatten(2).shape[2] :], atol=1e-5)
    outputs = network(images, torch.tensor([0, 4]))
    sum(head.logits.square().sum() for stage in outputs for head in stage).backward()
    assert all(p.grad is not None for p in backbone.parameters() if p.requires_grad)
