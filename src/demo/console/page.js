"use strict";
// Asks for the board once a second and writes what changed. Everything goes through textContent, so
// that no name from a record can become markup.

const at = id => document.getElementById(id);
const make = (tag, text, name) => {
  const e = document.createElement(tag);
  if (text !== undefined && text !== null) e.textContent = text;
  if (name) e.className = name;
  return e;
};
const within = (tag, name, ...children) => { const e = make(tag, undefined, name); e.append(...children.filter(c => c)); return e; };
const number = n => Number(n).toLocaleString("en-US");
const clock = ms => new Date(ms).toLocaleTimeString([], { hour12: false });
const seconds = ms => ms < 60000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.floor(ms / 60000)} min ${Math.floor(ms % 60000 / 1000)} s`;
const age = ms => ms < 60000 ? `${Math.max(0, Math.floor(ms / 1000))} s ago` : `${Math.floor(ms / 60000)} min ago`;
// A pseudonym is 22 letters that nobody remembers: its first eight tell users apart.
const short = s => s.replace(/([\w-]{1,16}):([\w-]{22})/g, (_, kid, mac) => `${mac.slice(0, 8)}…`);
const period = p => ({ h: "the hour", d: "the day", w: "the week", m: "the month", t: "total" })[p[0]] + p.slice(1).replace(/^:/, " ");
const severities = ["critical", "high", "medium", "low", "informational"];

const open = new Set();
const shown = {};
/// Writes a part only if what it shows has changed, so that a selection or an open detail stays.
function part(id, data, write) {
  const text = JSON.stringify(data);
  if (shown[id] === text) return;
  shown[id] = text;
  write(at(id));
}
function copyable(text) {
  const box = make("div");
  const button = make("button", "copy", "copy");
  button.type = "button";
  button.addEventListener("click", async () => {
    try { await navigator.clipboard.writeText(text); button.textContent = "copied"; }
    catch { getSelection().selectAllChildren(pre); button.textContent = "selected"; }
    setTimeout(() => { button.textContent = "copy"; }, 2000);
  });
  const pre = make("pre", text);
  box.append(button, pre);
  return box;
}
const cell = (label, ...content) => {
  const td = within("td", undefined, within("div", undefined, ...content));
  td.dataset.label = label;
  return td;
};
function facts(pairs) {
  const list = make("dl", undefined, "facts");
  for (const [name, value] of pairs) if (value) list.append(make("dt", name), value instanceof Node ? within("dd", undefined, value) : make("dd", value));
  return list;
}

function tiles(b) {
  const alive = b.incidents.filter(i => i.state !== "resolved");
  const worst = alive.filter(i => i.severity === "critical" || i.severity === "high").length;
  const t = b.totals;
  const behind = Math.max(0, t.published - t.events);
  const all = [
    [alive.length, "open incidents", `${worst} critical or high`, worst > 0],
    [number(t.events), "events counted", behind ? `${number(behind)} on their way` : "none on its way"],
    [number(t.tokens), "tokens in the ledger", `$${(t.micro_usd / 1e6).toFixed(2)}`],
    [number(t.dead_letters), "dead letters", t.garbage ? `${t.garbage} records that are no events were put in` : "none was put in yet"],
    [number(b.mails.length + b.calls.filter(c => c.status < 300).length), "messages received", `${b.mails.length} mails, ${b.calls.length} webhook calls`],
  ];
  part("tiles", all, e => e.replaceChildren(...all.map(([n, what, more, bad]) =>
    within("div", bad ? "tile bad" : "tile", make("b", n), make("span", what), make("small", more)))));
}

function incidents(b) {
  const sorted = [...b.incidents].sort((x, y) =>
    (x.state === "resolved") - (y.state === "resolved") || severities.indexOf(x.severity) - severities.indexOf(y.severity) || y.opened_ms - x.opened_ms);
  at("n-incidents").textContent = sorted.length ? `${sorted.length}, worst first` : "";
  at("no-incidents").hidden = sorted.length > 0;
  at("t-incidents").hidden = sorted.length === 0;
  part("incidents", [sorted, [...open]], body => {
    const rows = [];
    for (const i of sorted) {
      const id = `${i.id}#${i.number}`;
      const title = make("button", i.title);
      title.type = "button";
      title.setAttribute("aria-expanded", open.has(id));
      title.addEventListener("click", () => { open.has(id) ? open.delete(id) : open.add(id); incidents(b); });
      const who = make("span", short(i.subject), "mono");
      who.title = i.subject;
      const since = within("span", undefined, make("span", clock(i.opened_ms), "nowrap"), within("small", undefined));
      since.lastChild.dataset.since = i.opened_ms;
      rows.push(within("tr", undefined,
        cell("Severity", make("span", i.severity, `pill ${i.severity}`)),
        cell("What", title, make("small", `${i.detector} / ${i.rule}`)),
        cell("Who", who, make("small", i.tenant ? `of ${i.tenant}` : "")),
        cell("Since", since),
        cell("Why", make("span", short(i.reason))),
        cell("State", make("span", i.state), make("small", `${i.stage}, ${i.findings} finding${i.findings === 1 ? "" : "s"}`))));
      if (open.has(id)) {
        const td = within("td", undefined, facts([
          ["About", i.about], ["Subject", i.subject], ["User", i.user], ["Model", i.model], ["Gateway", i.gateway],
          ["Last seen", clock(i.last_ms)], ["Runbook", i.runbook], ["Incident", id], ["Silence", copyable(i.silence)]]));
        td.colSpan = 6;
        rows.push(within("tr", "detail", td));
      }
    }
    body.replaceChildren(...rows);
  });
  for (const e of document.querySelectorAll("[data-since]")) e.textContent = age(b.now_ms - Number(e.dataset.since));
}

function outcome(s, b) {
  const ended = b.phase === "ended";
  if (s.began_ms === null) return [ended ? "–" : "·", "muted", ended ? "not reached in this run" : "planned"];
  if (s.incident) return s.must
    ? ["✓", "good", `found after ${seconds(s.delay_ms)} as ${s.incident}`]
    : ["✗", "high", `FALSE ALARM: ${s.incident}`];
  if (!s.must) return ["✓", "good", ended ? "rightly quiet" : "quiet so far, as it should be"];
  if (ended) return ["✗", "high", "MISSED"];
  return ["…", "medium", s.judged_ms ? `judged when its minute closes, at about ${clock(s.judged_ms)}` : "waiting"];
}
function story(b) {
  part("story", [b.story, b.phase], list => list.replaceChildren(...b.story.map(s => {
    const [mark, kind, text] = outcome(s, b);
    const when = s.began_ms === null ? "" : `${clock(s.began_ms)} `;
    return within("li", undefined, make("span", mark, kind),
      within("div", undefined, make("span", s.must ? s.name : `${s.name} (control)`), make("small", `${when}${s.caption}`)),
      make("span", text, `outcome ${kind}`));
  })));
}

function budgets(b) {
  part("budgets", b.budgets, box => box.replaceChildren(...(b.budgets.length ? b.budgets.map(u => {
    const amount = n => u.unit === "usd" ? `$${n.toFixed(2)}` : `${number(Math.round(n))} tokens`;
    const bar = make("progress", undefined, u.percent >= 100 ? "high" : u.percent >= 80 ? "medium" : "");
    bar.max = 100; bar.value = Math.min(100, u.percent);
    bar.setAttribute("aria-label", `${u.scope} ${u.subject}`);
    const notes = [u.threshold ? `crossed ${u.threshold} %` : "", u.missing ? `${number(u.missing)} events without usage` : "", u.unpriced ? `${number(u.unpriced)} events without a price` : ""].filter(x => x).join("; ");
    return within("div", "budget",
      within("div", "row", make("span", `${u.scope} ${u.subject}`), make("span", `${u.percent.toFixed(1)} %`, u.percent >= 100 ? "high" : "")),
      bar, within("div", "row muted", make("span", `${amount(u.used)} of ${amount(u.limit)} in ${period(u.period)}`), make("span", notes)));
  }) : [make("p", "No usage was counted yet.", "muted")])));
  part("learning", b.learning, list => list.replaceChildren(...b.learning.flatMap(l => [
    make("dt", l.name), within("dd", undefined, make("span", l.state, l.learning ? "medium" : "good"), make("small", l.note))])));
}

function accounted(sum) {
  const left = sum("records") - sum("events") - sum("duplicates") - sum("dead_letters");
  return left === 0 ? "Every record became an event, a duplicate or a dead letter." : `${number(left)} records are in no account.`;
}
function completeness(b) {
  const p = b.partitions, sum = f => p.reduce((n, x) => n + x[f], 0);
  at("t-complete").hidden = p.length === 0;
  at("complete-note").textContent = p.length === 0 ? "No record was applied yet." :
    `${number(sum("records"))} records read, ${sum("lost")} lost, ${sum("duplicates")} seen twice. ${accounted(sum)}`;
  part("partitions", p, body => body.replaceChildren(...p.map(x => {
    const row = within("tr", undefined, cell("Partition", make("span", `${x.topic} / ${x.partition}`), x.halted ? make("small", `halted: ${x.halted}`) : null));
    for (const [label, n] of [["Records", x.records], ["Events", x.events], ["Duplicates", x.duplicates], ["Late", x.late], ["Dead letters", x.dead_letters], ["Lost", x.lost]]) {
      const td = cell(label, make("span", number(n), n > 0 && label === "Lost" ? "high" : ""));
      td.classList.add("n");
      row.append(td);
    }
    row.append(cell("Applied through", make("span", clock(x.applied_ms))));
    return row;
  })));
  part("dead", b.dead_letters, box => box.replaceChildren(...b.dead_letters.map(d =>
    make("p", `dead letter at ${d.topic}/${d.partition} offset ${d.offset}: ${d.reason}${d.path ? ` at ${d.path}` : ""}${d.byte === null ? "" : `, byte ${d.byte}`} of ${d.bytes}. Its bytes are kept nowhere.`, "muted"))));
}

function messages(b) {
  at("n-mails").textContent = b.mails.length ? `${b.mails.length}, newest first` : "";
  at("n-calls").textContent = b.calls.length ? `${b.calls.length}, newest first` : "";
  const none = text => [make("p", text, "muted")];
  const folded = (id, summary, body) => {
    const d = within("details", undefined, within("summary", undefined, ...summary), make("pre", body));
    d.open = open.has(id);
    d.addEventListener("toggle", () => { d.open ? open.add(id) : open.delete(id); });
    return d;
  };
  part("mails", b.mails, box => box.replaceChildren(...(b.mails.length ? b.mails.map((m, i) =>
    folded(`mail${i}`, [make("span", short(m.subject))], `To: ${m.to}\nSubject: ${m.subject}\n\n${m.body}`)).reverse() : none("No mail yet. Pages go here and to the webhook, tickets to the webhook alone."))));
  part("calls", b.calls, box => box.replaceChildren(...(b.calls.length ? b.calls.map((c, i) =>
    folded(`call${i}`, [make("span", `${c.kind.replace("incident.", "")}: ${short(c.title)} `), make("small", `${c.genuine ? "signature right" : "SIGNATURE WRONG"}, ${c.status < 300 ? `answered ${c.status}` : `refused with ${c.status}: it comes again`}`, c.genuine ? "muted" : "high")], c.body)).reverse() : none("No call yet."))));
}

function rest(b) {
  part("sql", [b.database, b.queries], box => box.replaceChildren(...(b.database ? [copyable(`psql '${b.database}'`),
    ...b.queries.flatMap(([question, sql]) => [make("span", question), copyable(sql)])] : [make("p", "Postgres is being started.", "muted")])));
  part("lines", b.lines, list => list.replaceChildren(...[...b.lines].reverse().map(l => make("li", short(l)))));
}

const phases = { starting: ["starting", "medium"], live: ["live", "good"], settling: ["traffic has ended, judging", "medium"], ended: ["ended", "muted"] };
let last = null;
async function look() {
  try {
    const answer = await fetch("board", { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.status);
    const b = last = await answer.json();
    const [word, kind] = phases[b.phase];
    at("phase").textContent = word; at("phase").className = `pill ${kind}`;
    at("clock").textContent = b.phase === "live" ? `${Math.max(0, Math.ceil((b.ends_ms - b.now_ms) / 1000))} s of traffic left` : "";
    at("time").value = b.ends_ms > b.began_ms ? Math.min(1, Math.max(0, (b.now_ms - b.began_ms) / (b.ends_ms - b.began_ms))) : 0;
    tiles(b); incidents(b); story(b); budgets(b); completeness(b); messages(b); rest(b);
  } catch {
    at("phase").textContent = last ? "the demo has ended" : "no answer";
    at("phase").className = "pill muted";
    at("clock").textContent = last ? "what you see is its last state; database and messages are gone" : "is the demo running?";
  }
  setTimeout(look, 1000);
}
look();
