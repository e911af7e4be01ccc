/* Curves with intervals, drawn by uPlot. Names of data stand in a legend of our own: the library
   gets numbers only. */
"use strict";

(function (Virgo) {
  const { el, show } = Virgo;
  const HEIGHT = 210;
  const drawn = new Set();

  function colours() {
    const style = getComputedStyle(document.documentElement);
    const value = (name) => style.getPropertyValue(name).trim();
    return {
      lines: [1, 2, 3, 4, 5, 6, 7, 8].map((n) => value("--line-" + n)),
      ink: value("--dim"),
      rule: value("--rule"),
    };
  }

  /** `curves`: {name, values, low, high} over `xs`; low and high may be missing. `format` makes the
      text of a value, `labels` those of the xs. */
  function chart(title, xs, curves, options) {
    const known = curves.filter((c) => c.values.some((v) => v !== null && v !== undefined));
    if (!known.length || !xs.length) return null;
    const settings = Object.assign({ format: show.figure, labels: null, note: "" }, options);
    const place = el("div.plot", { role: "img", "aria-label": title + ": " + describe(known, settings) });
    const legend = el("div.legend");
    const card = el("figure.card.chart", {}, el("figcaption", {}, title,
      settings.note ? el("span.dim", {}, " " + settings.note) : null), place, legend);
    const entry = { card, place, legend, xs, known, settings, plot: null };
    drawn.add(entry);
    requestAnimationFrame(() => draw(entry));
    return card;
  }

  function describe(curves, settings) {
    return curves.map((c) => c.name + " " + settings.format(last(c.values))).join(", ");
  }

  function last(values) {
    for (let i = values.length - 1; i >= 0; i--) {
      if (values[i] !== null && values[i] !== undefined) return values[i];
    }
    return null;
  }

  function draw(entry) {
    if (!entry.card.isConnected) return drawn.delete(entry);
    const colour = colours();
    const data = [entry.xs];
    const series = [{}];
    const bands = [];
    entry.known.forEach(function (curve, n) {
      const stroke = colour.lines[n % colour.lines.length];
      data.push(curve.values);
      series.push({ stroke, width: 1.75, points: { show: entry.xs.length < 60, size: 5 }, spanGaps: true });
      if (!curve.low) return;
      data.push(curve.high, curve.low);
      const edge = { stroke: "transparent", width: 0, points: { show: false }, spanGaps: true };
      series.push(edge, edge);
      bands.push({ series: [data.length - 2, data.length - 1], fill: stroke + "26" });
    });
    if (entry.plot) entry.plot.destroy();
    entry.plot = new uPlot(settingsOf(entry, colour, series, bands), data, entry.place);
    fillLegend(entry, null);
  }

  function settingsOf(entry, colour, series, bands) {
    const axis = { stroke: colour.ink, grid: { stroke: colour.rule, width: 1 }, ticks: { show: false },
      font: "11px system-ui, sans-serif" };
    const labels = entry.settings.labels;
    return {
      width: Math.max(120, entry.place.clientWidth),
      height: HEIGHT,
      legend: { show: false },
      cursor: { y: false, drag: { x: !labels, y: false }, points: { size: 6 } },
      scales: { x: { time: false, range: labels ? padded : undefined }, y: { range: entry.settings.range } },
      series,
      bands,
      axes: [
        Object.assign({}, axis, labels
          ? { splits: () => every(entry.xs, entry.place.clientWidth), values: (u, xs) => xs.map((x) => labels[x]) }
          : { values: (u, xs) => xs.map((x) => x.toLocaleString("en")) }),
        Object.assign({}, axis, { size: 54, values: (u, ys) => ys.map((y) => entry.settings.format(y)) }),
      ],
      hooks: { setCursor: [(u) => fillLegend(entry, u.cursor.idx)] },
    };
  }

  const padded = (u, low, high) => (low === high ? [low - 0.5, high + 0.5] : [low - 0.08, high + 0.08]);

  function every(xs, width) {
    const step = Math.ceil(xs.length / Math.max(2, Math.floor(width / 48)));
    return xs.filter((x, i) => i % step === 0);
  }

  function fillLegend(entry, index) {
    Virgo.clear(entry.legend);
    const at = index === null || index === undefined ? null : index;
    const colour = colours();
    if (at !== null && entry.settings.labels) entry.legend.append(el("span.dim", {}, entry.settings.labels[entry.xs[at]]));
    entry.known.forEach(function (curve, n) {
      const value = at === null ? last(curve.values) : curve.values[at];
      const place = at === null ? curve.values.lastIndexOf(value) : at;
      const swatch = el("i.swatch");
      swatch.style.background = colour.lines[n % colour.lines.length];
      const has = curve.low && curve.low[place] !== null && curve.low[place] !== undefined;
      entry.legend.append(el("span.key", {}, swatch, Virgo.foreign(curve.name), " ", el("b", {}, entry.settings.format(value)),
        has ? el("span.dim", {}, " (" + entry.settings.format(curve.low[place]) + " to " + entry.settings.format(curve.high[place]) + ")") : null));
    });
  }

  let waiting = 0;
  function redraw() {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => drawn.forEach(draw));
  }
  window.addEventListener("resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  Virgo.chart = chart;
})(window.Virgo);
