from itertools import pairwise

import pytest
import torch
from torch import nn

from dgm_utils import nets


@pytest.mark.parametrize("sizes", [(3, 2), (784, 50, 20, 10)])
def test_mlp_is_linear_layers_with_activations_between_them(sizes):
    net = nets.mlp(*sizes, activation=nn.Tanh)
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == list(pairwise(sizes))
    x = torch.randn(5, sizes[0])
    h = x
    for layer in linear[:-1]:
        h = torch.tanh(layer(h))
    assert torch.equal(net(x), linear[-1](h))


def test_mlp_needs_two_sizes():
    with pytest.raises(ValueError, match="two sizes"):
        nets.mlp(784)


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3)])
def test_encoder_and_decoder_have_the_documented_shapes_and_use_everything(size, channels):
    torch.manual_seed(0)
    encoder = nets.conv_encoder(7, channels=channels, width=16, size=size)
    decoder = nets.conv_decoder(7, channels=channels, width=16, size=size)
    x = torch.rand(2, channels, size, size, requires_grad=True)
    z = encoder(x)
    y = decoder(z)
    assert z.shape == (2, 7)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert (x.grad != 0).all()  # every pixel is seen
    assert all((p.grad != 0).any() for net in (encoder, decoder) for p in net.parameters())


def test_an_example_does_not_depend_on_its_batch():
    encoder, x = nets.conv_encoder(3, width=4).double(), torch.rand(4, 1, 28, 28, dtype=torch.float64)
    torch.testing.assert_close(encoder(x)[:1], encoder(x[:1]))


def test_a_size_that_does_not_halve_twice_is_refused():
    for make in (nets.conv_encoder, nets.conv_decoder):
        with pytest.raises(ValueError, match="30"):
            make(3, size=30)


def test_residual_block_is_the_identity_where_its_last_layer_is_zero():
    block, x = nets.ResidualBlock(3), torch.randn(2, 3, 5, 5)
    assert not torch.equal(block(x), x)
    nn.init.zeros_(block.second.weight)
    nn.init.zeros_(block.second.bias)
    assert torch.equal(block(x), x)
