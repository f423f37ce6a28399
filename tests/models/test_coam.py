import pytest
import torch

from aelm.models import CoAM


def gates(coam, features):
    """Both gates by hand, as CBAM's paper writes them."""
    w1, b1, _, w2, b2 = (coam.channel.mlp[0].weight, coam.channel.mlp[0].bias, None,
                         coam.channel.mlp[2].weight, coam.channel.mlp[2].bias)  # fmt: skip
    mlp = [torch.relu(v @ w1.T + b1) @ w2.T + b2 for v in (features.mean((2, 3)), features.flatten(2).max(2).values)]
    return torch.sigmoid(mlp[0] + mlp[1])[:, :, None, None]


def spatial(coam, features):
    pooled = torch.stack([features.mean(1), features.max(1).values], 1)
    return torch.sigmoid(coam.spatial.norm(torch.nn.functional.conv2d(pooled, coam.spatial.conv.weight, padding=3)))


@pytest.mark.parametrize("mode", ["sequential", "parallel", "residual", "rezero"])
@pytest.mark.parametrize("size", [(2, 8, 6, 3), (1, 16, 1, 1), (3, 8, 4, 9), (2, 6, 3, 3), (2, 3, 4, 2)])
def test_each_mode_is_what_it_says(mode, size):
    torch.manual_seed(1)
    coam, x = CoAM(size[1], reduction=4, mode=mode).eval(), torch.randn(size)
    if mode == "rezero":
        torch.testing.assert_close(coam(x), x)  # attention starts as the identity
        coam.strength.data.fill_(0.3)
    by_channel = x * gates(coam, x)
    expected = {
        "sequential": by_channel * spatial(coam, by_channel),
        "parallel": by_channel * spatial(coam, x),
        "residual": x + by_channel * spatial(coam, by_channel),
        "rezero": x * (1 + 0.3 * (2 * gates(coam, x) - 1)) * (1 + 0.3 * (2 * spatial(coam, x) - 1)),
    }[mode]
    torch.testing.assert_close(coam(x), expected)


@pytest.mark.parametrize("mode", ["sequential", "rezero"])
def test_every_parameter_gets_a_gradient(mode):
    coam = CoAM(8, reduction=2, mode=mode)
    if mode == "rezero":
        coam(torch.randn(4, 8, 6, 3)).square().sum().backward()
        coam.strength.data.sub_(0.1 * coam.strength.grad)  # the gates learn from the second step on
    coam(torch.randn(4, 8, 6, 3)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in coam.parameters())


def test_the_bottleneck_is_as_narrow_as_asked_for():
    assert [CoAM(depth, reduction=4).channel.mlp[0].out_features for depth in (16, 3)] == [4, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": 0}, "`reduction` must be at least 1, got 0"),
        ({"reduction": 2, "kernel_size": 4}, "`kernel_size` must be odd, got 4"),
        (
            {"reduction": 2, "mode": "series"},
            "`mode` must be one of rezero, sequential, parallel, residual, got 'series'",
        ),
    ],
)
def test_options_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        CoAM(8, **options)
