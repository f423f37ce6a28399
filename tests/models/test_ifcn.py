import itertools

import pytest
import torch

from aelm.models import IFCN
from aelm.models.ifcn import gem_maps, mean_over_kept
from tests.models import naive

SIZES = [(1, 8, 6, 3, 5), (4, 16, 16, 8, 37), (3, 5, 1, 7, 1), (2, 4, 1, 1, 9)]  # B, C, H, W, N


def head_and_input(B, C, H, W, N, neck=False, seed=0):
    torch.manual_seed(seed)
    head = IFCN(C, N, embed_dim=6, neck=neck).double().eval()
    head.embed[1].running_mean.uniform_(-0.3, 0.3)
    if neck:
        head.neck.running_mean.uniform_(0, 1)
        head.neck.running_var.uniform_(0.5, 2)
        torch.nn.init.uniform_(head.neck.weight, 0.5, 1.5)
    return head, torch.rand(B, C, H, W, dtype=torch.float64, requires_grad=True), torch.randint(N, (B,))


@pytest.mark.parametrize("neck", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(3))
def test_logits_and_heat_maps_equal_the_naive_form(size, neck, seed):
    head, features, pids = head_and_input(*size, neck=neck, seed=seed)
    output = head(features, pids)
    maps = naive.class_maps(head, features)
    torch.testing.assert_close(output.logits, maps.mean((2, 3)), rtol=0, atol=1e-12)
    torch.testing.assert_close(output.heatmap, maps[torch.arange(len(pids)), pids], rtol=0, atol=1e-12)
    torch.testing.assert_close(head.class_maps(features), maps, rtol=0, atol=1e-12)


@pytest.mark.parametrize("neck", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_gradients_equal_the_naive_form(size, neck):
    head, features, pids = head_and_input(*size, neck=neck)
    parameters = [features, *(p for p in head.parameters() if p.requires_grad)]
    fast = torch.autograd.grad(torch.nn.functional.cross_entropy(head(features, pids).logits, pids), parameters)
    slow_logits = naive.class_maps(head, features).mean((2, 3))
    slow = torch.autograd.grad(torch.nn.functional.cross_entropy(slow_logits, pids), parameters)
    for ours, theirs in zip(fast, slow, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_the_neck_scales_heat_maps_by_the_statistics_of_the_batch_in_training():
    head, features, pids = head_and_input(4, 8, 6, 3, 5, neck=True)
    output = head.train()(features, pids)
    own = output.logits[torch.arange(4), pids]
    torch.testing.assert_close(output.heatmap.mean((1, 2)), own.detach(), rtol=0, atol=1e-9)


def test_heat_maps_have_no_gradient_and_come_only_when_asked_for():
    head, features, pids = head_and_input(2, 8, 6, 3, 5)
    assert head(features).heatmap is None
    assert not head(features, pids).heatmap.requires_grad
    best = head(features, explain=True)
    again = head(features, best.logits.argmax(1))
    assert torch.equal(best.heatmap, again.heatmap)


@pytest.mark.parametrize("seed", range(5))
def test_mean_over_kept_equals_a_loop(seed):
    torch.manual_seed(seed)
    maps = torch.rand(4, 3, 5, 2, dtype=torch.float64)
    erased = torch.rand(4, 5, 2) < 0.6
    erased[0] = True  # everything erased: the whole map counts
    erased[1] = False
    torch.testing.assert_close(mean_over_kept(maps, erased), naive.mean_over_kept(maps, erased))


def test_the_neck_shift_is_not_trained():
    head = IFCN(4, 3, 2, neck=True)
    assert "neck.bias" not in {name for name, p in head.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("pids", [[0, 5], [-1, 0]])
def test_labels_out_of_range_are_named(pids):
    head, features, _ = head_and_input(2, 8, 6, 3, 5)
    with pytest.raises(ValueError, match=r"0 \.\. 4.*got \[(5|-1)\]"):
        head(features, torch.tensor(pids))


@pytest.mark.parametrize("arguments", [(0, 5, 4), (4, 0, 4), (4, 5, 0)])
def test_sizes_below_one_are_refused(arguments):
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        IFCN(*arguments)


def test_heat_maps_are_float32_under_autocast():
    head = IFCN(8, 5, 4)
    features, pids = torch.rand(2, 8, 6, 3), torch.tensor([0, 3])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(features, pids).heatmap.dtype == torch.float32


def gem_head(neck=False, training=False):
    """A head with GeM of a power of its own, and statistics as after training; its maps and its output."""
    head, features, pids = head_and_input(4, 8, 6, 3, 5, neck=neck)
    gem = IFCN(8, 5, embed_dim=6, neck=neck, pooling="gem").double().train(training)
    gem.load_state_dict(head.state_dict(), strict=False)
    torch.nn.init.constant_(gem.power, 2.6)
    return gem, features, pids


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("power", [1.0, 2.6, 9.0])
@pytest.mark.parametrize("seed", range(3))
def test_shares_average_to_the_generalised_mean(power, seed, dtype):
    torch.manual_seed(seed)
    maps = torch.relu(torch.randn(4, 3, 5, 2, dtype=dtype)) * torch.tensor([1.0, 50.0, 0.0])[:, None, None]
    erased = torch.rand(4, 5, 2) < 0.6
    erased[0] = True
    shares = gem_maps(maps, torch.tensor([power], dtype=dtype), erased)
    slow = naive.generalised_mean(maps.double(), power, erased).to(dtype)
    torch.testing.assert_close(mean_over_kept(shares, erased), slow)


def test_gem_lies_between_the_mean_and_the_maximum():
    maps = torch.rand(2, 3, 4, 4, dtype=torch.float64) + 0.1
    pooled = [gem_maps(maps, torch.tensor([p])).mean((2, 3)) for p in (1.0, 2.0, 4.0, 400.0)]
    torch.testing.assert_close(pooled[0], maps.mean((2, 3)))
    torch.testing.assert_close(pooled[-1], maps.amax((2, 3)), rtol=0.01, atol=0)
    for lower, higher in itertools.pairwise(pooled):
        assert (lower < higher).all()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("neck", [False, True])
def test_class_maps_of_gem_average_to_the_logits(neck, training):
    head, features, pids = gem_head(neck, training)
    output, rows = head(features, pids), torch.arange(4)
    torch.testing.assert_close(output.heatmap.mean((1, 2)), output.logits[rows, pids], rtol=0, atol=1e-9)
    maps = head.class_maps(features)
    torch.testing.assert_close(maps.mean((2, 3)), output.logits, rtol=0, atol=1e-9)
    torch.testing.assert_close(maps[rows, pids], output.heatmap, rtol=0, atol=1e-9)
    torch.testing.assert_close(head.embedding_maps(features).mean((2, 3)), output.embedding, rtol=0, atol=1e-9)
    expected = naive.generalised_mean(head.embed(features), 2.6, torch.zeros(4, 6, 3, dtype=torch.bool))
    torch.testing.assert_close(output.pooled, expected, rtol=0, atol=1e-9)


def test_the_heat_map_of_gem_is_value_times_gradient_times_positions():
    """The score to first order around the map, by autograd from the plain formula."""
    head, features, pids = gem_head()
    maps = head.embed(features).detach().requires_grad_()
    pooled = naive.generalised_mean(maps, 2.6, torch.zeros(4, 6, 3, dtype=torch.bool))
    (gradient,) = torch.autograd.grad((pooled * head.weight[pids]).sum(), maps)
    torch.testing.assert_close(head(features, pids).heatmap, 18 * (maps * gradient).sum(1).detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("pooling", "depends"), [("mean", False), ("gem", True)])
def test_with_gem_alone_a_value_depends_on_other_positions(pooling, depends):
    torch.manual_seed(0)
    head = IFCN(8, 5, 6, pooling=pooling).eval()
    features = torch.rand(1, 8, 6, 3)
    changed = features.clone()
    changed[:, :, 0, 0] += 5
    before, after = (head(maps, torch.tensor([2])).heatmap[0, 1:] for maps in (features, changed))
    assert torch.allclose(before, after, rtol=0, atol=1e-7) != depends


def test_gem_is_trained_and_the_mean_has_no_parameter_for_it():
    torch.manual_seed(0)
    head = IFCN(8, 5, 6, pooling="gem")
    features = torch.rand(4, 8, 6, 3)
    features[0] = -1e4  # a picture whose every channel is dead or very strong
    head(features, torch.tensor([0, 1, 2, 3])).logits.square().sum().backward()
    assert head.power.item() == 3
    assert head.power.grad.any()
    assert all(p.grad.isfinite().all() for p in head.parameters())
    assert head.state_dict().keys() - IFCN(8, 5, 6).state_dict().keys() == {"power"}
    with pytest.raises(ValueError, match="`pooling` must be one of mean, gem, got 'max'"):
        IFCN(8, 5, 6, pooling="max")
