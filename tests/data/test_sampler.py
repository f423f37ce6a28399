"""Laws of the samplers, over many small worlds."""

from collections import Counter

import numpy as np
import pytest
from torch.utils.data import DataLoader

from aelm.data.sampler import IdentitySampler, ShardSampler, ShuffleSampler


def world(seed, identities=11, most=9, cameras=4):
    """Labels and cameras of a small uneven data set, in random order."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(identities), rng.integers(1, most, identities)))
    return labels.tolist(), rng.integers(0, cameras, len(labels)).tolist()


def epoch_of(sampler, epoch=0):
    sampler.set_epoch(epoch)
    pairs = list(sampler)
    assert {e for e, _ in pairs} <= {epoch}
    return [index for _, index in pairs]


def groups_of(indices, images):
    assert len(indices) % images == 0
    return [indices[i : i + images] for i in range(0, len(indices), images)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("identities", "images"), [(3, 4), (5, 1), (11, 2), (2, 12)])
def test_every_step_holds_p_identities_with_k_pictures(seed, identities, images):
    labels, camids = world(seed)
    sampler = IdentitySampler(labels, camids, identities=identities, images=images)
    for epoch in range(2):
        indices = epoch_of(sampler, epoch)
        assert len(indices) == len(sampler)
        assert len(indices) % sampler.batch_size == 0
        for step in groups_of(indices, sampler.batch_size):
            pids = [{labels[i] for i in group} for group in groups_of(step, images)]
            assert all(len(pid) == 1 for pid in pids)
            assert len(set.union(*pids)) == identities


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("images", [1, 3, 4, 12])
def test_pictures_of_a_group_are_distinct_and_from_many_cameras(seed, images):
    labels, camids = world(seed)
    have = Counter(labels)
    cameras = {pid: {c for p, c in zip(labels, camids, strict=True) if p == pid} for pid in have}
    sampler = IdentitySampler(labels, camids, identities=4, images=images, steps_per_epoch=30)
    for group in groups_of(epoch_of(sampler), images):
        pid = labels[group[0]]
        assert len(set(group)) == min(images, have[pid])
        assert len({camids[i] for i in group}) == min(images, len(cameras[pid]))
        # Who has too few repeats them evenly.
        assert max(Counter(group).values()) <= -(-images // have[pid])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("identities", [2, 4, 11])
def test_identities_take_turns(seed, identities):
    """At no point of an epoch has one identity been seen twice more than another."""
    labels, camids = world(seed)
    sampler = IdentitySampler(labels, camids, identities=identities, images=2, steps_per_epoch=25)
    indices = epoch_of(sampler)
    seen = Counter(dict.fromkeys(labels, 0))
    for step in groups_of(indices, sampler.batch_size):
        seen.update(labels[group[0]] for group in groups_of(step, 2))
        assert max(seen.values()) - min(seen.values()) <= 1


def test_pictures_of_a_camera_take_turns_over_the_epoch():
    labels, camids = [0] * 7 + [1] * 5, [0] * 7 + [1] * 5
    sampler = IdentitySampler(labels, camids, identities=2, images=3, steps_per_epoch=40)
    seen = Counter(epoch_of(sampler))
    for pictures in (range(7), range(7, 12)):
        counts = [seen[i] for i in pictures]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("seed", range(4))
def test_an_epoch_is_as_long_as_bots(seed):
    """The count of reid-strong-baseline: what is left of an identity beyond multiples of K is not counted."""
    labels, camids = world(seed, identities=20, most=30)
    images, identities, length = 4, 3, 0
    for count in Counter(labels).values():
        count = max(count, images)
        length += count - count % images
    sampler = IdentitySampler(labels, camids, identities=identities, images=images)
    assert len(sampler) == length // (identities * images) * identities * images


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_processes_share_one_plan(seed, processes):
    """What P identities on each of W processes see together is what P x W identities on one process see."""
    labels, camids = world(seed, identities=13)
    together = IdentitySampler(labels, camids, identities=2 * processes, images=3, seed=seed)
    apart = [
        IdentitySampler(labels, camids, identities=2, images=3, seed=seed, rank=rank, world_size=processes)
        for rank in range(processes)
    ]
    assert {len(sampler) for sampler in apart} == {len(together) // processes}
    steps = [groups_of(epoch_of(sampler, 5), sampler.batch_size) for sampler in apart]
    joined = [index for parts in zip(*steps, strict=True) for part in parts for index in part]
    assert joined == epoch_of(together, 5)


def test_plan_depends_on_seed_and_epoch_and_nothing_else():
    labels, camids = world(0)
    for make in (
        lambda seed: IdentitySampler(labels, camids, identities=3, images=2, seed=seed),
        lambda seed: ShuffleSampler(labels, camids, batch_size=4, seed=seed),
    ):
        np.random.seed(0)
        first = epoch_of(make(1), 2)
        np.random.seed(1)
        assert epoch_of(make(1), 2) == first
        assert epoch_of(make(1), 3) != first
        assert epoch_of(make(2), 2) != first


def test_a_plain_loop_moves_on_to_the_next_epoch():
    labels, camids = world(0)
    loop, told = (IdentitySampler(labels, camids, identities=3, images=2) for _ in range(2))
    for epoch in range(3):
        told.set_epoch(epoch)
        assert list(loop) == list(told)
    assert next(iter(loop))[0] == 3


def test_dataloader_makes_steps_of_it():
    labels, camids = world(0)
    sampler = IdentitySampler(labels, camids, identities=3, images=2)
    loader = DataLoader(range(len(labels)), batch_size=sampler.batch_size, sampler=sampler)
    assert len(loader) == sampler.steps


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("total", [24, 25, 31, 35])
def test_shuffling_shows_every_picture_once(processes, drop_last, total):
    samplers = [
        ShuffleSampler([0] * total, [0] * total, batch_size=4, rank=rank, world_size=processes, drop_last=drop_last)
        for rank in range(processes)
    ]
    parts = [epoch_of(sampler) for sampler in samplers]
    assert [len(part) for part in parts] == [len(sampler) for sampler in samplers]
    seen = [index for part in parts for index in part]
    assert len(set(seen)) == len(seen)
    step, left = 4 * processes, total % (4 * processes)
    assert len(seen) == (total - left if drop_last or left < processes else total)
    # As many steps on every process, or they would wait for each other for ever.
    assert len({-(-len(part) // 4) for part in parts}) == 1
    assert len(seen) >= step


def test_shards_hold_every_batch_of_one_process_once():
    for length in range(24):
        for size in (1, 3, 5):
            whole = list(ShardSampler(length, batch_size=size))
            assert whole == list(range(length))
            batches = [whole[i : i + size] for i in range(0, length, size)]
            for processes in range(1, 5):
                shards = [ShardSampler(length, rank, processes, size) for rank in range(processes)]
                own = [list(shard) for shard in shards]
                assert [len(shard) for shard in shards] == [len(o) for o in own]
                counts = [-(-len(o) // size) for o in own]
                dealt = [o[i : i + size] for o in own for i in range(0, len(o), size)]
                if len(batches) >= processes:
                    assert sorted(dealt) == batches
                    assert max(counts) - min(counts) <= 1
                elif length:  # nobody goes without
                    assert sorted(dealt) == sorted(batches + batches[:1] * (processes - len(batches)))
                    assert min(counts) == 1


def test_a_pass_goes_on_within_an_epoch():
    labels, camids = world(0)
    for make in (
        lambda: IdentitySampler(labels, camids, identities=3, images=2, seed=5),
        lambda: ShuffleSampler(labels, camids, batch_size=4, seed=5),
    ):
        whole, stopped = make(), make()
        epochs = [list(whole) for _ in range(3)]
        shown = whole.batch_size
        stopped.go_on(1, shown)
        assert list(stopped) == epochs[1][shown:]
        assert list(stopped) == epochs[2]
        stopped.set_epoch(1)
        assert list(stopped) == epochs[1][shown:]


def test_batches_in_words():
    labels, camids = world(0, identities=16)
    sampler = IdentitySampler(labels, camids, identities=8, images=4, world_size=2)
    assert sampler.describe() == "2 processes x (8 identities x 4 images) = 64 images a step"
    assert IdentitySampler([0], [0], identities=1, images=1).describe() == (
        "1 process x (1 identity x 1 image) = 1 image a step"
    )
    assert ShuffleSampler(labels, camids, batch_size=3, world_size=2).describe() == (
        "2 processes x 3 images = 6 images a step"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"identities": 0}, "`identities` must be at least 1, got 0"),
        ({"images": 0}, "`images` must be at least 1, got 0"),
        ({"steps_per_epoch": 0}, "`steps_per_epoch` must be at least 1, got 0"),
        ({"identities": 4}, r"4 x 1 = 4 identities, found 3: lower `identities`"),
        ({"identities": 2, "world_size": 2}, r"2 x 2 = 4 identities, found 3.*fewer processes"),
        ({"identities": 1, "rank": 1}, "`rank`.*got rank 1 of 1"),
    ],
)
def test_identity_sampler_says_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=message):
        IdentitySampler([0, 1, 2, 2], [0, 0, 0, 1], **options)


def test_other_errors():
    with pytest.raises(ValueError, match="got 2 and 1 numbers"):
        IdentitySampler([0, 1], [0])
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        ShuffleSampler([0], [0], batch_size=0)
    with pytest.raises(ValueError, match="takes 2 processes x 4 images, found 7 pictures"):
        ShuffleSampler([0] * 7, [0] * 7, batch_size=4, world_size=2)
    with pytest.raises(ValueError, match="got rank 2 of 2"):
        ShardSampler(3, 2, 2)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        ShardSampler(3, batch_size=0)
