import itertools

import pytest
import torch

from aelm.models import AELM, IFCN, RandomAELM, TwoHeads, discriminative_region
from aelm.models.aelm import hashed, of_another, shifted, swapped
from tests.models import naive


def world(module=AELM, seed=0, **options):
    torch.manual_seed(seed)
    return module(8, 5, embed_dim=6, **options), torch.rand(4, 8, 6, 3), torch.tensor([0, 1, 4, 2])


def test_what_is_dropped_takes_no_part_in_gem():
    aelm, features, pids = world(fill="drop", erase="attended", pooling="gem")
    _, b = aelm.train()(features, pids)
    assert b.mask.any()
    expected = naive.generalised_mean(aelm.b.embed(features), 3, b.mask)
    torch.testing.assert_close(b.pooled, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_region_equals_a_loop(threshold, seed):
    torch.manual_seed(seed)
    heat = torch.randn(6, 5, 4)
    heat[0] = 3.0  # constant
    heat[1] = torch.arange(20).view(5, 4)
    assert torch.equal(discriminative_region(heat, threshold), naive.region(heat, threshold))


@pytest.mark.parametrize("seed", range(5))
def test_laws_of_the_region(seed):
    torch.manual_seed(seed)
    heat = torch.randn(8, 7, 3)
    masks = [discriminative_region(heat, t) for t in (0.2, 0.5, 0.8, 1.0)]
    for lower, higher in itertools.pairwise(masks):
        assert (higher <= lower).all()  # a higher threshold erases no more
    for mask in masks:
        assert mask.flatten(1)[torch.arange(8), heat.flatten(1).argmax(1)].all()  # the maximum always goes
        assert not mask.flatten(1).all(1).any()
    assert torch.equal(discriminative_region(3 * heat - 7, 0.5), masks[1])  # scale and offset do not matter


@pytest.mark.parametrize("value", [0.0, -4.0, 1e30, float("nan")])
def test_a_map_without_range_erases_nothing(value):
    assert not discriminative_region(torch.full((2, 4, 3), value), 0.7).any()
    assert not discriminative_region(torch.full((2, 1, 1), value), 0.7).any()


def test_half_precision_is_compared_in_float32():
    heat = torch.tensor([[[0.0, 1000.0, 1500.0, 2047.0]]], dtype=torch.bfloat16)
    assert torch.equal(discriminative_region(heat, 0.7), discriminative_region(heat.float(), 0.7))


def test_b_pools_over_what_is_left():
    aelm, features, pids = world(fill="drop")
    a, b = aelm(features, pids)
    assert torch.equal(b.mask, naive.region(a.heatmap, 0.7))
    maps = aelm.b.embed(features)  # batch statistics: the same as in the step
    torch.testing.assert_close(b.pooled, naive.mean_over_kept(maps, b.mask))
    assert a.mask is None


def test_zero_fill_erases_features_before_b():
    aelm, features, pids = world(fill="zero")
    _, b = aelm(features, pids)
    assert b.mask.any()
    torch.testing.assert_close(b.pooled, aelm.b.embed(features * ~b.mask[:, None]).mean((2, 3)))


def test_swap_fill_shows_b_another_picture_where_a_looked():
    aelm, features, pids = world(fill="swap")
    features.requires_grad_()
    _, b = aelm(features, pids)
    seen = features.detach().clone()
    for i, y, x in b.mask.nonzero().tolist():
        seen[i, :, y, x] = features.detach()[(i + 2) % 4, :, y, x]  # half a batch of four away
    torch.testing.assert_close(b.pooled, aelm.b.embed(seen).mean((2, 3)))
    b.pooled.square().sum().backward()
    assert not features.grad.masked_select(b.mask[:, None]).any()  # what B does not see of a picture teaches nothing
    assert features.grad.masked_select(~b.mask[:, None]).any()


def test_a_single_picture_has_no_other_to_swap_with():
    aelm, features, _ = world(fill="swap", neck=False)
    torch.testing.assert_close(aelm(features[:1], torch.tensor([0]))[1].pooled, aelm.b.embed(features[:1]).mean((2, 3)))


@pytest.mark.parametrize("fill", ["swap", "drop", "zero"])
def test_nothing_is_erased_in_evaluation(fill):
    aelm, features, pids = world(fill=fill)
    aelm.eval()
    plain = aelm(features)
    assert [head.heatmap for head in plain] == [None, None]
    assert plain[1].mask is None
    for asked in (aelm(features, pids), aelm(features, explain=True)):
        for before, after in zip(plain, asked, strict=True):
            assert torch.equal(before.embedding, after.embedding)
            assert after.heatmap is not None
        assert torch.equal(asked[1].mask, naive.region(asked[0].heatmap, 0.7))


@pytest.mark.parametrize("module", [AELM, TwoHeads])
def test_without_labels_the_best_identity_of_a_is_shown_for_both(module):
    aelm, features, _ = world(module)
    aelm.eval()
    best = aelm(features)[0].logits.argmax(1)
    shown, asked = aelm(features, explain=True), aelm(features, best)
    assert torch.equal(shown[0].heatmap, asked[0].heatmap)
    assert torch.equal(shown[1].heatmap, asked[1].heatmap)


@pytest.mark.parametrize("module", [TwoHeads, AELM])
@pytest.mark.parametrize("explain", [False, True])
def test_both_show_the_identity_that_was_asked_for(module, explain):
    heads, features, _ = world(module)
    heads.eval()
    other = (heads(features)[0].logits.argmax(1) + 1) % 5
    a, b = heads(features, other, explain=explain)
    assert torch.equal(a.heatmap, heads.a(features, other).heatmap)
    assert torch.equal(b.heatmap, heads.b(features, other).heatmap)


def test_without_labels_training_erases_what_the_best_identity_of_a_is_seen_by():
    aelm, features, _ = world()
    a, b = aelm(features)
    assert torch.equal(b.mask, discriminative_region(a.heatmap, 0.7))
    assert b.mask.any()


def test_no_gradient_runs_through_the_mask():
    aelm, features, pids = world()
    _, b = aelm(features, pids)
    b.logits.sum().backward()
    assert all(p.grad is None for p in aelm.a.parameters())
    assert all(p.grad is not None for p in aelm.b.parameters() if p.requires_grad)


def test_a_and_b_share_no_weight():
    aelm, _, _ = world()
    a, b = ({id(p) for p in head.parameters()} for head in (aelm.a, aelm.b))
    assert not a & b


@pytest.mark.parametrize("seed", range(4))
def test_random_shift_keeps_area_and_shape(seed):
    aelm, features, pids = world(RandomAELM, seed=seed)
    places = []
    for _ in range(3):
        a, b = aelm(features, pids)
        region = discriminative_region(a.heatmap, 0.7)
        for mask, adversarial in zip(b.mask, region, strict=True):
            rolls = [adversarial.roll((y, x), (0, 1)) for y in range(6) for x in range(3)]
            assert any(torch.equal(mask, roll) for roll in rolls)
        places.append(b.mask)
    assert not (torch.equal(places[0], places[1]) and torch.equal(places[1], places[2]))  # drawn anew each step


def test_random_shifts_are_reproducible_and_leave_the_global_stream_alone():
    aelm, features, pids = world(RandomAELM)
    state = {key: value.clone() for key, value in aelm.state_dict().items()}
    stream = torch.get_rng_state()
    first = [aelm(features, pids)[1].mask for _ in range(2)]
    assert torch.equal(stream, torch.get_rng_state())
    aelm.load_state_dict(state)
    again = [aelm(features, pids)[1].mask for _ in range(2)]
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))


def test_evaluation_draws_no_shift():
    aelm, features, pids = world(RandomAELM)
    before = aelm.draws.clone()
    aelm.eval()(features, pids)
    assert torch.equal(aelm.draws, before)


def test_shifts_reach_every_place_about_equally():
    numbers = hashed(torch.arange(12_000))
    counts = torch.bincount(numbers % 12, minlength=12)
    assert counts.min() > 850
    assert counts.max() < 1150
    mask = torch.zeros(2, 3, 4, dtype=torch.bool)
    mask[:, 0, 0] = True
    moved = shifted(mask, torch.tensor([1, 2]), torch.tensor([3, 0]))
    assert moved[0].nonzero().tolist() == [[1, 3]]
    assert moved[1].nonzero().tolist() == [[2, 0]]


def test_two_heads_erase_nothing():
    heads, features, pids = world(TwoHeads)
    a, b = heads(features, pids)
    assert a.mask is None
    assert b.mask is None
    torch.testing.assert_close(b.pooled, heads.b.embed(features).mean((2, 3)))


@pytest.mark.parametrize("module", [AELM, RandomAELM])
@pytest.mark.parametrize("threshold", [0, -0.1, 1.01, float("nan")])
def test_threshold_outside_its_range_is_refused(module, threshold):
    with pytest.raises(ValueError, match=r"`threshold` must lie in \(0, 1\], got"):
        module(8, 5, threshold=threshold)


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="`fill` must be one of swap, drop, zero, got 'mean'"):
        AELM(8, 5, fill="mean")
    with pytest.raises(ValueError, match="`erase` must be one of raw, attended, got 'both'"):
        AELM(8, 5, erase="both")


def test_a_batch_of_one_a_map_of_one_position_and_one_identity_work():
    aelm = AELM(4, 1, embed_dim=3).eval()
    a, b = aelm(torch.rand(1, 4, 1, 1), torch.tensor([0]))
    assert a.logits.shape == b.logits.shape == (1, 1)
    assert not b.mask.any()


def test_training_in_a_plain_loop_moves_every_parameter():
    aelm, features, pids = world()
    optimizer = torch.optim.Adam(aelm.parameters(), lr=0.05)
    before = [p.clone() for p in aelm.parameters()]
    losses = []
    for _ in range(20):
        loss = sum(torch.nn.functional.cross_entropy(head.logits, pids) for head in aelm(features, pids))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(not torch.equal(x, y) for x, y in zip(before, aelm.parameters(), strict=True))


def test_ifcn_alone_fits_where_aelm_stands():
    head, features, pids = world(IFCN)
    assert head(features, pids).heatmap.shape == (4, 6, 3)


def test_of_another_is_half_a_batch_away_where_that_is_another_identity():
    pids = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    others, found = of_another(pids)
    assert others.tolist() == torch.arange(8).roll(4).tolist()
    assert found.all()


def test_of_another_never_gives_the_same_identity_and_says_where_there_is_none():
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        pids = torch.randint(1 + seed % 4, (1 + seed % 7,), generator=generator)
        others, found = of_another(pids)
        for i in range(len(pids)):
            assert found[i] == bool((pids != pids[i]).any())
            assert not found[i] or pids[others[i]] != pids[i]


def test_swapping_keeps_channels_last():
    features = torch.rand(4, 8, 6, 3).contiguous(memory_format=torch.channels_last)
    filled = swapped(features, torch.rand(4, 6, 3) > 0.5, torch.tensor([1, 2, 3, 0]))
    assert filled.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("pids", [[0], [3, 3, 3]])
def test_with_no_other_identity_in_the_batch_swap_erases_nothing_and_says_so(pids):
    aelm = AELM(channels=8, num_ids=5, embed_dim=4)
    features = torch.rand(len(pids), 8, 6, 3)
    if len(pids) == 1:  # batch norm over 18 positions of one picture
        aelm.train()
    _, b = aelm(features, torch.tensor(pids))
    assert not b.mask.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("neck", [False, True])
def test_pure_half_precision_trains_with_float32_losses(dtype, neck):
    aelm = AELM(channels=8, num_ids=3, embed_dim=4, neck=neck).to(dtype)
    a, b = aelm(torch.rand(6, 8, 6, 3).to(dtype), torch.tensor([0, 0, 1, 1, 2, 2]))
    assert a.logits.dtype == b.logits.dtype == a.pooled.dtype == torch.float32
    (a.logits.square().sum() + b.logits.square().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in aelm.parameters() if p.requires_grad)


def test_under_autocast_pooled_features_and_logits_are_float32():
    aelm = AELM(channels=8, num_ids=3, embed_dim=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        a, b = aelm(torch.rand(4, 8, 6, 3), torch.tensor([0, 0, 1, 1]))
    assert {getattr(head, name).dtype for head in (a, b) for name in ("pooled", "embedding", "logits")} == {
        torch.float32
    }
    assert a.heatmap.dtype == torch.float32


def test_under_autocast_pooling_and_scoring_lose_nothing():
    """Only the maps are bfloat16: from them on the result is that of float32."""
    aelm = AELM(channels=8, num_ids=3, embed_dim=4).eval()
    features, pids = torch.rand(4, 8, 6, 3), torch.tensor([0, 0, 1, 1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        a = aelm(features, pids)[0]
        maps = aelm.a.embed(features)
    assert maps.dtype == torch.bfloat16
    torch.testing.assert_close(a.pooled, maps.float().mean((2, 3)), rtol=0, atol=1e-6)
    torch.testing.assert_close(a.logits, maps.float().mean((2, 3)) @ aelm.a.weight.T, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        a.heatmap, torch.einsum("behw,be->bhw", maps.float(), aelm.a.weight[pids]), rtol=0, atol=1e-6
    )


def test_each_process_draws_its_own_shifts_and_the_first_what_one_alone_draws(monkeypatch):
    aelm, features, pids = world(RandomAELM)
    state = {key: value.clone() for key, value in aelm.state_dict().items()}

    def drawn():
        aelm.load_state_dict(state)
        return torch.stack([aelm(features, pids)[1].mask for _ in range(4)])

    alone, of_rank = drawn(), []
    monkeypatch.setattr("aelm.models.aelm.dist.is_initialized", lambda: True)
    for rank in range(3):
        monkeypatch.setattr("aelm.models.aelm.dist.get_rank", lambda rank=rank: rank)
        of_rank.append(drawn())
    assert torch.equal(of_rank[0], alone)
    assert all(not torch.equal(one, other) for one, other in itertools.combinations(of_rank, 2))


def test_where_half_a_batch_away_is_the_same_person_another_one_is_swapped_in():
    aelm, features, _ = world(fill="swap")
    pids = torch.tensor([0, 1, 0, 2])  # half a batch from picture 0 stands picture 2, of the same person
    _, b = aelm(features, pids)
    others, found = of_another(pids)
    assert others.tolist() == [1, 3, 3, 1]
    assert found.all()
    seen = features.clone()
    for i, y, x in b.mask.nonzero().tolist():
        seen[i, :, y, x] = features[others[i], :, y, x]
    torch.testing.assert_close(b.pooled, aelm.b.embed(seen).mean((2, 3)))


@pytest.mark.parametrize("module", [AELM, RandomAELM])
def test_less_strength_erases_no_more_and_none_nothing(module):
    aelm, features, pids = world(module, fill="zero")
    shares = []
    for strength in (0.0, 0.3, 0.6, 1.0):
        aelm.set_strength(strength)
        if module is RandomAELM:
            aelm.draws.zero_()  # the same shifts each time
        shares.append(aelm(features, pids)[1].mask)
    assert not shares[0].any()
    for less, more in itertools.pairwise(shares):
        assert (less <= more).all()
    assert shares[1].sum() < shares[3].sum()


def test_full_strength_is_the_threshold_and_evaluation_knows_no_strength():
    aelm, features, pids = world()
    a, b = aelm(features, pids)
    aelm.set_strength(0.0)
    aelm.set_strength(1.0)
    assert torch.equal(aelm(features, pids)[1].mask, b.mask)
    assert torch.equal(b.mask, discriminative_region(a.heatmap, 0.7))
    aelm.set_strength(0.0)
    aelm.eval()
    a, b = aelm(features, pids)
    assert torch.equal(b.mask, discriminative_region(a.heatmap, 0.7))
    assert "level" not in aelm.state_dict()
