// Texts of kernels: unpacked when asked for, with a little colour.

import { element, plural } from "./dom.js";

const WORDS = {
  loops: /\b(?:kernel|for|in|if|else|let|store|scratch|vector|parallel|unrolled|serial|item)\b/,
  "LLVM IR":
    /\b(?:define|declare|void|ptr|float|i1|i8|i32|i64|load|store|call|br|label|ret|phi|getelementptr|fadd|fmul|add|mul|icmp|select|nuw|nsw|internal|constant|undef|poison|zeroinitializer)\b/,
  "CUDA C":
    /\b(?:__global__|__device__|__shared__|__launch_bounds__|extern|void|float|int|const|for|if|else|return|unsigned|long|struct|template|static|restrict|__restrict__)\b/,
  assembly: /(?<=^\s+)[a-z][\w.]*/,
  body: /\b(?:graph|param|return|body)\b/,
};
const COMMENTS = { "LLVM IR": ";.*", assembly: "#.*", "CUDA C": "//.*", loops: "#.*", body: "#.*" };
const COLOURED = 300_000; // characters; longer texts are plain

const unpacked = new Map();

/** A text of the report by its number. */
export async function textOf(model, number) {
  if (!unpacked.has(number)) {
    const raw = Uint8Array.from(atob(model.texts[number]), (c) => c.charCodeAt(0));
    const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    unpacked.set(number, await new Response(stream).text());
  }
  return unpacked.get(number);
}

/** A text in a box of its own, with what kind it is. */
export function codeBox(text, kind) {
  const inside = element("code", {});
  if (text.length > COLOURED) inside.textContent = text;
  else inside.append(...coloured(text, kind));
  const lines = text.split("\n").length;
  const copy = element("button", {
    className: "quiet",
    textContent: "copy",
    click: () => navigator.clipboard?.writeText(text).then(() => (copy.textContent = "copied")),
  });
  return element(
    "div",
    { className: "code" },
    element("div", { className: "code-head" }, element("span", {}, plural(lines, "line")), copy),
    element("pre", { tabIndex: 0 }, inside),
  );
}

function coloured(text, kind) {
  const words = WORDS[kind]?.source ?? "(?!)";
  const pattern = new RegExp(
    `(?<comment>${COMMENTS[kind] ?? "(?!)"})|(?<string>"[^"\\n]*")|(?<word>${words})` +
      '|(?<name>[%@][\\w."-]+)|(?<number>\\b0x[\\da-fA-F]+\\b|\\b\\d[\\d.]*(?:e[+-]?\\d+)?f?\\b)',
    "gm",
  );
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    if (match.index > end) parts.push(text.slice(end, match.index));
    const [name] = Object.entries(match.groups).find(([, found]) => found !== undefined);
    parts.push(element("span", { className: `c-${name}`, textContent: match[0] }));
    end = match.index + match[0].length;
  }
  parts.push(text.slice(end));
  return parts;
}

/** Tabs of texts; each is unpacked when its tab is chosen. `texts` are [kind, number or string]. */
export function codeTabs(model, texts) {
  const body = element("div", {});
  const buttons = texts.map(([kind, source]) =>
    element("button", {
      role: "tab",
      textContent: kind,
      "aria-selected": "false",
      click: async ({ currentTarget: chosen }) => {
        const open = chosen.getAttribute("aria-selected") === "true";
        for (const button of buttons) button.setAttribute("aria-selected", "false");
        body.replaceChildren();
        if (open) return;
        chosen.setAttribute("aria-selected", "true");
        const text = typeof source === "string" ? source : await textOf(model, source);
        // another one may have been chosen while this was unpacked
        if (chosen.getAttribute("aria-selected") === "true")
          body.replaceChildren(codeBox(text, kind));
      },
    }),
  );
  return element("div", {}, element("div", { className: "chips", role: "tablist" }, buttons), body);
}
