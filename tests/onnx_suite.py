"""The operator tests that ship in the onnx wheel, as (model, inputs, outputs) by operator.

Real models have weights, shapes and axes as initializers; the node tests feed them at run time.
`folded` turns such inputs into initializers, so that a compiler of static shapes can be measured.
"""

from __future__ import annotations

import functools
import warnings
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

REDUCTIONS = "Sum Mean Max Min Prod L1 L2 LogSum LogSumExp SumSquare".split()
PARAMETERS: dict[str, tuple[int, ...]] = {
    **{f"Reduce{r}": (1,) for r in REDUCTIONS},
    "BatchNormalization": (1, 2, 3, 4),
    "CenterCropPad": (1,),
    "Clip": (1, 2),
    "ConstantOfShape": (0,),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "CumSum": (1,),
    "Dropout": (1, 2),
    "Expand": (1,),
    "Gemm": (1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "NonMaxSuppression": (2, 3, 4),
    "OneHot": (1, 2),
    "PRelu": (1,),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}
"""Operand positions that hold weights, shapes, axes and the like in real models."""


@dataclass
class Case:
    """One test of the suite."""

    name: str
    model: onnx.ModelProto
    inputs: list[np.ndarray]
    outputs: list[np.ndarray]
    rtol: float
    atol: float


@functools.cache
def cases() -> dict[str, list[Case]]:
    """All node tests with tensor inputs and outputs, folded, by operator."""
    from onnx.backend.test.loader import load_model_tests

    np.random.seed(0)  # many node tests draw their data when they are loaded
    found: dict[str, list[Case]] = defaultdict(list)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for test in load_model_tests(kind="node"):
            if test.model is None or len(test.data_sets) != 1:
                continue
            inputs, outputs = ([_array(a) for a in side] for side in test.data_sets[0])
            if any(a is None for a in inputs + outputs):
                continue
            op = test.name.removeprefix("test_").split("_")[0]
            op = test.model.graph.node[0].op_type if "_expanded" not in test.name else op
            case = Case(test.name, test.model, inputs, outputs, test.rtol, test.atol)
            found[op].append(folded(case))
    return dict(found)


def folded(case: Case) -> Case:
    """The same test with parameter operands as initializers."""
    graph = case.model.graph
    constant: dict[str, bool] = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            is_parameter = position in PARAMETERS.get(node.op_type, ())
            constant[name] = constant.get(name, True) and is_parameter
    outputs = {o.name for o in graph.output}
    chosen = {i.name for i in graph.input if constant.get(i.name) and i.name not in outputs}
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    del model.graph.input[:]
    kept = []
    for info, array in zip(graph.input, case.inputs, strict=True):
        if info.name in chosen:
            model.graph.initializer.append(numpy_helper.from_array(array, info.name))
        else:
            model.graph.input.append(info)
            kept.append(array)
    return Case(case.name, model, kept, case.outputs, case.rtol, case.atol)


def _array(value: object) -> np.ndarray | None:
    """An array, or None for sequences, optionals and strings, which cnnir has no types for."""
    if isinstance(value, onnx.TensorProto):
        value = numpy_helper.to_array(value)
    if value is None or isinstance(value, (list, tuple, dict, onnx.SequenceProto)):
        return None
    array = np.asarray(value)
    return None if array.dtype == object else array
