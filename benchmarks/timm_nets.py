"""Nets of the package timm as ONNX files with random weights and statistics, for `models.py`.

    python benchmarks/timm_nets.py folder name ...
    python benchmarks/models.py folder/*.onnx --threads 1

Needs torch and timm. Statistics of batch norms are drawn too: equal ones would let passes do what
they cannot do in a trained net.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import timm
import torch
from torch import nn


def randomised(net: nn.Module) -> nn.Module:
    """The net, whose batch norms have random statistics, scales and shifts."""
    for layer in net.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.1)
    return net.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="+")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.names:
        torch.manual_seed(0)
        net = randomised(timm.create_model(name, pretrained=False))
        image = torch.randn(1, *net.default_cfg["input_size"])
        file = arguments.folder / f"{name}.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(net, (image,), file, dynamo=False)
        print(file)


if __name__ == "__main__":
    main()
