"""The onnx wheel's own operator tests: each passes, or is refused; a wrong answer never passes."""

import re

import numpy as np
import onnx_suite
import pytest

import cnnir

SUPPORTED = """
    Abs Adagrad Adam Add And ArgMax ArgMin AveragePool BatchNormalization Cast Ceil Clip Concat
    Constant ConstantOfShape Conv ConvTranspose DepthToSpace Div Dropout Elu Equal Erf Exp Expand
    Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater
    GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Identity
    InstanceNormalization LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax
    LpNormalization MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Momentum Mul Neg
    NegativeLogLikelihoodLoss NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow Range
    Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape Resize
    RoiAlign Round ScatterElements ScatterND Selu Shape Sigmoid Size Slice Softmax
    SoftmaxCrossEntropyLoss Softplus SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tanh Tile TopK
    Transpose Unsqueeze Upsample Where Xor
""".split()

REFUSED = {
    r"^test_cast.*(FLOAT[48]|U?INT[24]|STRING)": "element type",
    r"^test_training_dropout(?!_zero_ratio)": "training_mode",
}
"""Tests refused although the operator is supported: pattern of names, word of the error."""

ULP = {"float16": 2**-10, "bfloat16": 2**-7}
"""Two roundings of a 16-bit result may differ by a unit in the last place, or two."""


def reason(name: str) -> str | None:
    """Why a case is refused; None when it must pass."""
    return next((why for pattern, why in REFUSED.items() if re.search(pattern, name)), None)


def run(case: onnx_suite.Case, target: str) -> None:
    names = [i.name for i in case.model.graph.input]
    feeds = dict(zip(names, case.inputs, strict=True))
    exe = cnnir.compile(case.model, target=target, shapes={k: v.shape for k, v in feeds.items()})
    results = exe.run(feeds)
    for want, info in zip(case.outputs, case.model.graph.output, strict=True):
        got = results[info.name]
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        rtol = max(case.rtol, 2 * ULP.get(want.dtype.name, 0.0))
        wide = np.float32 if want.dtype.name in ULP else want.dtype
        np.testing.assert_allclose(
            got.astype(wide), want.astype(wide), rtol=rtol, atol=case.atol, err_msg=case.name
        )
    exe.close()


@pytest.mark.parametrize("target", ["reference", "cpu"])
@pytest.mark.parametrize("op", SUPPORTED)
def test_every_case_of_the_operator_passes(op: str, target: str) -> None:
    for case in onnx_suite.cases()[op]:
        if (why := reason(case.name)) is not None:
            with pytest.raises(cnnir.UnsupportedError, match=why):
                run(case, target)
        else:
            run(case, target)


@pytest.mark.parametrize("target", ["reference", "cpu"])
def test_no_other_case_gives_a_wrong_answer(target: str) -> None:
    others = [c for op, all in onnx_suite.cases().items() if op not in SUPPORTED for c in all]
    refused = 0
    for case in others:
        try:
            run(case, target)
        except (cnnir.UnsupportedError, cnnir.ModelError):
            refused += 1
    assert refused < len(others)
