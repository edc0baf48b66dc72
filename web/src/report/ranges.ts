/** A dot plot: for each name a dot at the smaller and one at the larger figure, and a line between them. */

import uPlot from "uplot";
import { axis, colour, FONT, plain } from "./axes";
import type { Ranges } from "./data";
import { written } from "./data";
import type { Drawing } from "./drawing";
import { wrapped } from "./wrapping";

const LINE = 16;
const GAP = 10;
const DOTS = 18;
const AXIS = 50;
const NARROW = 640;
/** The room right of the largest dot for its value, in pixels. */
const VALUE = 56;

/** A name as lines of text that fit, and where its row is: the dots and the first line, in pixels from the top. */
interface Place {
  lines: string[];
  dots: number;
  text: number;
}

/** Return the drawing of ranges. Names are in full: beside the dots where there is room, else above them. */
export function rangesDrawing(chart: Ranges): Drawing {
  const highs = chart.rows.map((row) => row[2] ?? 0);
  return {
    name: "",
    label: chart.label,
    options: (width) => options(chart, width, Math.max(1, ...highs)),
    // The cursor needs x values in order; the rows are drawn by the hook.
    data: [[0, Math.max(1, ...highs)], [null, null]],
    readout: () => `${chart.low} to ${chart.high}, ${chart.unit}`,
    legend: [
      { text: chart.low, mark: "dot series-1" },
      { text: chart.high, mark: "dot series-2" },
    ],
  };
}

function options(chart: Ranges, width: number, highest: number): uPlot.Options {
  const isNarrow = width < NARROW;
  const gutter = isNarrow ? 8 : Math.min(width * 0.4, 12 + Math.max(0, ...chart.rows.map((row) => widthOf(row[0]))));
  const plot = Math.max(2 * VALUE, width - gutter - 16);
  const { places, height } = placed(chart, isNarrow ? width - 24 : gutter - 12, isNarrow);
  return {
    ...plain(width, height + AXIS + 6),
    padding: [6, 16, 0, 0],
    cursor: { show: false },
    scales: { x: { time: false, range: () => [0, (highest * plot) / (plot - VALUE) || 1] }, y: { range: () => [0, 1] } },
    axes: [
      { ...axis(chart.unit), size: AXIS - 20 },
      { ...axis(""), label: "", labelSize: 0, size: gutter, values: () => [], grid: { show: false }, ticks: { show: false } },
    ],
    series: [{}, { show: true, points: { show: false } }],
    hooks: { draw: [(drawn) => chart.rows.forEach((row, place) => draw(drawn, row, places[place]!, isNarrow))] },
  };
}

/** Return where each row is, and how high all of them are. */
function placed(chart: Ranges, room: number, isNarrow: boolean): { places: Place[]; height: number } {
  let top = 0;
  const places = chart.rows.map(([name]) => {
    const lines = wrapped(name, room, widthOf);
    const high = lines.length * LINE;
    const row = isNarrow ? high + DOTS : Math.max(high, DOTS);
    const place = { lines, dots: top + (isNarrow ? high + DOTS / 2 : row / 2), text: top + (isNarrow ? 0 : (row - high) / 2) };
    top += row + GAP;
    return place;
  });
  return { places, height: top };
}

function draw(drawn: uPlot, [, low, high]: Ranges["rows"][number], place: Place, isNarrow: boolean): void {
  const { ctx, bbox } = drawn;
  const scale = uPlot.pxRatio;
  const y = bbox.top + place.dots * scale;
  ctx.save();
  ctx.font = FONT.replace("12px", `${12 * scale}px`);
  ctx.fillStyle = colour("--text");
  ctx.textBaseline = "top";
  ctx.textAlign = isNarrow ? "left" : "right";
  const x = isNarrow ? bbox.left : bbox.left - 10 * scale;
  place.lines.forEach((line, at) => ctx.fillText(line, x, bbox.top + (place.text + at * LINE + 2) * scale));
  if (low !== null && high !== null) {
    const [from, to] = [drawn.valToPos(low, "x", true), drawn.valToPos(high, "x", true)];
    ctx.strokeStyle = colour("--stem");
    ctx.lineWidth = 2 * scale;
    ctx.beginPath();
    ctx.moveTo(from, y);
    ctx.lineTo(to, y);
    ctx.stroke();
    dot(ctx, from, y, 5 * scale, colour("--series-1"));
    dot(ctx, to, y, 5 * scale, colour("--series-2"));
    ctx.fillStyle = colour("--text");
    ctx.textAlign = "left";
    ctx.textBaseline = "middle";
    ctx.fillText(written(high, "decimal"), to + 10 * scale, y);
  }
  ctx.restore();
}

function dot(ctx: CanvasRenderingContext2D, x: number, y: number, radius: number, fill: string): void {
  ctx.fillStyle = fill;
  ctx.beginPath();
  ctx.arc(x, y, radius, 0, 2 * Math.PI);
  ctx.fill();
}

const measure = document.createElement("canvas").getContext("2d");

function widthOf(text: string): number {
  if (!measure) return text.length * 7;
  measure.font = FONT;
  return measure.measureText(text).width;
}
