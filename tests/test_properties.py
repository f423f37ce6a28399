"""Laws that hold for whatever hypothesis comes up with: ranking, erasing, sampling."""

import itertools
import random
from collections import Counter

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from aelm.data.sampler import IdentitySampler, ShuffleSampler
from aelm.data.transforms import RandomErasing
from aelm.models import discriminative_region
from aelm.models.aelm import shifted
from aelm.models.ifcn import mean_over_kept
from aelm.retrieval import rank_metrics
from tests.models import naive
from tests.retrieval.test_ranking import assert_equals_scores

# Ranking.


@st.composite
def worlds(draw):
    """Distances with many ties, and labels with junk, distractors and pictures of the query's own camera."""
    Q, G = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    column = st.lists(st.integers(0, 4), min_size=G, max_size=G)
    distances = np.array(draw(st.lists(column, min_size=Q, max_size=Q)), np.float32)

    def ids(low, high, count):
        return np.array(draw(st.lists(st.integers(low, high), min_size=count, max_size=count)))

    labels = ids(0, 2, Q), ids(-1, 3, G), ids(0, 2, Q), ids(0, 2, G)
    query_pids, gallery_pids, query_camids, gallery_camids = labels
    same = query_pids[:, None] == gallery_pids
    assume((same & (query_camids[:, None] != gallery_camids)).any())
    return distances, labels


@given(worlds(), st.integers(1, 15))
def test_ranking_equals_the_slow_loop(world, max_rank):
    distances, labels = world
    result = rank_metrics(None, None, *labels, distances=distances.copy(), max_rank=max_rank)
    assert_equals_scores(result, -distances, labels, max_rank)
    assert result.mAP_trapezoid <= result.mAP + 1e-12
    assert 0 < result.mINP <= 1
    assert (np.diff(result.cmc) >= 0).all()


@given(worlds())
def test_ranking_by_features_equals_the_slow_loop(world):
    """Features whose squared distances are exact: one axis a gallery picture would do, two whole numbers are enough."""
    table, labels = world
    query, gallery = table[:, :1] @ np.ones((1, 2), np.float32), np.stack([table[0], table[-1]], 1)
    scores = -((query[:, None] - gallery[None]) ** 2).sum(2)
    assert_equals_scores(rank_metrics(query, gallery, *labels, metric="euclidean"), scores, labels)


@given(worlds(), st.integers(0, 12), st.integers(0, 4))
def test_junk_changes_nothing_and_a_distractor_helps_nobody(world, place, distance):
    distances, (query_pids, gallery_pids, query_camids, gallery_camids) = world
    place = min(place, distances.shape[1])
    more = np.insert(distances, place, distance, axis=1)
    cameras = np.insert(gallery_camids, place, 0)
    plain = rank_metrics(None, None, query_pids, gallery_pids, query_camids, gallery_camids, distances=distances.copy())
    junk, other = (
        rank_metrics(
            None, None, query_pids, np.insert(gallery_pids, place, pid), query_camids, cameras, distances=more.copy()
        )
        for pid in (-1, 99)
    )
    assert junk.scalars() == plain.scalars()
    assert junk.num_junk == plain.num_junk + 1
    assert all(other.scalars()[name] <= plain.scalars()[name] + 1e-12 for name in plain.scalars())


# Erasing.


WHOLE = st.integers(-8, 8)


@st.composite
def heat_maps(draw, values=WHOLE):
    """Maps ``(B, H, W)`` of whole numbers, so that min-max and threshold are exact."""
    B, H, W = (draw(st.integers(1, most)) for most in (3, 5, 4))
    return torch.tensor(draw(st.lists(values, min_size=B * H * W, max_size=B * H * W)), dtype=torch.float32).view(
        B, H, W
    )


eighths = st.integers(1, 8).map(lambda n: n / 8)


@given(heat_maps(), eighths)
def test_erasing_equals_the_loop_and_always_takes_the_maximum(heat, threshold):
    mask = discriminative_region(heat, threshold)
    assert mask.shape == heat.shape
    assert mask.dtype == torch.bool
    assert torch.equal(mask, naive.region(heat, threshold))
    for one, gone in zip(heat, mask, strict=True):
        assert gone[one == one.max()].all() or not gone.any()
        assert not gone.all()


@given(heat_maps(st.floats(-1e6, 1e6, width=32)), st.lists(st.floats(0.01, 1), min_size=2, max_size=4))
def test_a_higher_threshold_erases_no_more(heat, thresholds):
    masks = [discriminative_region(heat, threshold) for threshold in sorted(thresholds)]
    for lower, higher in itertools.pairwise(masks):
        # A map that would go as a whole stays as a whole.
        erased = lower.flatten(1).any(1)[:, None, None]
        assert (higher & erased <= lower).all()


@given(heat_maps(), eighths, st.sampled_from([0.25, 2.0, 64.0]), st.integers(-50, 50))
def test_scale_and_offset_of_a_heat_map_do_not_matter(heat, threshold, scale, offset):
    assert torch.equal(discriminative_region(heat * scale + offset, threshold), discriminative_region(heat, threshold))


@given(heat_maps(), eighths, st.integers(0, 30), st.integers(0, 30))
def test_a_shifted_mask_has_the_same_area(heat, threshold, down, right):
    mask = discriminative_region(heat, threshold)
    moved = shifted(mask, torch.full((len(mask),), down), torch.full((len(mask),), right))
    assert torch.equal(moved, mask.roll((down, right), (1, 2)))


@given(heat_maps(), st.data())
def test_pooling_takes_what_is_kept(heat, data):
    marks = data.draw(st.lists(st.booleans(), min_size=heat.numel(), max_size=heat.numel()))
    erased, maps = torch.tensor(marks).view(heat.shape), torch.stack([heat, -2 * heat], 1)
    torch.testing.assert_close(mean_over_kept(maps, erased), naive.mean_over_kept(maps, erased))


@given(st.integers(1, 300), st.integers(1, 150), st.integers(0, 10**6), st.floats(0.05, 1))
def test_an_erased_rectangle_lies_inside_and_has_the_size_that_was_asked_for(height, width, seed, aspect):
    eraser = RandomErasing(probability=1, area=(0.1, 0.3), aspect=aspect)
    drawn = eraser.draw(height, width, random.Random(seed))
    if drawn is None:
        return
    top, left, h, w = drawn
    assert 0 <= top <= height - h
    assert 0 <= left <= width - w
    # Sides are rounded to whole pixels.
    assert (h - 0.51) * (w - 0.51) <= 0.3 * height * width
    assert (h + 0.51) * (w + 0.51) >= 0.1 * height * width


# Sampling.


@st.composite
def data_sets(draw):
    """Identity and camera of each picture, at least two identities, labels 0 .. N-1."""
    pictures = draw(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=2, max_size=40))
    assume(len({label for label, _ in pictures}) > 1)
    known = sorted({label for label, _ in pictures})
    return [known.index(label) for label, _ in pictures], [camera for _, camera in pictures]


@given(data_sets(), st.integers(1, 3), st.integers(1, 4), st.integers(1, 2), st.integers(0, 99))
def test_steps_are_p_identities_by_k_pictures_and_ranks_share_them(data, identities, images, world_size, seed):
    labels, camids = data
    together = identities * world_size
    assume(together <= len(set(labels)))
    options = {"images": images, "seed": seed, "steps_per_epoch": 6}
    ranks = [
        IdentitySampler(labels, camids, identities=identities, rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]
    whole = [index for _, index in IdentitySampler(labels, camids, identities=together, **options)]
    parts = [[index for _, index in sampler] for sampler in ranks]
    size = identities * images
    assert whole == [i for step in range(6) for part in parts for i in part[step * size : (step + 1) * size]]
    have, cameras = Counter(labels), {p: {c for q, c in zip(labels, camids, strict=True) if p == q} for p in labels}
    for first in range(0, len(whole), together * images):
        groups = [whole[i : i + images] for i in range(first, first + together * images, images)]
        people = [{labels[i] for i in group} for group in groups]
        assert all(len(one) == 1 for one in people)
        assert len(set.union(*people)) == together  # P different people
        for group, (pid,) in zip(groups, people, strict=True):
            assert len(set(group)) == min(images, have[pid])  # K different pictures, as far as there are as many
            assert len({camids[i] for i in group}) == min(images, len(cameras[pid]))


@given(st.integers(1, 60), st.integers(1, 7), st.integers(1, 4), st.booleans(), st.integers(0, 99))
def test_shuffled_ranks_part_the_pictures_among_them(total, batch_size, world_size, drop_last, seed):
    assume(total >= batch_size * world_size)
    parts = [
        [
            index
            for _, index in ShuffleSampler(
                [0] * total,
                [0] * total,
                batch_size=batch_size,
                seed=seed,
                rank=r,
                world_size=world_size,
                drop_last=drop_last,
            )
        ]
        for r in range(world_size)
    ]
    shown = [index for part in parts for index in part]
    assert len(shown) == len(set(shown))
    left = total % (batch_size * world_size)
    assert total - len(shown) == (left if drop_last or left < world_size else 0)
    assert len({-(-len(part) // batch_size) for part in parts}) == 1
