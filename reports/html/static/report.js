"use strict";
// Draws the charts over time with uPlot, from the numbers in the page. No text of a result becomes
// markup here: texts are set as text only.
(() => {
  const data = JSON.parse(document.getElementById("plots").textContent);
  const HEIGHT = 240, PRINTED = 640;
  const drawn = [];

  const digits = (value) => {
    if (value === 0) return "0";
    const size = Math.abs(value);
    return size >= 999.5 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
  };
  const scaled = (value, steps) => {
    const [unit, factor] = steps.find(([, each]) => value >= each) || steps[steps.length - 1];
    return digits(value / factor) + unit;
  };
  const SAY = {
    time: (ns) => scaled(ns, [[" s", 1e9], [" ms", 1e6], [" µs", 1e3], [" ns", 1]]),
    size: (bytes) => scaled(bytes, [[" GiB", 2 ** 30], [" MiB", 2 ** 20], [" KiB", 2 ** 10], [" B", 1]]),
    rate: (rate) => digits(rate) + "/s",
    count: (count) => digits(count),
    cores: (cores) => digits(cores),
  };
  // Room for ticks in the unit in which they are told: 256 MiB rather than 268 M.
  const STEPS = {
    size: [1, 2, 4, 8, 16, 32, 64, 128, 256, 512].flatMap((each) => [0, 10, 20, 30].map((power) => each * 2 ** power)).sort((a, b) => a - b),
  };

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const shade = (bands) => (plot) => {
    const { ctx, bbox } = plot;
    ctx.save();
    for (const band of bands) {
      const from = Math.max(bbox.left, plot.valToPos(band.start, "x", true));
      const to = Math.min(bbox.left + bbox.width, plot.valToPos(band.end, "x", true));
      if (to < bbox.left || from > bbox.left + bbox.width) continue;
      ctx.fillStyle = color(band.kind === "fault" ? "--fault" : "--phase");
      ctx.fillRect(from, bbox.top, Math.max(3 * devicePixelRatio, to - from), bbox.height);
      ctx.fillStyle = color("--ink");
      ctx.font = `${13 * devicePixelRatio}px system-ui, sans-serif`;
      ctx.textAlign = "center";
      ctx.fillText(band.mark, (from + to) / 2, bbox.top + 13 * devicePixelRatio);
    }
    ctx.restore();
  };

  const decades = (plot, axis, low, high) => {
    const powers = [];
    for (let power = Math.ceil(Math.log10(low) - 1e-9); power <= Math.log10(high) + 1e-9; power++) powers.push(10 ** power);
    return powers;
  };

  const wholeDecades = (low, high) => {
    const first = Math.floor(Math.log10(Math.max(low, 1)));
    return [10 ** first, 10 ** Math.max(Math.ceil(Math.log10(Math.max(high, 2))), first + 1)];
  };

  const table = (lines) => {
    if (new Set(lines.map((line) => line.times)).size === 1)
      return [data.times[lines[0].times], ...lines.map((line) => line.values)];
    return uPlot.join(lines.map((line) => [data.times[line.times], line.values]));
  };

  const options = (spec, width, legend) => ({
    width, height: HEIGHT,
    legend: { show: false },
    cursor: { sync: { key: "time" }, drag: { x: true, y: false }, points: { size: 7 } },
    scales: { x: { time: false }, y: spec.log
      ? { distr: 3, range: (plot, low, high) => low === null ? [1, 10] : wholeDecades(low, high) }
      : { range: (plot, low, high) => [0, Math.max(high * 1.06, 1e-9)] } },
    axes: [
      { stroke: color("--ink"), grid: { stroke: color("--grid"), width: 1 }, ticks: { show: false }, size: 30, font: "13px system-ui, sans-serif", values: (plot, values) => values.map((value) => digits(value) + " s") },
      { stroke: color("--ink"), grid: { stroke: color("--grid"), width: 1 }, ticks: { show: false }, size: 76, font: "13px system-ui, sans-serif", incrs: STEPS[spec.unit], ...(spec.log ? { splits: decades } : {}),
        values: (plot, values) => values.map((value) => value === null ? "" : SAY[spec.unit](value)) },
    ],
    series: [{}, ...spec.lines.map((line, number) => ({
      label: line.label, stroke: color("--c" + line.color), width: 2, spanGaps: true,
      points: { size: 6, fill: color("--c" + line.color), show: line.values.filter((value) => value !== null).length === 1 },
      dash: spec.lines.length > 4 && number % 2 ? [6, 4] : undefined,
      show: legend[number].getAttribute("aria-pressed") === "true",
    }))],
    hooks: { drawAxes: [shade(data.bands[spec.bands])] },
  });

  const follow = (plot, spec, buttons, at) => {
    const index = plot.cursor.idx;
    spec.lines.forEach((line, number) => {
      const value = index === null || index === undefined ? null : plot.data[number + 1][index];
      buttons[number].querySelector("output").textContent = value === null || value === undefined ? "" : SAY[spec.unit](value);
    });
    at.textContent = index === null || index === undefined ? "" : "at " + digits(plot.data[0][index]) + " s";
  };

  const draw = (entry, width) => {
    const { spec, place, buttons, at } = entry;
    if (entry.plot) entry.plot.destroy();
    const made = options(spec, width, buttons);
    made.hooks.setCursor = [(plot) => follow(plot, spec, buttons, at)];
    entry.plot = new uPlot(made, table(spec.lines), place);
    entry.width = width;
  };

  const move = (entry, event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "Escape") { entry.plot.setScale("x", { min: entry.plot.data[0][0], max: entry.plot.data[0].at(-1) }); return; }
    if (step === undefined) return;
    event.preventDefault();
    const times = entry.plot.data[0], now = entry.plot.cursor.idx ?? 0;
    const index = Math.min(times.length - 1, Math.max(0, now + step));
    entry.plot.setCursor({ left: entry.plot.valToPos(times[index], "x"), top: 10 });
  };

  for (const spec of data.plots) {
    const place = document.querySelector(`[data-plot="${CSS.escape(spec.id)}"]`);
    const legend = document.querySelector(`[data-legend="${CSS.escape(spec.id)}"]`);
    const buttons = [...legend.querySelectorAll("button")];
    const entry = { spec, place, buttons, at: legend.querySelector(".at output"), plot: null, width: 0 };
    buttons.forEach((button, number) => button.addEventListener("click", () => {
      const show = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(show));
      entry.plot.setSeries(number + 1, { show });
    }));
    place.addEventListener("keydown", (event) => move(entry, event));
    drawn.push(entry);
    draw(entry, place.clientWidth);
    new ResizeObserver(() => {
      if (place.clientWidth && Math.abs(place.clientWidth - entry.width) > 1) {
        entry.width = place.clientWidth;
        entry.plot.setSize({ width: entry.width, height: HEIGHT });
      }
    }).observe(place);
  }
  const again = () => drawn.forEach((entry) => draw(entry, entry.place.clientWidth || entry.width));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  matchMedia("print").addEventListener("change", (event) => event.matches ? drawn.forEach((entry) => draw(entry, PRINTED)) : again());
  document.documentElement.dataset.drawn = String(drawn.length);
})();
