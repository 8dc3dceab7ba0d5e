"""Two graphs side by side as one HTML page, which opens offline: the rows of `report.diff`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
:root {{ color-scheme: light dark; --line: light-dark(#e2e2e0, #3a3c40);
  --changed: light-dark(#fff3d6, #463a1c); --removed: light-dark(#fde3d9, #4a2a1f);
  --added: light-dark(#dcecfb, #1d3a55); --quiet: light-dark(#6b6f76, #9aa0a8); }}
body {{ font: 14px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 110rem;
  padding: 0 1.5rem; }}
h1 {{ font-size: 1.25rem; margin: 0 0 .25rem; }}
p, label {{ color: var(--quiet); }}
table {{ border-collapse: collapse; width: 100%; margin-top: 1rem; table-layout: fixed; }}
th {{ text-align: left; font-weight: 600; position: sticky; top: 0; background: Canvas; }}
th, td {{ padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }}
col.sign {{ width: 1.6rem }} col.number {{ width: 6.5rem }}
td pre {{ margin: 0; white-space: pre-wrap; overflow-wrap: anywhere;
  font: 12px/1.45 ui-monospace, monospace; }}
td small {{ color: var(--quiet); overflow-wrap: anywhere; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
tr.changed {{ background: var(--changed) }} tr.removed {{ background: var(--removed) }}
tr.added {{ background: var(--added) }}
#same:not(:checked) ~ table tr.same {{ display: none; }}
</style>
<h1>{title}</h1><p>{summary}</p>
<input type="checkbox" id="same"><label for="same"> show the {same} nodes that are the same</label>
<table><colgroup><col class="sign"><col><col><col class="number"><col class="number"></colgroup>
<thead><tr><th></th><th>{left}</th><th>{right}</th><th>weights</th><th>values</th></tr></thead>
<tbody>
{rows}
</tbody></table></html>
"""

_SIGNS = {"same": "", "changed": "~", "removed": "-", "added": "+"}


def diff_page(names: tuple[str, str], rows: Sequence[dict[str, Any]], differs: Any) -> str:
    """The page. names: what left and right are. differs(row): whether a row is to be seen at once.

    Names and texts of models are escaped: they are data of somebody else's.
    """
    same = [row for row in rows if not differs(row)]
    counts = {s: sum(row["status"] == s for row in rows) for s in ("changed", "removed", "added")}
    return _PAGE.format(
        title=escape(" and ".join(names)),
        left=escape(names[0]),
        right=escape(names[1]),
        summary=", ".join(f"{count} nodes {status}" for status, count in counts.items())
        + "; values are those of one random input, in f64, relative to the largest",
        same=len(same),
        rows="\n".join(_row(row, differs(row)) for row in rows),
    )


def _row(row: dict[str, Any], differs: bool) -> str:
    kind = row["status"] if row["status"] != "same" or not differs else "changed"
    sides = "".join(
        f"<td><pre>{escape(row[side])}</pre><small>{escape(', '.join(row[f'{side}_sources']))}"
        "</small></td>"
        for side in ("left", "right")
    )
    numbers = "".join(
        f'<td class="number">{_number(row[name])}</td>' for name in ("weights", "difference")
    )
    return f'<tr class="{kind}"><td>{_SIGNS[row["status"]]}</td>{sides}{numbers}</tr>'


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1e}" if value else "="
