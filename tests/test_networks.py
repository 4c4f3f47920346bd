"""Bodies of encoders and decoders: shapes, first weights, masks."""

import math

import pytest
import torch
from torch import nn

import vae_tutorial.networks as n


def test_mlp_is_the_matrix_product():
    network, x = n.MLP((1, 2, 3), (2, 2), hidden=(5,)), torch.rand(4, 1, 2, 3)
    (w1, b1), (w2, b2) = [(m.weight, m.bias) for m in (network.layers[0], network.layers[2])]
    expected = (x.flatten(1) @ w1.T + b1).clamp(min=0) @ w2.T + b2
    torch.testing.assert_close(network(x), expected.reshape(4, 2, 2))
    assert n.count_parameters(network) == 6 * 5 + 5 + 5 * 4 + 4
    network.layers[0].weight.requires_grad_(False)
    assert n.count_parameters(network) == 5 + 5 * 4 + 4


@pytest.mark.parametrize("channels", [[3], [3, 4]])
@pytest.mark.parametrize("shape", [[1, 4, 4], [3, 5, 7], [2, 28, 21], [1, 11, 4]])
def test_shapes_there_and_back(shape, channels):
    """Odd sizes too, and from lists, which is what a file keeps of a tuple."""
    x, z = torch.zeros(3, *shape), torch.zeros(3, 4)
    for encoder in (n.ConvEncoder(shape, [4], channels, 5), n.MLP(shape, 4, [5], nn.SiLU),
                    n.ResidualEncoder(shape, [4], channels, 1, 2)):  # fmt: skip
        assert encoder(x).shape == z.shape
    for decoder in (n.ConvDecoder([4], shape, channels[::-1], 5), n.MLP(4, shape, []),
                    n.ResidualDecoder([4], shape, channels[::-1], 1, 2)):  # fmt: skip
        assert decoder(z).shape == x.shape


@pytest.mark.parametrize("shape", [(1, 28, 28), (2, 8, 9), (3, 13, 11)])
def test_pooled_convolutions_keep_the_largest_of_four(shape):
    torch.manual_seed(0)
    network, x = n.PooledConv(shape, (2, 3), [4, 5, 6], nn.Tanh), torch.rand(3, *shape)
    first, second, third = (m for m in network.layers if isinstance(m, nn.Conv2d))
    hidden = nn.functional.conv2d(x, first.weight, first.bias, stride=2, padding=2).tanh()
    for layer in (second, third):
        hidden = nn.functional.conv2d(hidden, layer.weight, layer.bias, padding=1).tanh()
        h, w = (side // 2 for side in hidden.shape[2:])
        corners = [hidden[:, :, i : 2 * h : 2, j : 2 * w : 2] for i in (0, 1) for j in (0, 1)]
        hidden = torch.stack(corners).amax(0)  # an odd last row or column is dropped
    last = network.layers[-1]
    expected = hidden.flatten(1) @ last.weight.T + last.bias
    torch.testing.assert_close(network(x), expected.reshape(3, 2, 3))


def test_a_residual_block_corrects_its_input():
    torch.manual_seed(0)
    block, x = n.ResidualBlock(3, nn.Tanh), torch.randn(2, 3, 5, 4)
    assert torch.equal(block(x), x)  # at the start
    (w1, b1), (w2, b2) = [(m.weight, m.bias) for m in block.layers if isinstance(m, nn.Conv2d)]
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    inner = nn.functional.conv2d(x.tanh(), w1, b1, padding=1)
    expected = x + nn.functional.conv2d(inner.tanh(), w2, b2, padding=1)
    torch.testing.assert_close(block(x), expected)


def test_residual_networks_have_the_blocks_asked_for_and_end_in_float32():
    torch.manual_seed(0)
    encoder = n.ResidualEncoder((1, 28, 28), 8, (4, 6), blocks=2, narrow=3)
    decoder = n.ResidualDecoder(4, (1, 28, 28), (6, 4), blocks=2, narrow=3)
    for network, x in ((encoder, torch.rand(5, 1, 28, 28)), (decoder, torch.randn(5, 4))):
        assert sum(isinstance(m, n.ResidualBlock) for m in network.modules()) == 4
        exact = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(x)
        assert rounded.dtype == torch.float32
        assert 0 < (rounded - exact).abs().max() < 0.2 * exact.abs().max()


@pytest.mark.parametrize(
    ("shape", "grid"), [((1, 28, 28), (7, 7)), ((3, 5, 7), (1, 1)), ((2, 9, 6), (2, 1))]
)
def test_grid_networks_keep_the_grid(shape, grid):
    """Odd sizes too; channel by channel, so that half of the numbers are half of the channels."""
    torch.manual_seed(0)
    h, w = grid
    encoder = n.GridEncoder(shape, [2 * 3 * h * w], [4, 6])
    decoder = n.GridDecoder([3 * h * w], shape, [6, 4, 5], blocks=2)
    x, z = torch.rand(5, *shape), torch.randn(5, 3 * h * w)
    out = encoder(x)
    assert out.shape == (5, 6 * h * w)
    assert decoder(z).shape == x.shape
    torch.testing.assert_close(encoder.layers(x).flatten(1), out)
    assert encoder.layers(x).shape == (5, 6, h, w)
    for network, given in ((encoder, x), (decoder, z)):
        with torch.autocast("cpu", torch.bfloat16):
            assert network(given).dtype == torch.float32


def test_a_position_of_the_grid_sees_its_neighbourhood_alone():
    torch.manual_seed(0)
    encoder, decoder = (
        n.GridEncoder((1, 64, 64), 2 * 16 * 16, [3, 3]),
        n.GridDecoder(256, (1, 64, 64), [3, 3, 3]),
    )
    x = torch.rand(1, 1, 64, 64)
    other = x.clone()
    other[..., 0, 0] += 1
    changed = (encoder(x) != encoder(other)).reshape(2, 16, 16).any(0)
    assert changed[0, 0]
    assert not changed[8:].any()
    assert not changed[:, 8:].any()
    z = torch.randn(1, 256)
    other = z.clone()
    other[0, 0] += 1
    changed = (decoder(z) != decoder(other)).reshape(64, 64)
    assert changed[0, 0]
    assert not changed[40:].any()
    assert not changed[:, 40:].any()


def test_a_grid_that_does_not_divide_is_named():
    with pytest.raises(ValueError, match="multiple of 49"):
        n.GridEncoder((1, 28, 28), 100)
    with pytest.raises(ValueError, match="in_shape holds 20"):
        n.GridDecoder(20, (1, 28, 28))


def test_convolutional_networks_can_start_as_torch_does():
    torch.manual_seed(0)
    for he_start, low, high in ((True, 0.03, 1), (False, 0, 0.02)):
        encoder = n.ConvEncoder((1, 28, 28), 16, (16, 32, 32), 64, nn.SiLU, he_start)
        decoder = n.ConvDecoder(16, (1, 28, 28), (32, 32, 16), 64, nn.SiLU, he_start)
        for network, x in ((encoder, torch.rand(99, 1, 28, 28)), (decoder, torch.randn(99, 16))):
            kinds = {type(m) for m in network.modules() if hasattr(m, "weight")}
            assert all(kind.__name__.startswith("He") == he_start for kind in kinds)
            assert low <= float(network(x).std(0).mean().detach()) < high


def test_first_weights_are_hes():
    torch.manual_seed(0)
    for drawn, inputs in (
        (n.HeLinear(200, 300), 200),
        (n.HeConv2d(20, 50, 4, stride=2), 20 * 16),
        (n.HeConvTranspose2d(20, 50, 4, stride=2), 20 * 16 / 4),
        (n.HeConvTranspose2d(1, 900, 1, stride=2), 1),
        (n.MLP(200, 300, (), linear=n.HeLinear).layers[0], 200),
    ):
        assert float(drawn.weight.detach().std()) == pytest.approx(math.sqrt(2 / inputs), rel=0.04)
        assert not drawn.bias.any()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU])
def test_convolutional_networks_start_with_a_signal_that_keeps_its_size(activation):
    torch.manual_seed(0)
    encoder = n.ConvEncoder((3, 32, 32), 16, (16, 32, 32), 64, activation)
    decoder = n.ConvDecoder(16, (3, 32, 32), (32, 32, 16), 64, activation)
    for network, x in ((encoder, torch.randn(200, 3, 32, 32)), (decoder, torch.randn(200, 16))):
        assert 0.3 < float(network(x).std(0).mean().detach()) < 3  # from one input to another


@pytest.mark.parametrize(
    ("d", "hidden"), [(1, [3]), (2, []), (5, [4]), (6, [64, 64]), (9, [20, 3])]
)
def test_made_sees_what_it_may_and_nothing_else(d, hidden):
    torch.manual_seed(d)
    made, z = n.MADE(d, 2, hidden).double(), torch.randn(200, d).double()
    assert all("mask" not in key for key in made.state_dict())  # rebuilt, not stored
    for parameter in made.parameters():  # no step of training can fill in a masked weight
        nn.init.ones_(parameter)
    jacobians = torch.func.vmap(torch.func.jacrev(made))(z)
    assert jacobians.shape == (200, 2, d, d)
    assert not jacobians.triu().any()  # output i does not move with z_i, z_(i+1), ...
    if not hidden:  # the weights themselves
        assert (jacobians == torch.ones(d, d).tril(-1)).all()
    if min(hidden, default=d) >= d - 1:  # a narrower layer has no unit for some degrees
        assert jacobians.abs().sum(0)[:, torch.ones(d, d).tril(-1).bool()].gt(0).all()


def test_device_of():
    buffers_alone = nn.BatchNorm1d(3, affine=False, device="meta")
    found = [n.device_of(m).type for m in (nn.Flatten(), n.MLP(2, 3).to("meta"), buffers_alone)]
    assert found == ["cpu", "meta", "meta"]


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: n.MLP((1, 0), 2), "in_shape"),
        (lambda: n.MLP(2, ()), "out_shape"),
        (lambda: n.MLP(4, 2, hidden=(3.5,)), "hidden"),
        (lambda: n.MLP(3, 2)(torch.zeros(5, 4)), r"\(B, 3\), got \(5, 4\)"),
        (lambda: n.ConvEncoder((1, 3, 8), 4), "4 pixels"),
        (lambda: n.ConvEncoder((1, 8, 8), 4)(torch.zeros(2, 1, 8, 9)), r"\(2, 1, 8, 9\)"),
        (lambda: n.PooledConv((1, 8, 7), 4), "8 pixels"),
        (lambda: n.ConvEncoder((1, 8, 8), 4, channels=()), "channels"),
        (lambda: n.ConvEncoder((1, 8, 8), 4, channels=(0,)), "channels"),
        (lambda: n.ConvDecoder(4, (1, 8, 8), channels=()), "channels"),
        (lambda: n.ConvDecoder(2, (8, 8)), r"\(C, H, W\)"),
        (lambda: n.ConvDecoder(2, (1, 8, 8))(torch.zeros(5, 3)), r"\(5, 3\)"),
        (lambda: n.ResidualEncoder((1, 3, 8), 4), "4 pixels"),
        (lambda: n.ResidualEncoder((1, 8, 8), 4)(torch.zeros(2, 1, 8, 9)), r"\(2, 1, 8, 9\)"),
        (lambda: n.ResidualDecoder(4, (1, 8, 8), channels=()), "channels"),
        (lambda: n.ResidualDecoder(2, (1, 8, 8))(torch.zeros(5, 3)), r"\(5, 3\)"),
        (lambda: n.MADE(0), "latent_dim"),
    ],
)
def test_misuse_is_named(use, message):
    with pytest.raises(ValueError, match=message):
        use()


def test_rates_are_logarithms_of_counts_per_exposure():
    network = n.Rates(n.MLP(2, 3, hidden=()))
    x = torch.tensor([[3.0, 0.0, 0.5], [6.0, 0.0, 1.0]])  # as much in twice as long
    assert (network.in_shape, network.out_shape) == ((3,), (3,))
    expected = network.network(torch.tensor([[math.log(7), 0.0]]))
    torch.testing.assert_close(network(x), expected.expand(2, 3))
