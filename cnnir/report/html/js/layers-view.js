// The layers as the user wrote them: size, work, receptive field; sorted by a click on a heading.

import { bytes, element, short } from "./dom.js";

const axes = (values) => {
  if (!values) return "";
  const same = new Set(values).size === 1;
  return (same ? values.slice(0, 1) : values).map((v) => Number(v.toPrecision(4))).join("×");
};

const COLUMNS = [
  { key: "layer", name: "layer", write: String },
  { key: "op", name: "op", write: String },
  { key: "output", name: "gives", write: (v) => v ?? "", mono: true },
  { key: "units", name: "units", write: short, right: true },
  { key: "weights", name: "weights", write: short, right: true, shared: true },
  { key: "connections", name: "multiply-adds", write: short, right: true, shared: true },
  { key: "flops", name: "FLOP", write: short, right: true, shared: true },
  { key: "bytes", name: "moved", write: bytes, right: true, shared: true },
  { key: "intensity", name: "FLOP/byte", write: (v) => v.toFixed(1), right: true },
  {
    key: "field",
    name: "sees",
    write: axes,
    right: true,
    title: "Receptive field: how many pixels an element sees",
  },
  {
    key: "stride",
    name: "every",
    write: axes,
    right: true,
    title: "Pixels between the fields of neighbours",
  },
  {
    key: "offset",
    name: "from",
    write: axes,
    right: true,
    title: "Where the first element's field begins; padding counts",
  },
];

export function layersView(model, go) {
  const rows = model.layers.map((row, place) => ({ ...row, place }));
  const most = Math.max(
    ...rows.flatMap((row) => COLUMNS.map(({ key, shared }) => (shared ? row[`${key}_share`] : 0))),
    1e-9,
  );
  let [sorted, down] = ["place", false];
  const body = element("tbody", {});
  const heads = COLUMNS.map((column) =>
    element(
      "th",
      {
        className: column.right ? "num" : "",
        title: column.title,
        "aria-sort": "none",
        colSpan: column.shared ? 2 : 1,
      },
      element("button", { textContent: column.name, click: () => sort(column) }),
    ),
  );
  function sort(column) {
    if (sorted === column.key && down !== Boolean(column.right)) [sorted, down] = ["place", false];
    else [sorted, down] = [column.key, sorted === column.key ? !down : Boolean(column.right)];
    fill();
  }
  function fill() {
    const value = (row) => (Array.isArray(row[sorted]) ? row[sorted][0] : (row[sorted] ?? ""));
    const order = [...rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      const less =
        typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
      return (down ? -less : less) || a.place - b.place;
    });
    heads.forEach((head, i) =>
      head.setAttribute(
        "aria-sort",
        COLUMNS[i].key === sorted ? (down ? "descending" : "ascending") : "none",
      ),
    );
    body.replaceChildren(...order.map((row) => layerRow(model, row, go, most)));
  }
  fill();
  const total = element(
    "tr",
    { className: "total" },
    COLUMNS.map((column) =>
      element("td", {
        className: column.right ? "num mono" : "",
        colSpan: column.shared ? 2 : 1,
        textContent:
          column.key === "op" || model.total[column.key] === null
            ? ""
            : column.write(model.total[column.key]),
      }),
    ),
  );
  return element(
    "div",
    { className: "page wide" },
    element(
      "table",
      { className: "layers" },
      element("thead", {}, element("tr", {}, heads)),
      body,
      element("tfoot", {}, total),
    ),
    element("p", {
      className: "faint small",
      textContent:
        "Layers as imported, before any pass. Units are elements of the result; adding a bias is no multiply-add; " +
        "moved are the bytes of operands, weights and results.",
    }),
  );
}

function layerRow(model, row, go, most) {
  const open = () => {
    const numbers = row.layer.split(", ").flatMap((name) => model.imported(name));
    if (numbers.length) go.node(numbers[numbers.length - 1], 0);
  };
  return element(
    "tr",
    { tabIndex: 0, click: open, keydown: (event) => event.key === "Enter" && open() },
    COLUMNS.flatMap((column) => cells(row, column, most)),
  );
}

/** A figure, and the share of the total beside it where it has one. */
function cells(row, column, most) {
  const value = row[column.key];
  const text = value === 0 && column.right ? "" : column.write(value);
  if (column.key === "layer") {
    return [
      element("td", { title: text }, element("span", { className: "ellipsis", textContent: text })),
    ];
  }
  const cell = element("td", {
    className: `${column.right ? "num" : ""} ${column.right || column.mono ? "mono" : ""}`,
    textContent: text,
  });
  if (!column.shared) return [cell];
  const share = row[`${column.key}_share`];
  const shown = share ? `${(share * 100).toFixed(1)} %` : "";
  return [
    cell,
    element(
      "td",
      { className: "pct num mono faint" },
      share > 0.0005
        ? element("i", { style: `width:${((share / most) * 100).toFixed(2)}%` })
        : null,
      element("span", { textContent: shown }),
    ),
  ];
}
