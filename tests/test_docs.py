"""What the documents show is true: every Python block runs, every link leads somewhere.

Blocks of one document run in order in one namespace, in a folder of their own. A block that begins
with `# not run` is only compiled.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from test_cli import small_model

from cnnir.backends.llvm import offers
from cnnir.ops import OPS
from cnnir.passes import PASSES
from cnnir.rewrite import RULES

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@pytest.fixture(params=DOCUMENTS, ids=lambda path: path.name)
def document(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_python_blocks_run(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(small_model(), "model.onnx")
    np.save("image.npy", np.random.default_rng(0).standard_normal((1, 3, 8, 8), np.float32))
    monkeypatch.setattr(offers, "_MAKERS", dict(offers._MAKERS))
    module = ModuleType("document")
    monkeypatch.setitem(sys.modules, "document", module)
    before = [(registry, set(registry)) for registry in (OPS, PASSES, RULES)]
    text = document.read_text("utf-8")
    try:
        for match in BLOCK.finditer(text):
            line = text[: match.start()].count("\n") + 1
            code = compile("\n" * line + match[1], str(document), "exec")
            if not match[1].startswith("# not run"):
                exec(code, module.__dict__)
    finally:
        for registry, names in before:  # what a document declared stays in it
            for name in set(registry) - names:
                del registry[name]


def test_links_lead_somewhere(document: Path) -> None:
    for target in LINK.findall(document.read_text("utf-8")):
        assert (document.parent / target).exists(), f"{document.name}: {target}"
