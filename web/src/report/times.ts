/** Figures over time: one panel, or several small ones with the same axes. */

import uPlot from "uplot";
import { axis, chosen, colour, plain } from "./axes";
import type { Panel, Times } from "./data";
import { written } from "./data";
import type { Drawing } from "./drawing";

const HEIGHT = 240;
const HEIGHT_OF_MANY = 170;
const LABELS = { day: "day", week: "week from", month: "month" };
const NAMED_ABOVE = { label: "", labelSize: 0 };
const WIDTH_OF_A_LABEL = { day: 66, week: 84, month: 66 };

/** Return a drawing for each panel of the chart. */
export function timesDrawings(chart: Times): Drawing[] {
  const bounds = boundsOf(chart);
  return chart.panels.map((panel) => ({
    name: panel.name,
    unit: chart.unit,
    label: panel.name ? `${chart.label}: ${panel.name}` : chart.label,
    options: (width) => options(chart, bounds, width),
    data: [chart.times.map((_time, place) => place), panel.values],
    readout: (place) => `${timeText(chart, place)}: ${written(panel.values[place], chart.kind)}`,
    legend: legendOf(chart, panel),
  }));
}

function legendOf(chart: Times, panel: Panel): Drawing["legend"] {
  const isYoung = chart.youngFrom !== null && chart.times.includes(chart.youngFrom) && chart.panels.length === 1;
  const isUnknown = panel.values.every((value) => value === null);
  return [
    ...(isYoung ? [{ text: `${chart.grain} that is not over`, mark: "young" }] : []),
    ...(isUnknown ? [{ text: "not known in this time", mark: "" }] : []),
  ];
}

function timeText(chart: Times, place: number): string {
  const time = chart.times[place] ?? "";
  const shown = chart.grain === "month" ? time.slice(0, 7) : time;
  return time === chart.youngFrom ? `${shown} (not over)` : shown;
}

/** Bars begin at 0. A line begins where the figures are, or nobody sees it move. The panels of a chart compare. */
export function boundsOf(chart: Times): [number, number] {
  const values = chart.panels.flatMap((panel) => panel.values.filter((value): value is number => value !== null));
  if (values.length === 0) return [0, 1];
  const [least, most] = [Math.min(...values), Math.max(...values)];
  if (chart.kind === "percent") {
    const [low, high] = [Math.floor(least * 20) / 20, Math.ceil(most * 20) / 20];
    // No share of which all are 100 % needs an axis above it.
    return low < high ? [low, high] : [Math.max(0, low - 0.05), Math.max(high, 0.05)];
  }
  if (chart.isBars) return [0, Math.max(1, most * 1.05)];
  const room = Math.max((most - least) * 0.15, most * 0.02, 0.01);
  return [Math.max(0, least - room), most + room];
}

function options(chart: Times, [low, high]: [number, number], width: number): uPlot.Options {
  const isMany = chart.panels.length > 1;
  const last = chart.times.length - 1;
  const most = Math.floor((width - 70) / WIDTH_OF_A_LABEL[chart.grain]);
  const labelled = chosen(chart.times.length, most, chart.grain === "day" ? 7 : 1);
  const begins = chart.kind === "percent" && low > 0 ? `, from ${written(low, chart.kind, 0)}` : "";
  const stroke = colour("--series-1");
  const year = chart.times[0]?.slice(0, 4);
  const isOneYear = chart.grain === "day" && year === chart.times[last]?.slice(0, 4);
  return {
    ...plain(width, isMany ? HEIGHT_OF_MANY : HEIGHT),
    scales: { x: { time: false, range: () => [-0.6, Math.max(0, last) + 0.6] }, y: { range: () => [low, high] } },
    axes: [
      {
        ...axis(`${LABELS[chart.grain]}${isOneYear ? ` of ${year}` : ""}`),
        size: 30,
        splits: () => labelled,
        values: (_drawn, places) => places.map((place) => timeLabel(chart, place, isOneYear)),
      },
      { ...axis(`${chart.unit}${begins}`), ...(isMany ? NAMED_ABOVE : {}), size: 52, space: 30, values: (_drawn, ticks) => ticks.map((each) => tick(chart, each, ticks)) },
    ],
    series: [{}, chart.isBars ? barsOf(chart, stroke) : lineOf(stroke, chart.times.length)],
    hooks: { drawClear: [(drawn) => shade(drawn, chart)] },
  };
}

function timeLabel(chart: Times, place: number, isOneYear: boolean): string {
  const time = chart.times[place] ?? "";
  return chart.grain === "month" ? time.slice(0, 7) : isOneYear ? time.slice(5) : time;
}

/** Write a tick with as many places as its neighbours need to differ; a count has none. */
function tick(chart: Times, value: number, ticks: readonly number[]): string {
  if (chart.kind === "count") return Number.isInteger(value) ? value.toLocaleString("en") : "";
  const step = (ticks.at(-1)! - ticks[0]!) / Math.max(1, ticks.length - 1) * (chart.kind === "percent" ? 100 : 1);
  return written(value, chart.kind, step >= 1 || step === 0 ? 0 : step >= 0.1 ? 1 : 2);
}

function lineOf(stroke: string, count: number): uPlot.Series {
  return { stroke, width: 2, points: { show: count < 40, size: 6, fill: stroke } };
}

/** Bars; those of days are paler at the weekend. */
function barsOf(chart: Times, fill: string): uPlot.Series {
  const pale = colour("--series-pale");
  const isWeekend = chart.times.map((time) => chart.grain === "day" && [0, 6].includes(new Date(time).getUTCDay()));
  const fills = isWeekend.map((weekend) => (weekend ? pale : fill));
  const paths = uPlot.paths.bars!({ size: [0.75, 44], disp: { fill: { unit: 3, values: () => fills }, stroke: { unit: 3, values: () => fills } } });
  return { stroke: fill, fill, width: 0, points: { show: false }, paths };
}

/** Shade the times that are not over. */
function shade(drawn: uPlot, chart: Times): void {
  const from = chart.youngFrom === null ? -1 : chart.times.indexOf(chart.youngFrom);
  if (from < 0) return;
  const left = drawn.valToPos(from - 0.5, "x", true);
  const right = drawn.valToPos(chart.times.length - 0.4, "x", true);
  drawn.ctx.fillStyle = colour("--young");
  drawn.ctx.fillRect(left, drawn.bbox.top, right - left, drawn.bbox.height);
}
