import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode

from aelm.losses import (
    CenterLoss,
    DistillationLoss,
    IdentityLoss,
    MetricLoss,
    TripletLoss,
    WeightedTripletLoss,
    batch_hard_triplet,
    weighted_triplet,
)
from aelm.models.network import joined
from aelm.types import HeadOutput


def outputs(B=6, N=4, stages=2, heads=2, seed=0):
    torch.manual_seed(seed)
    return tuple(
        tuple(HeadOutput(torch.randn(B, 3), torch.randn(B, 3), torch.randn(B, N)) for _ in range(heads))
        for _ in range(stages)
    )


PIDS = torch.tensor([0, 0, 1, 1, 2, 3])


def test_identity_loss_sums_over_heads_with_their_weights():
    out = outputs()
    expected = sum(
        w * F.cross_entropy(h.logits, PIDS, label_smoothing=0.1)
        for stage in out for h, w in zip(stage, (1.0, 0.5), strict=True)
    )  # fmt: skip
    loss = IdentityLoss(label_smoothing=0.1, head_weights=(1.0, 0.5), weight=2.0)
    torch.testing.assert_close(loss(out, PIDS), 2 * expected)


def test_label_smoothing_by_hand():
    logits = torch.randn(6, 4)
    target = torch.full((6, 4), 0.2 / 4)
    target[torch.arange(6), PIDS] += 0.8
    head = HeadOutput(logits, logits, logits)
    torch.testing.assert_close(IdentityLoss(0.2)(((head,),), PIDS), -(target * logits.log_softmax(1)).sum(1).mean())


@pytest.mark.parametrize("pids", [[0, 0, 1, 1, 2, 4], [-1, 0, 1, 1, 2, 3]])
def test_labels_out_of_range_are_named(pids):
    with pytest.raises(ValueError, match=r"labels must lie in 0 \.\. 3"):
        IdentityLoss()(outputs(), torch.tensor(pids))


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match=r"`label_smoothing` must lie in \[0, 1\), got 1"):
        IdentityLoss(1.0)
    with pytest.raises(ValueError, match="`head_weights` must hold a weight for each of 2 heads, got 3"):
        IdentityLoss(head_weights=(1, 1, 1))(outputs(), PIDS)
    with pytest.raises(ValueError, match="`margin` must be 0 or more"):
        TripletLoss(-1)


def test_distillation_is_one_minus_the_cosine_over_pictures_and_heads():
    own, theirs = outputs(seed=0), outputs(seed=1)
    pairs = [(h.embedding, t.embedding) for a, b in zip(own, theirs, strict=True) for h, t in zip(a, b, strict=True)]
    apart = [1 - (x @ y) / (x.norm() * y.norm()) for h, t in pairs for x, y in zip(h, t, strict=True)]
    torch.testing.assert_close(DistillationLoss(0.5)(own, theirs), 0.5 * torch.stack(apart).mean())
    assert DistillationLoss()(own, own).abs() < 1e-6
    with pytest.raises(ValueError, match="`weight` of the distillation must be 0 or more, got -1"):
        DistillationLoss(-1)


def test_distillation_teaches_the_network_alone():
    own, theirs = outputs(seed=0), outputs(seed=1)
    for stage in (*own, *theirs):
        for head in stage:
            head.embedding.requires_grad_()
    DistillationLoss()(own, theirs).backward()
    assert all(head.embedding.grad.any() for stage in own for head in stage)
    assert all(head.embedding.grad is None for stage in theirs for head in stage)


def slow_triplet(features, pids, margin):
    """The hardest pair of each anchor, by loops."""
    terms = []
    for i in range(len(pids)):
        positive = [
            (features[i] - features[j]).norm().item() for j in range(len(pids)) if j != i and pids[j] == pids[i]
        ]
        negative = [(features[i] - features[j]).norm().item() for j in range(len(pids)) if pids[j] != pids[i]]
        if positive and negative:
            gap = torch.tensor(max(positive) - min(negative), dtype=torch.float64)
            terms.append(F.softplus(gap) if margin is None else F.relu(gap + margin))
    return torch.stack(terms).mean() if terms else torch.tensor(0.0, dtype=torch.float64)


@pytest.mark.parametrize("margin", [0.0, 0.3, None])
@pytest.mark.parametrize("seed", range(10))
def test_triplet_equals_a_loop(margin, seed):
    torch.manual_seed(seed)
    features, pids = torch.randn(12, 5, dtype=torch.float64), torch.randint(4, (12,))
    torch.testing.assert_close(batch_hard_triplet(features, pids, margin), slow_triplet(features, pids, margin))


@pytest.mark.parametrize("margin", [0.3, None])
def test_identical_pictures_give_no_nan(margin):
    features = torch.ones(6, 4, requires_grad=True)
    loss = batch_hard_triplet(features, PIDS, margin)
    loss.backward()
    assert torch.isfinite(loss)
    assert not features.grad.any()


@pytest.mark.parametrize("pids", [[0, 1, 2, 3, 4, 5], [7] * 6])
def test_a_batch_without_pairs_has_loss_zero_and_a_gradient(pids):
    features = torch.randn(6, 4, requires_grad=True)
    loss = batch_hard_triplet(features, torch.tensor(pids))
    loss.backward()
    assert loss == 0
    assert features.grad.abs().sum() == 0


def test_distances_are_float32_under_autocast():
    features = 100 + torch.randn(6, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = batch_hard_triplet(features, PIDS)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, batch_hard_triplet(features, PIDS))


@pytest.mark.parametrize("margin", [0.3, None])
def test_triplet_loss_acts_on_the_joined_pooled_embedding(margin):
    out = outputs()
    joined = torch.cat([h.pooled for stage in out for h in stage], 1)
    expected = 0.5 * batch_hard_triplet(joined, PIDS, margin)
    torch.testing.assert_close(TripletLoss(margin, weight=0.5)(out, PIDS), expected)


def test_triplet_has_the_gradient_of_a_loop_over_the_chosen_pairs_alone():
    generator = torch.Generator().manual_seed(0)
    for seed in range(20):
        features = torch.randn(9, 5, generator=generator, dtype=torch.float64, requires_grad=True)
        pids = torch.randint(3, (9,), generator=torch.Generator().manual_seed(seed))
        loss = batch_hard_triplet(features, pids, margin=None)
        (mine,) = torch.autograd.grad(loss, features)
        terms = []
        for i in range(9):
            far = [(features[i] - features[j]).norm() for j in range(9) if j != i and pids[j] == pids[i]]
            near = [(features[i] - features[j]).norm() for j in range(9) if pids[j] != pids[i]]
            if far and near:
                terms.append(torch.nn.functional.softplus(max(far) - min(near)))
        (theirs,) = torch.autograd.grad(torch.stack(terms).mean(), features)
        torch.testing.assert_close(mine, theirs)
        names, todo = set(), [loss.grad_fn]
        while todo:
            node = todo.pop()
            names.add(type(node).__name__)
            todo += [following for following, _ in node.next_functions if following is not None]
        assert not any("Cdist" in name for name in names), "all pairs have a gradient: B x B x D numbers"


def test_triplet_reads_nothing_back_from_a_gpu():
    """On a device without one: where a value is read back, fake tensors raise."""
    with FakeTensorMode():
        features, pids = torch.empty(8, 4, device="cuda", requires_grad=True), torch.empty(8, device="cuda").long()
        loss = batch_hard_triplet(features, pids)
    assert loss.device.type == "cuda"
    assert loss.shape == ()


def slow_weighted_triplet(features, pids):
    """Equation by equation, anchor by anchor."""
    losses = []
    for i in range(len(pids)):
        positives = [(features[i] - features[j]).norm() for j in range(len(pids)) if pids[j] == pids[i] and j != i]
        negatives = [(features[i] - features[k]).norm() for k in range(len(pids)) if pids[k] != pids[i]]
        if positives and negatives:
            far = sum(d.exp() * d for d in positives) / sum(d.exp() for d in positives)
            near = sum((-d).exp() * d for d in negatives) / sum((-d).exp() for d in negatives)
            losses.append((1 + (far - near).exp()).log())
    return torch.stack(losses).mean() if losses else torch.zeros((), dtype=features.dtype)


@pytest.mark.parametrize("seed", range(8))
def test_the_weighted_triplet_equals_a_loop_and_so_does_its_gradient(seed):
    torch.manual_seed(seed)
    features = torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
    pids = torch.randint(4, (9,))
    fast, slow = weighted_triplet(features, pids), slow_weighted_triplet(features, pids)
    torch.testing.assert_close(fast, slow)
    torch.testing.assert_close(*(torch.autograd.grad(loss, features)[0] for loss in (fast, slow)))


@pytest.mark.parametrize("pids", [[0, 0, 0, 0], [0, 1, 2, 3]])
def test_a_weighted_triplet_without_pairs_is_0(pids):
    features = torch.randn(4, 3, requires_grad=True)
    loss = weighted_triplet(features, torch.tensor(pids))
    loss.backward()
    assert loss == 0
    assert not features.grad.any()


def test_identical_pictures_give_the_weighted_triplet_no_gradient_rather_than_nan():
    features = torch.ones(6, 3, requires_grad=True)
    weighted_triplet(features, PIDS).backward()
    assert not features.grad.any()


def test_centers_move_by_the_pictures_of_all_processes(monkeypatch):
    """As if another process had the same pictures."""
    torch.manual_seed(1)
    (first, *_), alone, shared = outputs(), CenterLoss(4, 6), CenterLoss(4, 6)
    twice = tuple(head._replace(pooled=head.pooled.repeat(2, 1)) for head in first)
    alone((twice,), PIDS.repeat(2))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda sums: sums.mul_(2))
    shared((first,), PIDS)
    assert alone.centers.any()
    torch.testing.assert_close(alone.centers, shared.centers)


def test_features_that_are_no_numbers_give_no_loss_of_zero():
    for value in (torch.nan, 1e38):
        features = torch.full((6, 3), value) * torch.arange(6.0)[:, None]
        assert not batch_hard_triplet(features, PIDS).isfinite()


def test_centers_move_in_float32_under_autocast():
    (first, *_), plain, inside = outputs(), CenterLoss(4, 6), CenterLoss(4, 6)
    plain((first,), PIDS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside((first,), PIDS)
    torch.testing.assert_close(inside.centers, plain.centers)


def test_centers_draw_features_by_the_weight_and_move_by_the_rule_of_wen():
    out, loss = outputs(), CenterLoss(num_ids=4, embed_dim=12, weight=0.1, rate=0.5)
    before = torch.nn.init.normal_(loss.centers).clone()
    features = torch.cat([h.pooled for stage in out for h in stage], 1)
    for stage in out:
        for head in stage:
            head.pooled.requires_grad_()
    value = loss(out, PIDS)
    apart = [features[i] - before[pid] for i, pid in enumerate(PIDS)]
    torch.testing.assert_close(value, 0.1 * sum(d @ d for d in apart) / 6)
    value.backward()
    pulled = torch.cat([h.pooled.grad for stage in out for h in stage], 1)
    torch.testing.assert_close(pulled, 0.1 * 2 * torch.stack(apart).detach() / 6)
    for n in range(4):
        own = [d.detach() for d, pid in zip(apart, PIDS, strict=True) if pid == n]
        moved = before[n] + 0.5 * sum(own, torch.zeros(12)) / (1 + len(own))
        torch.testing.assert_close(loss.centers[n], moved)
    loss.eval()
    rest = loss.centers.clone()
    loss(out, PIDS)
    assert torch.equal(loss.centers, rest)
    with pytest.raises(ValueError, match=r"labels must lie in 0 \.\. 2"):
        CenterLoss(3, 12)(out, PIDS)


LIBRARY = {
    "CircleLoss": {"m": 0.25, "gamma": 128},
    "MultiSimilarityLoss": {},
    "SupConLoss": {},
    "ArcFaceLoss": {"num_classes": 4, "embedding_size": 12},
    "CosFaceLoss": {"num_classes": 4, "embedding_size": 12},
}


def of_the_library(name):
    losses = pytest.importorskip("pytorch_metric_learning.losses", reason="the extra `losses` is not installed")
    torch.manual_seed(0)
    return getattr(losses, name)(**LIBRARY[name])


@pytest.mark.parametrize("name", LIBRARY)
def test_a_loss_of_the_library_is_its_own_value_on_what_is_ranked(name):
    out = outputs()
    expected = of_the_library(name)(joined(out), PIDS)
    assert expected > 0
    loss = MetricLoss(of_the_library(name), weight=0.5)
    torch.testing.assert_close(loss(out, PIDS), 0.5 * expected, rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loss(out, PIDS), 0.5 * expected, rtol=0, atol=0)


def test_parameters_of_half_precision_are_computed_with_in_float32_and_stay():
    loss = MetricLoss(of_the_library("ArcFaceLoss"))
    expected = loss.to(torch.bfloat16).float()(outputs(), PIDS)
    value = loss.to(torch.bfloat16)(outputs(), PIDS)
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    value.backward()
    assert (loss.loss.W.dtype, loss.loss.W.grad.dtype) == (torch.bfloat16, torch.bfloat16)
    assert loss.loss.W.grad.any()


@pytest.mark.parametrize("name", LIBRARY)
def test_identical_pictures_and_none_of_the_same_person_give_a_loss_of_the_library_finite_gradients(name):
    for pids in (PIDS, torch.tensor([0, 1, 2, 3, 0, 1])[:4]):
        embedding = torch.ones(len(pids), 12, requires_grad=True)
        loss = MetricLoss(of_the_library(name))(((HeadOutput(embedding, embedding, embedding),),), pids)
        loss.backward()
        assert loss.isfinite()
        assert embedding.grad.isfinite().all()


def test_losses_tell_whether_they_compare_pictures():
    assert WeightedTripletLoss.compares_pictures
    assert not getattr(CenterLoss(4, 2), "compares_pictures", False)
    compare = {name for name in LIBRARY if MetricLoss(of_the_library(name)).compares_pictures}
    assert compare == {"CircleLoss", "MultiSimilarityLoss", "SupConLoss"}
