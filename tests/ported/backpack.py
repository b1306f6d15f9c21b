"""The layer settings of BackPACK's first-order tests, written anew with its shapes.

After test/extensions/firstorder/firstorder_settings.py of BackPACK (github.com/f-dangel/backpack,
MIT). It takes gradients of a loss; here each output of each sample has its own.
"""

from __future__ import annotations

from torch import nn

from tests.cases import fn, of, seq, settled
from tests.ported.case import STRATEGIES, Ported
from tests.ported.vision import resnet18

linear = nn.Linear


def cnn(name: str, kind: type[nn.Module], sample: tuple[int, ...], *args, **kwargs) -> Ported:
    """The layer, a nonlinearity, and a head that brings all positions to three outputs."""
    parts = (of(kind, *args, **kwargs), nn.ReLU, nn.Flatten, of(nn.LazyLinear, 3))
    ways = ("rows",) if "Transpose" in kind.__name__ else STRATEGIES  # of the layer itself
    return Ported(name, settled(seq(*parts), sample), sample, strategies=ways)


def time_first(self, x):
    """Sequences with time as axis 0, then classes as axis 1."""
    return self.rnn(x.transpose(0, 1))[0].permute(1, 2, 0)


CASES = [
    Ported("linear_only", of(linear, 10, 5), (10,)),
    Ported("linear_linear", seq(of(linear, 10, 7), of(linear, 7, 5)), (10,)),
    Ported("linear_relu_linear", seq(of(linear, 10, 7), nn.ReLU, of(linear, 7, 5)), (10,)),
    Ported("linear_sigmoid_linear", seq(of(linear, 10, 7), nn.Sigmoid, of(linear, 7, 5)), (10,)),
    Ported("linear_one_more_axis", seq(of(linear, 5, 3), of(linear, 3, 2)), (4, 5)),
    Ported("linear_two_more_axes", seq(of(linear, 5, 3), nn.Sigmoid, of(linear, 3, 2)), (4, 2, 5)),
    Ported("linear_three_more_axes", seq(of(linear, 5, 3), of(linear, 3, 2)), (2, 2, 3, 5)),
    Ported("linear_one_more_axis_flat", seq(of(linear, 5, 3), of(linear, 3, 2), nn.Flatten), (4, 5)),
    Ported("linear_two_more_axes_flat", seq(of(linear, 5, 3), nn.Sigmoid, of(linear, 3, 2), nn.Flatten), (4, 2, 5)),
    Ported("linear_three_more_axes_flat", seq(of(linear, 5, 3), nn.ReLU, of(linear, 3, 2), nn.Flatten), (2, 2, 3, 5)),
    cnn("conv1d_plain", nn.Conv1d, (3, 7), 3, 2, 2),
    cnn("conv1d_stride_dilation", nn.Conv1d, (2, 7), 2, 3, 2, 2, 0, 2),
    cnn("conv1d_stride_padding", nn.Conv1d, (3, 7), 3, 2, 2, 2, 1),
    cnn("conv1d_stride_padding_dilation", nn.Conv1d, (3, 8), 3, 6, 2, 4, 2, 3),
    cnn("conv1d_no_bias", nn.Conv1d, (3, 7), 3, 2, 2, 4, 2, 1, 1, False),
    cnn("conv1d_groups", nn.Conv1d, (6, 7), 6, 3, 2, groups=3),
    cnn("conv2d_plain", nn.Conv2d, (3, 7, 7), 3, 2, 2),
    cnn("conv2d_stride_dilation", nn.Conv2d, (2, 7, 7), 2, 3, 2, 2, 0, 2),
    cnn("conv2d_stride_padding", nn.Conv2d, (3, 7, 7), 3, 2, 2, 2, 1),
    cnn("conv2d_stride_padding_dilation", nn.Conv2d, (3, 8, 8), 3, 6, 2, 4, 2, 3),
    cnn("conv2d_no_bias_stride", nn.Conv2d, (3, 7, 7), 3, 2, 2, 4, 2, 1, 1, False),
    cnn("conv2d_groups_stride", nn.Conv2d, (6, 5, 5), 6, 4, 2, 2, groups=2),
    cnn("conv3d_plain", nn.Conv3d, (3, 2, 7, 7), 3, 2, 2),
    cnn("conv3d_stride_dilation", nn.Conv3d, (2, 3, 7, 7), 2, 3, 2, 2, 0, 2),
    cnn("conv3d_stride_padding", nn.Conv3d, (3, 2, 7, 7), 3, 2, 2, 3, 2),
    cnn("conv3d_stride_padding_dilation", nn.Conv3d, (3, 4, 8, 8), 3, 6, 2, 4, 2, 3),
    cnn("conv3d_no_bias", nn.Conv3d, (3, 2, 7, 7), 3, 2, 2, 4, 2, 1, 1, False),
    cnn("conv_transpose1d_plain", nn.ConvTranspose1d, (3, 7), 3, 2, 2),
    cnn("conv_transpose1d_stride_dilation", nn.ConvTranspose1d, (2, 7), 2, 3, 2, 2, 0, 0, 1, True, 2),
    cnn("conv_transpose1d_stride_padding", nn.ConvTranspose1d, (3, 7), 3, 2, 2, 2, 1),
    cnn("conv_transpose1d_all", nn.ConvTranspose1d, (3, 8), 3, 6, 2, 4, 2, 0, 1, True, 3),
    cnn("conv_transpose1d_no_bias", nn.ConvTranspose1d, (3, 7), 3, 2, 2, 4, 2, 0, 1, False),
    cnn("conv_transpose1d_output_padding", nn.ConvTranspose1d, (3, 5), 3, 2, 3, 3, 1, 2),
    cnn("conv_transpose1d_groups", nn.ConvTranspose1d, (6, 5), 6, 4, 3, 2, groups=2),
    cnn("conv_transpose2d_plain", nn.ConvTranspose2d, (3, 5, 5), 3, 2, 2),
    cnn("conv_transpose2d_dilation", nn.ConvTranspose2d, (2, 5, 5), 2, 4, 2, 1, 0, 0, 1, True, 2),
    cnn("conv_transpose2d_stride_padding", nn.ConvTranspose2d, (3, 5, 5), 3, 2, 2, 2, 1),
    cnn("conv_transpose2d_no_bias", nn.ConvTranspose2d, (3, 5, 5), 3, 2, 2, 4, 2, 0, 1, False),
    cnn("conv_transpose2d_output_padding", nn.ConvTranspose2d, (4, 3, 4), 4, 6, (2, 3), (2, 3), (0, 1), (1, 2), 2),
    cnn("conv_transpose3d_plain", nn.ConvTranspose3d, (3, 2, 4, 4), 3, 2, 2),
    cnn("conv_transpose3d_dilation", nn.ConvTranspose3d, (2, 3, 5, 5), 2, 3, 2, 2, 2, 0, 1, True, 2),
    cnn("conv_transpose3d_no_bias", nn.ConvTranspose3d, (3, 2, 4, 4), 3, 2, 2, 4, 2, 0, 1, False),
    Ported("batch_norm1d_alone", of(nn.BatchNorm1d, 3), (3, 4)),
    Ported("batch_norm2d_alone", of(nn.BatchNorm2d, 2), (2, 4, 3)),
    Ported("batch_norm3d_alone", of(nn.BatchNorm3d, 3), (3, 4, 1, 2)),
    Ported("batch_norm3d_and_linear", seq(of(nn.BatchNorm3d, 3), of(linear, 2, 3), of(nn.BatchNorm3d, 3), nn.ReLU, of(nn.BatchNorm3d, 3)), (3, 2, 1, 2)),
    Ported("rnn_time_first", fn(time_first, rnn=of(nn.RNN, 6, 3)), (5, 6)),
    Ported("rnn_time_first_flat", seq(fn(time_first, rnn=of(nn.RNN, 6, 3)), nn.Flatten), (5, 6), modes=("all",)),
    Ported("lstm_time_first", fn(time_first, rnn=of(nn.LSTM, 3, 4)), (5, 3)),
    Ported("embedding_of_tokens", of(nn.Embedding, 5, 3), (2,), tokens=5),
    Ported("embedding_of_a_grid", seq(of(nn.Embedding, 3, 5), nn.Flatten), (2, 2), tokens=3),
    Ported("embedding_and_linear", seq(of(nn.Embedding, 3, 5), of(linear, 5, 4), nn.Flatten), (3,), tokens=3),
    Ported("resnet18_of_7x7_images", resnet18(num_classes=4), (3, 7, 7), n=1, m=1, modes=("all",), float32=False),
]  # fmt: skip
