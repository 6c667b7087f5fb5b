"use strict";
// The service graph: callers at the left, this process in the middle, what it calls at the right, in the order of names,
// so that nothing jumps when numbers change.

const SVG = "http://www.w3.org/2000/svg";

function drawn(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const NODE = { width: 210, height: 50, gap: 18 };

function drawGraph(edges, own) {
  const callers = new Map(), called = new Map();
  for (const edge of edges) {
    if (edge.reporter === "source") called.set(edge.destination.id, edge.destination);
    else callers.set(edge.source.id, edge.source);
  }
  const byName = (one, other) => one.id.localeCompare(other.id);
  const left = [...callers.values()].sort(byName), right = [...called.values()].sort(byName);
  const rows = Math.max(left.length, right.length, 1);
  const height = rows * (NODE.height + NODE.gap) + NODE.gap + 10, width = 1120;
  // Where one side is empty, this process takes its place.
  const last = width - NODE.width - 20, middle = !left.length ? 20 : !right.length ? last : (width - NODE.width) / 2;
  const columns = [20, middle, last];
  const places = new Map();
  const place = (nodes, column, side) => nodes.forEach((node, index) => {
    const top = (height - nodes.length * (NODE.height + NODE.gap) + NODE.gap) / 2 + index * (NODE.height + NODE.gap);
    places.set(side + node.id, { x: columns[column], y: top, node });
  });
  place(left, 0, "<"); place([own], 1, "="); place(right, 2, ">");
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Service graph; the table below says the same" });
  const here = places.get("=" + own.id), labels = drawn("g", {});
  for (const edge of edges) {
    const isOut = edge.reporter === "source";
    const from = isOut ? here : places.get("<" + edge.source.id), to = isOut ? places.get(">" + edge.destination.id) : here;
    svg.append(drawLine(edge, from, to));
    labels.append(drawLabel(edge, from, to, isOut ? to : from));
  }
  svg.append(labels);
  for (const { x, y, node } of places.values()) svg.append(drawNode(x, y, node, node === own));
  return svg;
}

const ends = (from, to) => [from.x + NODE.width, from.y + NODE.height / 2, to.x, to.y + NODE.height / 2];

function drawLine(edge, from, to) {
  const [x1, y1, x2, y2] = ends(from, to), bend = (x2 - x1) / 2;
  const group = drawn("g", { class: `edge ${edge.look}` });
  const width = edge.rate ? Math.min(8, 1.5 + Math.log10(1 + edge.rate) * 2.5) : 1.5;
  group.append(drawn("path", { d: `M${x1} ${y1} C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`, "stroke-width": width.toFixed(1) }));
  group.append(drawn("title", {}, `${edge.source.id} → ${edge.destination.id}`));
  return group;
}

function drawLabel(edge, from, to, other) {
  const [x1, y1, x2, y2] = ends(from, to), isRight = other === to;
  const group = drawn("g", { class: "edge" });
  // At the end that is the other's alone, on the side where the line does not come from.
  const isBelow = other.y > (isRight ? from : to).y + 1;
  const x = isRight ? x2 - 12 : x1 + 12, y = (isRight ? y2 : y1) + (isBelow ? 18 : -9), label = edge.label;
  group.append(drawn("text", { x, y, "text-anchor": isRight ? "end" : "start" }, label));
  if (edge.isMutual) {
    const shift = label.length * 6.3 + 16;
    group.append(drawn("svg", { class: "lock", x: isRight ? x - shift : x + shift - 10, y: y - 11, width: 11, height: 13, viewBox: "0 0 12 14" },
      drawn("path", { d: "M3 6V4a3 3 0 0 1 6 0v2M2 6h8v7H2z" })));
  }
  return group;
}

function drawNode(x, y, node, isOwn) {
  const group = drawn("g", { class: `node ${isOwn ? "own" : node.kind}`, transform: `translate(${x} ${y})` });
  const under = [node.service && node.service !== node.name ? node.service : "", node.version, node.namespace].filter(Boolean).join(" · ");
  group.append(
    drawn("rect", { width: NODE.width, height: NODE.height, rx: 9 }),
    drawn("text", { x: 14, y: under ? 21 : 30 }, shortened(node.name, 24)),
    drawn("text", { x: 14, y: 38, class: "under" }, shortened(under || "", 32)),
    drawn("title", {}, node.id),
  );
  return group;
}

function shortened(text, length) {
  return text.length > length ? text.slice(0, length - 1) + "…" : text;
}

function sparkline(values) {
  const most = Math.max(...values, 1e-9), step = 90 / Math.max(values.length - 1, 1);
  const points = values.map((value, index) => `${(index * step).toFixed(1)} ${(20 - value / most * 18).toFixed(1)}`);
  return drawn("svg", { class: "spark", viewBox: "0 0 90 22", "aria-hidden": "true" }, drawn("path", { d: points.length > 1 ? "M" + points.join("L") : "" }));
}
