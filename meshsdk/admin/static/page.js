"use strict";
// The page of one process. Everything shown is put in as text; nothing that came from a peer is ever read as HTML.

const POLL = 1000, KEPT_SECONDS = 60, RATE_SECONDS = 10;
const FLAGS = {
  UH: "no healthy endpoint", UF: "connection failure", UO: "overflow: a circuit breaker is open", NR: "no route", URX: "retries used up",
  NC: "no cluster", DC: "the client left", UT: "timeout of the upstream", LR: "reset here", UR: "reset by the upstream", UC: "connection broken",
  DI: "delay injected", FI: "fault injected", RL: "rate limited", UAEX: "denied by the authorization service", SI: "idle for too long",
  DPE: "request against the protocol", UPE: "response against the protocol", UMSDR: "lasted too long", RLSE: "rate limit service failed",
};

const $ = (id) => document.getElementById(id);
const state = { view: "graph", shown: 100, isPaused: false, history: [] };

function made(name, attributes = {}, ...children) {
  const one = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "onclick") one.addEventListener("click", value);
    else if (value !== false && value !== undefined) one.setAttribute(key, value === true ? "" : value);
  }
  one.append(...children.filter((child) => child !== null && child !== undefined));
  return one;
}

async function get(path, parameters = {}) {
  const response = await fetch(path + "?" + new URLSearchParams(parameters));
  if (!response.ok) throw new Error((await response.text()).trim());
  return response.json();
}

// Numbers and times, as people read them.
const number = (value) => value.toLocaleString("en");
const share = (part, whole) => whole ? part / whole : 0;
const percent = (value) => value === 0 ? "0 %" : value < 0.001 ? "<0.1 %" : (value * 100).toFixed(value < 0.1 ? 1 : 0) + " %";
const rate = (value) => value === 0 ? "0" : value < 10 ? value.toFixed(1) : number(Math.round(value));
const time = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");
function span(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

// Tables whose rows open. `rows` are {key, cells, version, shown, detail}: what changed is put into the rows that are there,
// so that nothing moves under a finger. A detail is made when a row is opened, and anew when `version` changes.
function table(place, columns, rows, empty) {
  if (!rows.length) {
    place.rows = undefined;
    return void place.replaceChildren(made("p", { class: "empty" }, ...[empty].flat()));
  }
  if (!place.rows) {
    place.rows = new Map();
    place.body = made("tbody", {});
    const head = made("tr", {}, ...columns.map((one) => made("th", { scope: "col", class: one.look || "" }, one.name)));
    place.replaceChildren(made("div", { class: "scroll" }, made("table", {}, made("thead", {}, head), place.body)));
  }
  const kept = new Set(rows.map((row) => row.key));
  for (const [key, known] of place.rows) {
    if (!kept.has(key)) { known.line.remove(); known.below?.remove(); place.rows.delete(key); }
  }
  let next = place.body.firstChild;
  const put = (line) => { if (line === next) next = next.nextSibling; else place.body.insertBefore(line, next); };
  for (const row of rows) {
    const known = place.rows.get(row.key) || newRow(place, columns, row);
    update(known, row);
    put(known.line);
    if (known.below) put(known.below);
  }
}

function newRow(place, columns, row) {
  const known = { line: made("tr", {}, ...columns.map((one) => made("td", { class: one.look || "" }))), texts: [], isOpen: false };
  if (row.detail) {
    known.line.className = "opens";
    known.line.tabIndex = 0;
    known.line.dataset.key = row.key;
    known.line.setAttribute("aria-expanded", "false");
    known.line.addEventListener("click", () => { if (!String(getSelection())) turn(known, columns); });
    known.line.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); turn(known, columns); } });
  }
  place.rows.set(row.key, known);
  return known;
}

function update(known, row) {
  const version = JSON.stringify(row.version), isNew = version !== known.version;
  known.row = row;
  known.version = version;
  row.cells.forEach((cell, index) => {
    const text = String(cell), show = row.shown?.[index];
    if (known.texts[index] === text && !(show && isNew)) return;
    known.texts[index] = text;
    known.line.children[index].replaceChildren(show ? show() : text);
  });
  if (known.isOpen && isNew) fill(known);
}

function turn(known, columns) {
  known.isOpen = !known.isOpen;
  known.line.setAttribute("aria-expanded", String(known.isOpen));
  known.below?.remove();
  known.below = undefined;
  if (known.isOpen) {
    known.below = made("tr", { class: "detail" }, made("td", { colspan: columns.length }));
    known.line.after(known.below);
    fill(known);
  }
}

function fill(known) {
  const place = known.below.firstChild;
  if (!known.row.keepsDetail) place.replaceChildren();
  known.row.detail(place);
}

// The graph.
function follow(told) {
  const now = performance.now() / 1000, totals = new Map();
  for (const edge of told.graph) totals.set(edgeKey(edge), edge);
  state.history.push({ at: now, totals });
  while (state.history[0].at < now - KEPT_SECONDS) state.history.shift();
  return told.graph.map((edge) => measured(edge, now, told.bounds));
}
const edgeKey = (edge) => [edge.reporter, edge.source.id, edge.destination.id].join(" ");

function measured(edge, now, bounds) {
  const key = edgeKey(edge), seen = state.history;
  // A process that began again counts from nothing.
  const since = (old) => old && old.requests <= edge.requests ? old : { requests: 0, errors: 0, milliseconds: edge.milliseconds.map(() => 0) };
  const from = seen.find((one) => one.at >= now - RATE_SECONDS) || seen[0];
  const before = seen.length > 1 ? since(from.totals.get(key)) : edge;
  const seconds = Math.max(now - from.at, 0.001), requests = edge.requests - before.requests, errors = edge.errors - before.errors;
  const oldest = seen.length > 1 ? since(seen[0].totals.get(key)) : { milliseconds: edge.milliseconds.map(() => 0) };
  const buckets = edge.milliseconds.map((count, index) => count - oldest.milliseconds[index]);
  const p95 = quantile(0.95, buckets, bounds), errorShare = share(errors, requests);
  const look = !requests ? "idle" : errorShare >= 0.05 ? "bad" : errorShare > 0 ? "warn" : "good";
  const perSecond = seen.length > 1 ? requests / seconds : 0;
  const label = requests ? [`${rate(perSecond)}/s`, errors ? percent(errorShare) : "", p95 === null ? "" : `${rate(p95)} ms`].filter(Boolean).join(" · ") : "idle";
  const trend = seen.slice(1).map((one, index) => Math.max(0, (one.totals.get(key)?.requests || 0) - (seen[index].totals.get(key)?.requests || 0)));
  return { ...edge, rate: perSecond, errorShare, p95, look, label, trend, isMutual: edge.mutual > 0 };
}

function quantile(wanted, buckets, bounds) {
  const total = buckets.reduce((sum, count) => sum + count, 0);
  let left = total * wanted;
  if (!total) return null;
  for (let index = 0; index < buckets.length; index++) {
    const low = index ? bounds[index - 1] : 0, high = bounds[index] ?? low;
    if (left <= buckets[index]) return low + (high - low) * (left / buckets[index]);
    left -= buckets[index];
  }
  return bounds[bounds.length - 1];
}

function showGraph(told, edges) {
  const own = { id: "own process", name: told.process.workload === "unknown" ? "this process" : told.process.workload, namespace: told.process.namespace === "unknown" ? "" : told.process.namespace, version: "", service: "", kind: "workload" };
  if (!edges.length) {
    $("picture").replaceChildren(made("p", { class: "empty" }, "No request yet. As soon as this process sends or serves one, the graph begins here."));
    $("edges").replaceChildren();
    return;
  }
  $("picture").replaceChildren(drawGraph(edges, own));
  const columns = [{ name: "from" }, { name: "to" }, { name: "per second", look: "number" }, { name: "errors", look: "number" }, { name: "p95", look: "number" }, { name: "in all", look: "number wide" }, { name: "last minute", look: "wide" }, { name: "secured", look: "wide" }];
  const rows = [...edges].sort((one, other) => edgeKey(one).localeCompare(edgeKey(other))).map((edge) => ({
    key: edgeKey(edge), version: edge.trend,
    cells: [edge.reporter === "source" ? own.name : edge.source.id, edge.reporter === "source" ? edge.destination.id : own.name, rate(edge.rate), percent(edge.errorShare), edge.p95 === null ? "–" : `${rate(edge.p95)} ms`, number(edge.requests), "", edge.isMutual ? "mutual TLS" : "plaintext"],
    shown: { 3: () => made("span", { class: edge.look === "idle" ? "" : edge.look }, percent(edge.errorShare)), 6: () => sparkline(edge.trend) },
  }));
  table($("edges"), columns, rows, "");
}

// Clusters.
async function showClusters() {
  const told = await get("api/clusters", { q: $("find-clusters").value, count: state.shown });
  $("told-clusters").textContent = `${number(told.total)} clusters, ${number(told.endpoints)} endpoints` + (told.troubled ? `, ${number(told.troubled)} in trouble` : "");
  $("more-clusters").hidden = told.total <= told.clusters.length || told.clusters.length >= 500;
  const columns = [{ name: "cluster", look: "name" }, { name: "endpoints" }, { name: "active", look: "number" }, { name: "pending", look: "number wide" }, { name: "connections", look: "number wide" }, { name: "ejected", look: "number" }, { name: "policy", look: "wide" }];
  const isOpen = (one) => $("list-clusters").rows?.get(one.name)?.isOpen;
  const endpoints = new Map(await Promise.all(told.clusters.filter(isOpen).map(async (one) => [one.name, await get("api/endpoints", { cluster: one.name }).catch(() => [])])));
  table($("list-clusters"), columns, told.clusters.map((one) => ({
    key: one.name, version: endpoints.get(one.name),
    cells: [one.name, `${one.healthy} of ${one.endpoints} ${one.problem}`, one.active, one.pending, one.connections, one.ejected || "", one.policy],
    shown: { 1: () => healthBar(one) },
    keepsDetail: true, detail: (place) => showEndpoints(place, one.name, endpoints.get(one.name)),
  })), ["Nothing is known yet: the mesh is asked for a host when somebody sends to it. ", made("code", {}, "mesh.wait_ready(\"reviews:9080\")"), " asks at once."]);
}

function healthBar(one) {
  const place = made("span", {});
  if (one.endpoints) {
    const bar = made("i", {});
    bar.style.width = `${100 * one.healthy / one.endpoints}%`;
    place.append(made("span", { class: "health", "aria-hidden": "true" }, bar));
  }
  place.append(made("span", { class: one.is_troubled ? "bad" : "" }, one.endpoints ? `${one.healthy} of ${one.endpoints}` : "none"));
  if (one.problem) place.append(made("div", { class: "bad" }, one.problem));
  return place;
}

async function showEndpoints(place, name, known) {
  const endpoints = known || await get("api/endpoints", { cluster: name }).catch(() => []);
  const columns = [{ name: "endpoint", look: "name" }, { name: "health" }, { name: "active", look: "number" }, { name: "requests", look: "number" }, { name: "errors", look: "number" }, { name: "weight", look: "number wide" }, { name: "priority", look: "number wide" }, { name: "locality", look: "wide" }, { name: "proven identity", look: "wide" }];
  table(place, columns, endpoints.map((one) => ({
    key: one.address,
    cells: [one.address, healthOf(one), one.active, number(one.requests), number(one.errors), one.weight, one.priority, one.locality, one.principal],
    shown: { 1: () => made("span", { class: one.is_healthy ? "good" : "bad" }, healthOf(one)) },
  })), "There is no endpoint.");
}
const healthOf = (one) => one.is_ejected ? "ejected" : one.fails_checks ? "fails health checks" : one.is_healthy ? "healthy" : one.health.toLowerCase();

function tellCount(what, total, shown) {
  $(`told-${what}`).textContent = `${number(total)} ${what}` + (total > shown ? `, the first ${number(shown)} shown` : "");
  $(`more-${what}`).hidden = total <= shown || shown >= 500;
}

// Routes.
async function showRoutes() {
  const told = await get("api/routes", { q: $("find-routes").value, count: state.shown }), routes = told.routes;
  tellCount("routes", told.total, routes.length);
  const columns = [{ name: "listener", look: "name" }, { name: "route", look: "name wide" }, { name: "matches", look: "name" }, { name: "leads to", look: "name" }, { name: "requests", look: "number" }, { name: "errors", look: "number" }];
  table($("list-routes"), columns, routes.map((one) => ({
    key: [one.listener, one.virtual_host, one.place].join(" "),
    cells: [one.listener, one.name === one.match ? "" : one.name, one.match + (one.conditions ? ` and ${one.conditions} more` : ""), one.action, number(one.requests), one.errors ? `${number(one.errors)} (${percent(share(one.errors, one.requests))})` : ""],
    shown: { 5: () => made("span", { class: one.errors ? "bad" : "" }, one.errors ? `${number(one.errors)} (${percent(share(one.errors, one.requests))})` : "") },
  })), "No route is known yet.");
}

// Configuration.
async function showConfiguration() {
  const [changes, told] = await Promise.all([get("api/changes"), get("api/resources", { q: $("find-resources").value, count: state.shown })]);
  const looks = { rejected: "bad", removed: "warn", added: "good" };
  table($("list-changes"), [{ name: "at" }, { name: "what" }, { name: "kind", look: "wide" }, { name: "name", look: "name" }], changes.map((one) => ({
    key: String(one.number), cells: [time(one.at), one.what, one.kind, one.name],
    shown: { 1: () => made("span", { class: `tag ${looks[one.what] || ""}` }, one.what) },
    detail: (place) => showDifference(place, one),
  })), "Nothing has changed.");
  tellCount("resources", told.total, told.resources.length);
  table($("list-resources"), [{ name: "kind" }, { name: "name", look: "name" }, { name: "status" }, { name: "version", look: "wide name" }, { name: "since", look: "wide" }], told.resources.map((one) => ({
    key: one.type + one.name, cells: [one.kind, one.name, one.status.toLowerCase(), one.version, one.updated_at ? time(one.updated_at) : ""],
    shown: { 2: () => made("span", { class: one.status === "NACKED" ? "tag bad" : "" }, one.status === "NACKED" ? "rejected" : one.status.toLowerCase()) },
    detail: one.error || one.notes.length ? (place) => place.append(...[one.error, ...one.notes].filter(Boolean).map((text) => made("p", { class: text === one.error ? "bad" : "warn" }, text))) : undefined,
  })), "No resource has come.");
}

async function showDifference(place, one) {
  if (one.error) place.append(made("p", { class: "bad" }, one.error), made("p", { class: "quiet" }, "The last good one serves on."));
  const told = await get("api/change", { number: one.number }).catch((error) => ({ lines: [error.message] }));
  if (!told.lines.length) return;
  const looks = { "+": "plus", "-": "minus", "@": "at" };
  place.append(made("pre", {}, ...told.lines.slice(one.what === "changed" ? 2 : 3).map((line) => made("div", { class: looks[line[0]] || "" }, line || " "))));
}

// Requests.
async function showRequests() {
  const isHeld = [...($("list-requests").rows?.values() || [])].some((known) => known.isOpen);
  $("told-requests").textContent = isHeld ? "held while one is open" : "";
  if (state.isPaused || isHeld) return;
  const words = $("find-requests").value.toLowerCase().split(" ").filter(Boolean);
  const requests = (await get("api/requests")).filter((one) => words.every((word) => JSON.stringify(one).toLowerCase().includes(word)));
  const columns = [{ name: "at" }, { name: "request", look: "name" }, { name: "status" }, { name: "time", look: "number" }, { name: "peer", look: "name wide" }];
  table($("list-requests"), columns, requests.map((one) => ({
    key: String(one.number),
    cells: [time(one.at), `${one.method} ${one.url}`, statusOf(one), `${number(one.milliseconds)} ms`, one.side === "client" ? one.endpoint || one.cluster : `from ${callerOf(one)}`],
    shown: { 2: () => made("span", { class: isFailed(one) ? "bad" : "" }, statusOf(one)) },
    detail: (place) => showRequest(place, one),
  })), "No request yet.");
}
const isFailed = (one) => !one.status || one.status >= 500 || (one.grpc_status && one.grpc_status !== "0");
const callerOf = (one) => one.principal || (one.caller ? `${one.caller}, as it says itself` : "somebody who has proven nothing");
const statusOf = (one) => [one.status || "none", one.grpc_status ? `grpc ${one.grpc_status}` : "", one.flags].filter(Boolean).join(" ");
const flagsIn = (flags) => flags.split(",").filter(Boolean).map((flag) => `${flag}: ${FLAGS[flag] || "see Envoy's response flags"}`).join("; ");

function facts(pairs) {
  return made("dl", { class: "facts" }, ...pairs.filter(([, value]) => value !== "" && value !== undefined && value !== null).flatMap(([name, value]) => [made("dt", {}, name), made("dd", {}, value instanceof Node ? value : String(value))]));
}

async function showRequest(place, one) {
  place.append(facts([
    ["came to", one.side === "server" ? "this process" : ""], ["from", one.side === "server" ? callerOf(one) : ""],
    ["route", one.route], ["cluster", one.cluster], ["endpoint", one.endpoint], ["attempts", one.attempts], ["flags", flagsIn(one.flags)], ["details", one.details],
  ]));
  if (one.side === "server") return;
  const told = await get("api/request", { number: one.number }).catch(() => null);
  if (told?.explanation) place.append(made("h3", {}, "Why, by the configuration of then"), tree(told.explanation, one.endpoint));
}

// An explanation as a tree.
function tree(told, chosen) {
  const item = (look, text, ...below) => made("li", {}, made("span", { class: look }, text), below.length ? made("ul", {}, ...below) : null);
  const items = [];
  if (told.listener) items.push(item("", `listener ${told.listener}`));
  if (told.virtual_host) items.push(item("", `virtual host ${told.virtual_host}`));
  for (const [name, reasons] of told.skipped) items.push(item("quiet", `✗ route ${name}`, ...reasons.map((reason) => item("quiet", reason))));
  if (told.route) items.push(item("good", `✓ route ${told.route}`));
  if (told.problem) items.push(item("bad", told.problem));
  if (told.action === "redirect") items.push(item("", `redirect ${told.status} to ${told.location}`));
  if (told.action === "direct_response") items.push(item("", `answered here with ${told.status}`));
  const sent = [told.path ? item("", `sent as ${told.method} ${told.path} to host ${told.host}`) : null, told.timeout_seconds ? item("", `timeout ${told.timeout_seconds} s`) : null,
    told.retry.num_retries ? item("", `up to ${told.retry.num_retries} retries on ${told.retry.conditions.join(", ") || "nothing"}`) : null,
    told.fault.delay_share || told.fault.abort_share ? item("warn", `faults: delay ${told.fault.delay_seconds} s for ${percent(told.fault.delay_share)}, abort ${told.fault.abort_status} for ${percent(told.fault.abort_share)}`) : null];
  if (told.action === "forward") items.push(...sent.filter(Boolean));
  for (const cluster of told.clusters) {
    const endpoints = cluster.endpoints.slice(0, 20).map((one) => item(one.health === "HEALTHY" || one.health === "UNKNOWN" ? "" : "bad",
      `${one.address}${one.address === chosen ? "  ← it went here" : ""}${one.health === "HEALTHY" || one.health === "UNKNOWN" ? "" : ` ${one.health.toLowerCase()}`}${one.priority ? ` priority ${one.priority}` : ""}${one.locality ? ` ${one.locality}` : ""}`));
    if (cluster.endpoints.length > 20) endpoints.push(item("quiet", `… and ${cluster.endpoints.length - 20} more`));
    if (cluster.problem) endpoints.push(item("bad", cluster.problem));
    items.push(item("", `cluster ${cluster.name}${cluster.share < 1 ? `, ${percent(cluster.share)} of the requests` : ""}${cluster.policy ? `, ${cluster.policy}` : ""}`, ...endpoints));
  }
  return made("ul", { class: "tree" }, ...items);
}

async function explain(event) {
  event.preventDefault();
  const headers = {};
  for (const line of $("ask-headers").value.split("\n")) {
    const colon = line.indexOf(":");
    if (colon > 0) headers[line.slice(0, colon).trim()] = line.slice(colon + 1).trim();
  }
  const place = $("explained");
  place.replaceChildren(made("p", { class: "quiet" }, "asking…"));
  const response = await fetch("api/explain", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ method: $("ask-method").value, url: $("ask-url").value, headers, at: $("ask-at").value ? Date.parse($("ask-at").value) / 1000 : undefined }) });
  const text = await response.text();
  if (!response.ok) return void place.replaceChildren(made("p", { class: "banner" }, text.trim()));
  const told = JSON.parse(text);
  const looks = { forward: "good", no_route: "bad", deny: "bad" };
  place.replaceChildren(made("h2", {}, made("span", { class: `tag ${looks[told.action] || ""}` }, told.action.replace("_", " ")), ` ${told.method} ${told.url}`), tree(told, ""));
}

// Identity.
async function showIdentity(told) {
  const own = told.identity;
  if (!own) return void $("own-identity").replaceChildren(made("p", { class: "empty" }, "This process has no identity of its own: it speaks plaintext, or TLS without a certificate."));
  const from = Date.parse(own.issued_at), until = Date.parse(own.expires_at), now = Date.now();
  const life = made("i", {});
  life.style.width = `${Math.max(0, Math.min(100, 100 * (until - now) / (until - from)))}%`;
  $("own-identity").replaceChildren(
    facts([["identity", own.spiffe_id || "not used yet"], ["good until", own.expires_at ? `${new Date(until).toLocaleString("en-GB")}, in ${span((until - now) / 1000)}` : ""], ["trusts also", own.trust_domains.join(", ")], ["problem", own.problem ? made("span", { class: "bad" }, own.problem) : ""]]),
    own.expires_at ? made("div", { class: "life", role: "img", "aria-label": "what is left of its life" }, life) : "");
  const certificates = (await get("certs")).certificates.flatMap((one) => [...one.cert_chain.map((each) => ["own", each]), ...one.ca_cert.map((each) => ["trusted", each])]);
  table($("list-certificates"), [{ name: "certificate" }, { name: "names", look: "name" }, { name: "serial", look: "name wide" }, { name: "from", look: "wide" }, { name: "until" }], certificates.map(([kind, one]) => ({
    key: kind + one.serial_number, cells: [kind, one.subject_alt_names.flatMap((name) => Object.values(name)).join(", "), one.serial_number, one.valid_from, one.expiration_time],
  })), "No certificate has been used yet.");
}

// What is shown all the time.
function showHead(told, edges) {
  const own = told.process;
  const name = own.workload === "unknown" ? own.command : own.workload;
  $("workload").textContent = name + (own.namespace && own.namespace !== "unknown" ? ` in ${own.namespace}` : "");
  document.title = `${name} – meshsdk`;
  $("process").textContent = `process ${own.pid}, up ${span(own.uptime_seconds)}, meshsdk ${own.version} on Python ${own.python}`;
  const failing = edges.filter((edge) => edge.look === "bad").map((edge) => (edge.reporter === "source" ? edge.destination : edge.source).name);
  const look = told.problem || told.rejected || failing.length ? "bad" : told.troubled ? "warn" : "good";
  $("state").className = `pill ${look}`;
  $("state").textContent = told.problem ? "configuration may be old" : told.rejected ? `${told.rejected} rejected`
    : failing.length ? `errors with ${failing[0]}${failing.length > 1 ? ` and ${failing.length - 1} more` : ""}`
    : told.troubled ? `${told.troubled} in trouble` : "all is well";
  $("count-clusters").textContent = told.clusters ? number(told.clusters) : "";
  $("count-clusters").className = told.troubled ? "count bad" : "count";
  $("count-rejected").textContent = told.rejected ? `${told.rejected} rejected` : "";
  $("count-rejected").className = "count bad";
  say([told.problem, ...told.notes].filter(Boolean).join(" · "));
}

function say(problem) {
  $("problem").textContent = problem;
  $("problem").hidden = !problem;
}

async function showProcesses(port) {
  const ports = await get("api/processes").catch(() => []);
  $("processes").replaceChildren(...(ports.length > 1 ? ports.map((one) => made("a", { href: `http://${location.hostname}:${one}/`, "aria-current": one === port ? "page" : undefined }, `:${one}`)) : []));
}

const views = { clusters: showClusters, routes: showRoutes, configuration: showConfiguration, requests: showRequests };
let round = 0;

async function poll() {
  try {
    if (!document.hidden) {
      const told = await get("api/overview");
      const edges = follow(told);
      showHead(told, edges);
      if (state.view === "graph") showGraph(told, edges);
      if (state.view === "identity") await showIdentity(told);
      await views[state.view]?.();
      if (round++ % 10 === 0) await showProcesses(told.port);
    }
  } catch (error) {
    $("state").className = "pill bad";
    $("state").textContent = "not reached";
    say(`The process does not answer (${error.message}). This page goes on as soon as it does.`);
  }
  setTimeout(poll, POLL);
}

function show(view) {
  state.view = view;
  state.shown = 100;
  for (const tab of document.querySelectorAll('[role="tab"]')) {
    const isOwn = tab.id === `tab-${view}`;
    tab.setAttribute("aria-selected", String(isOwn));
    tab.tabIndex = isOwn ? 0 : -1;
    $(tab.id.slice(4)).hidden = !isOwn;
  }
  history.replaceState(null, "", `#${view}`);
  views[view]?.().catch(() => {});
}

const tabs = [...document.querySelectorAll('[role="tab"]')];
tabs.forEach((tab, index) => {
  tab.addEventListener("click", () => show(tab.id.slice(4)));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(index + step + tabs.length) % tabs.length];
    show(next.id.slice(4));
    next.focus();
  });
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA)$/.test(event.target.tagName)) return;
  if (/^[1-7]$/.test(event.key)) tabs[event.key - 1].click();
  if (event.key === "/") { const find = $(state.view).querySelector('input[type="search"]'); if (find) { event.preventDefault(); find.focus(); } }
});
for (const view of ["clusters", "routes", "requests"]) $(`find-${view}`).addEventListener("input", () => views[view]().catch(() => {}));
$("find-resources").addEventListener("input", () => showConfiguration().catch(() => {}));
for (const what of ["clusters", "routes", "resources"]) {
  $(`more-${what}`).addEventListener("click", () => { state.shown += 200; views[state.view]().catch(() => {}); });
}
$("pause").addEventListener("click", () => { state.isPaused = !state.isPaused; $("pause").setAttribute("aria-pressed", String(state.isPaused)); $("pause").textContent = state.isPaused ? "Go on" : "Pause"; });
$("ask").addEventListener("submit", (event) => explain(event).catch((error) => $("explained").replaceChildren(made("p", { class: "banner" }, error.message))));
show(views[location.hash.slice(1)] || ["explain", "identity"].includes(location.hash.slice(1)) ? location.hash.slice(1) : "graph");
poll();
