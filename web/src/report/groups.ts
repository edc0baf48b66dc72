/** Figures of a few groups as bars, the values of the second series on top of those of the first one. */

import uPlot from "uplot";
import { axis, colour, plain } from "./axes";
import type { Groups } from "./data";
import type { Drawing } from "./drawing";

/** Return the drawing of groups. The sum is drawn first, and the first series over it. */
export function groupsDrawing(chart: Groups): Drawing {
  const [first, second] = chart.series;
  const values = first?.values.map((value) => value ?? 0) ?? [];
  const sums = values.map((value, place) => value + (second?.values[place] ?? 0));
  return {
    name: "",
    label: chart.label,
    options: (width) => options(chart, width, Math.max(1, ...sums)),
    data: [chart.names.map((_name, place) => place), sums, values],
    readout: (place) => `${chart.names[place]}: ${chart.series.map((each) => `${(each.values[place] ?? 0).toLocaleString("en")} ${each.name}`).join(", ")}`,
    legend: chart.series.map((each, place) => ({ text: each.name, mark: `block series-${place === 0 ? "2" : "1"}` })),
  };
}

function options(chart: Groups, width: number, highest: number): uPlot.Options {
  const bars = (fill: string): uPlot.Series => ({ stroke: fill, fill, width: 0, points: { show: false }, paths: uPlot.paths.bars!({ size: [0.7, 90] }) });
  return {
    ...plain(width, 240),
    scales: { x: { time: false, range: () => [-0.6, chart.names.length - 0.4] }, y: { range: () => [0, highest * 1.05 || 1] } },
    axes: [
      { ...axis(chart.axis), size: 30, splits: () => chart.names.map((_name, place) => place), values: () => chart.names },
      { ...axis(chart.unit), size: 60, values: (_drawn, ticks) => ticks.map((each) => (Number.isInteger(each) ? each.toLocaleString("en") : "")) },
    ],
    series: [{}, bars(colour("--series-1")), bars(colour("--series-2"))],
  };
}
