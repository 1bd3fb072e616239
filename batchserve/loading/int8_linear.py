"""A Linear layer in int8, whose answer to a row is the same to the bit in any batch."""

import warnings
from typing import cast

import torch
from torch import Tensor, nn

LARGEST = 127  # of a signed byte


class Int8Linear(nn.Module):
    """`y = x Wᵀ + b` with W in int8, one scale for each output, and x in 7 bits.

    torch's kernel reads the range of x off the whole batch, so that one large number would take
    the precision from all its neighbours. So each row is first stretched to [0, 1], which both of
    its ends reach: then the range is that always. With lo and hi of a row, and u = (x - lo) / (hi
    - lo), it is `x Wᵀ = (hi - lo) u Wᵀ + lo Σ W`. What remains is sums of integers, which are
    exact in any order. A row that is not finite harms itself only.

    Args:
        linear: the layer in floating point, on the CPU.
    """

    weight_sum: Tensor
    offset: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        smallest = torch.finfo(torch.float32).tiny
        scale = (weight.abs().amax(dim=1) / LARGEST).clamp(min=smallest)
        zero = torch.zeros_like(scale, dtype=torch.long)
        with warnings.catch_warnings():
            # torch would rather have torchao do it, which has no such kernel for CPUs.
            warnings.filterwarnings("ignore", message="torch.quantize_per")
            quantized = torch.quantize_per_channel(weight, scale, zero, 0, torch.qint8)
        self._packed = torch.ops.quantized.linear_prepack(quantized, None)
        bias = torch.zeros_like(scale) if linear.bias is None else linear.bias.detach().float()
        self.register_buffer("weight_sum", quantized.dequantize().sum(dim=1))
        self.register_buffer("offset", bias)

    def forward(self, rows: Tensor) -> Tensor:
        """Return what the layer makes of rows (…, in_features), in their dtype."""
        wide = rows.float().reshape(-1, self.in_features)
        low, high = wide.aminmax(dim=-1, keepdim=True)
        span = high - low
        stretched = (wide - low) / span.clamp(min=torch.finfo(torch.float32).tiny)
        stretched.nan_to_num_(0.0, 0.0, 0.0)
        # Without a bit to spare, CPUs without VNNI overflow.
        out = torch.ops.quantized.linear_dynamic(stretched, self._packed, True)
        out = out * span + (low * self.weight_sum + self.offset)
        return cast("Tensor", out.to(rows.dtype).reshape(*rows.shape[:-1], self.out_features))

    @property
    def weight(self) -> Tensor:
        """The weights in floating point, for code that looks at them."""
        quantized, _ = torch.ops.quantized.linear_unpack(self._packed)
        return cast("Tensor", quantized.dequantize())

    @property
    def bias(self) -> Tensor:
        return self.offset

    @property
    def nbytes(self) -> int:
        """Of the packed weights, their scales and zero points; the buffers are counted as such."""
        return self.in_features * self.out_features + 16 * self.out_features

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"
