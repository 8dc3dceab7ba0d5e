"""The corpus of malformed models beside the checkout: each refused, with the words it should have.

What is only known at run time, or where the standard is silent, is not asked of the importer.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cnnir.errors import Error
from cnnir.frontends.onnx_import import load

CORPUS = Path(__file__).parents[2] / "shared" / "badmodels"
RUN_TIME = {
    "gather_index_oob_const.onnx", "gatherelements_oob.onnx", "scatternd_oob.onnx",
    "gathernd_oob.onnx", "maxunpool_index_oob.onnx", "roialign_batch_index_oob.onnx",
    "gather_index_oob_runtime.onnx",
}  # fmt: skip
"""Indices out of range of a value that is not constant."""


def _cases() -> list[dict]:
    manifest = CORPUS / "manifest.json"
    return json.loads(manifest.read_text()) if manifest.exists() else []


@pytest.mark.skipif(not CORPUS.exists(), reason="no corpus of malformed models beside the checkout")
def test_the_corpus_is_there():
    assert len(_cases()) > 200


@pytest.mark.parametrize("case", _cases(), ids=lambda c: c["file"])
def test_a_model_of_the_corpus(case):
    shapes = {"x": (2, 3)} if case["file"] == "input_dynamic_batch.onnx" else None
    strict = case["expect"] == "error" and not case.get("lenient")
    try:
        load(CORPUS / case["file"], shapes)
    except Error as error:
        message = f"{type(error).__name__} {error}"
        assert case["expect"] == "error" or case.get("lenient"), message
        if strict:
            assert any(re.search(word, message, re.IGNORECASE) for word in case["mention"]), message
    else:
        assert not strict or case["file"] in RUN_TIME
