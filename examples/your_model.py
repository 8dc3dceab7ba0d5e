"""Compile a model of your own, run it, and check it against the reference.

    python examples/your_model.py model.onnx

Symbolic dimensions: the batch is 1 unless you say otherwise; name others in `shapes`, for example
`cnnir.compile(path, shapes={"image": (1, 3, 480, 640)})`.
"""

import sys

import numpy as np

import cnnir


def main(path: str) -> None:
    """Everything on random inputs; put your own arrays into `feeds`."""
    exe = cnnir.compile(path)
    print(exe.plan)

    rng = np.random.default_rng(0)
    feeds = {
        name: rng.standard_normal(type.shape).astype(type.numpy)
        for name, type in exe.inputs.items()
    }
    outputs = exe.run(feeds)

    # the same graph by the ops' own definitions, in f64: slow, and as right as can be
    expected = cnnir.evaluate(cnnir.load(path), feeds, dtype="f64")
    for (name, y), e in zip(outputs.items(), expected, strict=True):
        error = np.abs(y - e).max() / max(np.abs(e).max(), 1e-30)
        print(f"{name}: {y.dtype}{list(y.shape)}, error {error:.1e} of the largest value")
    exe.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/your_model.py model.onnx")
    try:
        main(sys.argv[1])
    except cnnir.Error as error:
        sys.exit(f"error: {error}")
