/* The tables of the overview: rounds, gates, funnel, time, what the run was made by. */
"use strict";

(function (Virgo) {
  const { el, show, foreign, parts } = Virgo;
  const share = (x) => show.share(x, 1);

  function rounds(run) {
    const heads = [["round"], ["pass@1", "num"], ["pass@k", "num"], ["maj@k", "num"], ["blank", "num"], ["tokens", "num"], ["cut off", "num"], ["accepted", "num"], ["time", "num"], ["verdict"]];
    const rows = run.rounds.map(function (r) {
      const e = r.evaluation || {};
      const t = r.tally || {};
      return [el("b", {}, r.label), [share(e.pass_at_1), el("small.dim", {}, " " + show.range((e.intervals || {}).pass_at_1))], share(e.pass_at_k), share(e.maj_at_k), share(e.blank_image_pass_at_1),
        show.number(e.mean_thought_tokens), share(e.truncated_share), t.asked ? show.number(t.accepted) + " of " + show.number(t.asked) : "–", show.seconds(r.seconds),
        r.is_rejected ? el("span.chip.status-wrong", {}, "rejected") : r.evaluation ? el("span.chip.status-correct", {}, "kept") : el("span.chip", {}, "not evaluated")];
    });
    return parts.section("Rounds", "Held-out figures of every round, and what its exploration accepted.", parts.table(heads, rows));
  }

  function gates(run) {
    const judged = run.rounds.filter((r) => r.gates.length);
    if (!judged.length) return null;
    const names = [...new Set(judged.flatMap((r) => r.gates.map((g) => g.gate)))];
    const heads = [["gate"], ...judged.map((r) => [show.round(r.label), "num"])];
    const rows = names.map((name) => [name, ...judged.map(function (r) {
      const gate = r.gates.find((g) => g.gate === name);
      if (!gate) return el("span.dim", {}, "–");
      const is = show.figure(gate.value) + (gate.is_lower_bound ? " ≥ " : " ≤ ") + show.figure(gate.bound);
      return el(gate.is_passed ? "span.passed" : "span.failed", { title: gate.figure + " " + is }, el("b", {}, show.signed(gate.margin, Math.abs(gate.margin) >= 10 ? 0 : 3)), el("small.dim", {}, " " + is));
    })]);
    return parts.section("Gates", "How far each figure lies within its bound, noise forgiven; below 0 a gate fails. By the limits of now.", parts.table(heads, rows));
  }

  const STEPS = {
    asked: "asked", judged: "judged", right: "right", new: "new thoughts", chosen: "in the fit, after filters and caps", trained: "examples read, all passes and seed thoughts",
  };

  function funnel(run) {
    const own = run.rounds.filter((r) => r.funnel.length);
    if (!own.length) return null;
    const heads = [["step"], ...own.map((r) => [show.round(r.label), "num"])];
    const rows = Object.keys(STEPS).map((step) => [STEPS[step], ...own.map(function (r) {
      const value = (r.funnel.find((f) => f[0] === step) || [])[1];
      const most = (r.funnel.find((f) => f[0] === "asked") || [])[1];
      const has = value !== null && value !== undefined;
      return [has && most && step !== "trained" ? parts.bar(value / most) : null, show.number(value)];
    })]);
    const bins = Object.entries(run.stored).filter((entry) => entry[1].rows).sort((a, b) => a[0] - b[0]);
    const names = ["none right", "up to 1/4", "up to 1/2", "up to 3/4", "up to all but one", "all right"];
    const shares = bins.length ? parts.table([["pass rate of a problem"], ...bins.map((b) => [show.round(b[0]), "num"])],
      names.map((name, n) => [name, ...bins.map((b) => [parts.bar(b[1].bins[n] / Math.max(1, b[1].problems)), show.number(b[1].bins[n])])])) : null;
    return parts.section("Selection", "From what was asked to what was trained on; a fit may also draw on earlier rounds.", parts.table(heads, rows), shares);
  }

  function time(run) {
    const labels = ["base", ...Object.keys(run.phases)].filter((l, i, all) => run.phases[l] && all.indexOf(l) === i);
    const total = labels.reduce((sum, label) => sum + Object.values(run.phases[label]).reduce((s, p) => s + p[0], 0), 0);
    if (!total) return null;
    const sums = {};
    for (const label of labels) {
      for (const [name, values] of Object.entries(run.phases[label])) {
        sums[name] = (sums[name] || [0, 0, 0]).map((x, i) => x + values[i]);
      }
    }
    const names = Object.keys(sums).sort((a, b) => sums[b][0] - sums[a][0]);
    const heads = [["phase"], ["all rounds", "num"], ["share", "num"], ["GPU busy", "num"], ...labels.map((l) => [show.round(l), "num wide"])];
    const rows = names.map((name) => [name, show.seconds(sums[name][0]), [parts.bar(sums[name][0] / total), show.share(sums[name][0] / total, 0)],
      sums[name][2] ? show.share(sums[name][1] / sums[name][2], 0) : "not measured", ...labels.map((l) => (run.phases[l][name] ? show.seconds(run.phases[l][name][0]) : "–"))]);
    return parts.section("Where the time went", "Seconds of each phase, and how busy the GPUs were meanwhile.", parts.table(heads, rows));
  }

  function made(run) {
    const starts = run.starts.map((s) => [show.time(s.time), foreign(s.host), (s.commit || "").slice(0, 12) || "–", "Python " + s.python + ", " + Object.entries(s.versions).map((v) => v.join(" ")).join(", ")]);
    const changes = run.changes.map((c) => [foreign(c.key), foreign(JSON.stringify(c.before)), foreign(JSON.stringify(c.after)), String(c.round)]);
    return parts.section("How it was made", "",
      starts.length ? parts.table([["start"], ["driver's host"], ["commit"], ["versions"]], starts) : el("p.dim", {}, "The starts of this run were not noted."),
      changes.length ? parts.table([["changed key"], ["before"], ["after"], ["from round"]], changes) : null,
      el("details", {}, el("summary", {}, "Config"), foreign(run.config, "pre.foreign")),
      el("p.dim", {}, "Run directory: ", foreign(run.run_dir), ". Report written " + show.time(run.written) + "."));
  }

  Virgo.tables = (run) => [rounds(run), gates(run), funnel(run), time(run), made(run)].filter(Boolean);
})(window.Virgo);
