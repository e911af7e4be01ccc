/* What a fit read: its examples with weights, and some of them token by token. */
"use strict";

(function (Virgo) {
  const { el, show, foreign, parts, route, load } = Virgo;
  const PAGE = 50;
  const KINDS = { seed_thoughts: "seed thoughts", text_traces: "traces without a picture", picture_traces: "traces with a picture" };

  function spans(example) {
    if (example.why) return el("p.failure", {}, "The trainer would refuse this example now: ", foreign(example.why));
    return el("div.text.tokens", { dir: "auto" }, example.spans.map(function ([mark, text, num]) {
      const title = num + (num === 1 ? " token" : " tokens");
      if (mark === "image") return el("span.mark-image", { title }, "picture, " + title);
      return el(mark === "label" ? "mark.mark-label" : "span.mark-text", { title: title + (mark === "label" ? " with a loss" : " without a loss") }, text);
    }));
  }

  function describe(example) {
    return KINDS[example.kind] + ", weight " + show.figure(example.weight) + ", " + show.number(example.tokens) + " tokens, "
      + show.number(example.targets) + " of them with a loss, read " + example.times + (example.times === 1 ? " time" : " times")
      + (example.group ? ", group " + example.group + (example.role ? " (" + example.role + ")" : "") : "");
  }

  function traceLink(id, kind) {
    if (kind === "seed_thoughts") return foreign(id);
    const [first, last] = [id.indexOf("/"), id.lastIndexOf("/")];
    return el("a.row-link", { href: route.link("trace", { round: id.slice(0, first), id: id.slice(first + 1, last), s: id.slice(last + 1) }) }, foreign(id));
  }

  function summary(label, fit) {
    const report = (Virgo.run.rounds.find((r) => r.label === label) || {}).fit || {};
    const rows = Object.entries(report.portions || {}).map(([kind, p]) => [KINDS[kind] || kind, show.number(p.num_examples), show.number(p.num_tokens)]);
    return el("div", {},
      el("p.note", {}, "Version " + fit.version + ", from version " + fit.start + ": " + show.number(fit.num_steps) + " steps, " + show.number(report.num_tokens) + " tokens read, " + show.number(report.num_target_tokens)
        + " with a loss; loss " + show.figure(report.first_loss) + " to " + show.figure(report.last_loss) + "; weights " + show.figure(fit.weights[0]) + " to " + show.figure(fit.weights[1]) + "."),
      rows.length ? parts.table([["examples, each once"], ["number", "num"], ["tokens", "num"]], rows) : null);
  }

  async function list(main, label, fit, parameters) {
    const kinds = new Set();
    const rows = [];
    for (let k = 0; k < fit.lists; k++) {
      const part = await load(fit.folder + "/list-" + k);
      part.id.forEach(function (id, i) {
        kinds.add(part.kind[i]);
        if (parameters.kind && part.kind[i] !== parameters.kind) return;
        rows.push([id, part.kind[i], part.group[i] + (part.role[i] ? " " + part.role[i] : ""), part.weight[i], part.tokens[i], part.targets[i], part.times[i]]);
      });
    }
    const hasGroups = rows.some((r) => r[2]);
    const change = (name, value) => route.go("training", Object.assign({}, parameters, { [name]: value, page: "" }));
    const pages = Math.ceil(rows.length / PAGE);
    const page = Math.max(0, Math.min(pages - 1, Number(parameters.page) || 0));
    const heads = [["example", "id"], ["kind", "wide"], ...(hasGroups ? [["group", "wide"]] : []), [hasGroups ? "weight or advantage" : "weight", "num"], ["tokens", "num"], ["with a loss", "num wide"], ["read", "num"]];
    const cells = rows.slice(page * PAGE, (page + 1) * PAGE).map((r) => [traceLink(r[0], r[1]), KINDS[r[1]] || r[1], ...(hasGroups ? [foreign(r[2])] : []), show.figure(r[3]), show.number(r[4]), show.number(r[5]), r[6] + "×"]);
    main.append(el("h2", {}, "All examples"),
      el("form.filters", { onsubmit: (event) => event.preventDefault(), "aria-label": "Filters" }, parts.select("Kind", "kind", parameters.kind, [["", "any"], ...[...kinds].map((k) => [k, KINDS[k] || k])], change)),
      el("p.note", { id: "count", role: "status" }, show.number(rows.length) + " examples"),
      parts.table(heads, cells, { kind: "list" }), parts.pager("training", parameters, page, pages) || "");
  }

  Virgo.views.training = async function (main, parameters) {
    const fits = Virgo.run.fits;
    const labels = Object.keys(fits).sort((a, b) => a - b);
    main.append(el("h1", {}, "Training data"));
    if (!labels.length) return main.append(el("p.note", {}, "What this run's fits read was not noted: nothing was trained yet, or an earlier version trained it."));
    const label = Object.hasOwn(fits, parameters.fit || "") ? parameters.fit : labels[labels.length - 1];
    const fit = fits[label];
    main.append(el("nav.rounds", { "aria-label": "Fits" }, labels.map((l) => el("a.button" + (l === label ? ".now" : ""), { href: route.link("training", { fit: l }) }, "round " + l))), summary(label, fit));
    const shown = await load(fit.folder + "/shown");
    main.append(el("h2", {}, "Token by token"),
      el("p.note", {}, "Some examples of each kind, as the trainer lays them out: ", el("mark.mark-label", {}, "a loss is taken"), " on marked tokens only, and pictures take the places shown."),
      el("div", {}, shown.map((e) => el("details.card.example", { open: String(e.place) === parameters.ex, id: "example-" + e.place, "data-kind": e.kind },
        el("summary", {}, foreign(e.id), " ", el("span.dim", {}, describe(e))),
        el("p", {}, el("a", { href: route.link("training", { fit: label, ex: e.place }) }, "link to this example")),
        el("div.pictures", {}, e.images.map(parts.picture)), spans(e)))));
    await list(main, label, fit, parameters);
    const open = main.querySelector("details.example[open]");
    if (open) open.scrollIntoView({ block: "start" });
  };
})(window.Virgo);
