"""Everything as one page: the front end's files joined, the data as JSON, nothing from elsewhere.

Names in a model are not to be trusted. They reach the page only inside the JSON, where every `<` is
escaped so that no text can end its element; scripts put them into the page as text, never as
markup; and a content security policy allows no script but the one that is written here, and no
connection to anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from functools import lru_cache
from importlib import resources
from importlib.metadata import version
from typing import Any

from cnnir.report.html.kernels import Texts, plan_data
from cnnir.report.html.stages import Stages
from cnnir.report.html.subject import Subject
from cnnir.report.html.weights import Weights
from cnnir.report.layers import layer_rows

_IMPORT = re.compile(r'^import (?:\{[^}]*\} from )?"\./([\w-]+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|let|class)\b)", re.MULTILINE)


def page(subject: Subject) -> str:
    """The report as HTML."""
    script = joined("main.js")
    vendored = _file("vendor/dagre.min.js").partition("//# sourceMappingURL")[0]
    layout = vendored + joined("layout-worker.js")
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src 'sha256-{_digest(script)}'",
            "style-src 'unsafe-inline'",
            "img-src data: blob:",
            "worker-src blob:",
        ]
    )
    parts = {
        "policy": policy,
        "title": html.escape(f"{subject.title} · cnnir"),
        "style": _file("style.css"),
        "licence": html.escape(_file("vendor/dagre.LICENSE")),
        "layout": layout,
        "data": as_json(data(subject)),
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _file("page.html"))


def data(subject: Subject) -> dict[str, Any]:
    """What the page shows, as plain data."""
    weights, texts = Weights(), Texts()
    stages = Stages(subject, weights)
    rows, total = layer_rows(subject.imported)
    return {
        "name": subject.title,
        "version": version("cnnir"),
        "nodes": stages.nodes,
        "stages": stages.stages,
        "params": weights.rows,
        "layers": rows,
        "total": total,
        "plan": plan_data(subject, stages.numbers, texts),
        "texts": texts.packed,
    }


@lru_cache
def joined(entry: str) -> str:
    """A module and all that it imports as one script, each after those that it needs.

    The modules are what a browser would load one by one, so top-level names must differ between
    them: a name that is there twice would be an error of syntax.
    """
    done: dict[str, str] = {}

    def visit(name: str) -> None:
        if name in done:
            return
        source = _file(f"js/{name}")
        done[name] = ""
        for needed in _IMPORT.findall(source):
            visit(needed)
        del done[name]
        done[name] = _EXPORT.sub("", _IMPORT.sub("", source))

    visit(entry)
    return "\n".join(done.values())


def _file(name: str) -> str:
    return resources.files("cnnir.report.html").joinpath(name).read_text("utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def as_json(found: Any) -> str:
    """JSON that can stand in a script element: no `<` can end it."""
    text = json.dumps(_plain(found), separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _plain(found: Any) -> Any:
    """JSON has no infinities and no NaN: they are written as strings. Figures keep 6 digits."""
    if isinstance(found, dict):
        return {str(key): _plain(value) for key, value in found.items()}
    if isinstance(found, (list, tuple)):
        return [_plain(value) for value in found]
    if isinstance(found, float):
        return float(f"{found:.6g}") if math.isfinite(found) else str(found)
    return found
