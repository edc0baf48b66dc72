/** Draws all charts of the page, and again where its width or its colours change. */

import uPlot from "uplot";
import type { Chart } from "./data";
import { groupsDrawing } from "./groups";
import { rangesDrawing } from "./ranges";
import { timesDrawings } from "./times";

/** One canvas: its name, its options for a width in pixels, its data, and what it shows at a place. */
export interface Drawing {
  name: string;
  /** What the vertical axis of one of several small charts counts: beside its name, as there is no room at the axis. */
  unit?: string;
  label: string;
  options: (width: number) => uPlot.Options;
  data: uPlot.AlignedData;
  readout: (place: number) => string;
  /** What the marks mean, where that is not plain. */
  legend: { text: string; mark: string }[];
}

/** Draw each chart of the page into its box. */
export function drawAll(): void {
  const charts = JSON.parse(document.getElementById("charts")?.textContent ?? "{}") as Record<string, Chart>;
  for (const box of document.querySelectorAll<HTMLElement>("[data-chart]")) {
    const chart = charts[box.dataset["chart"] ?? ""];
    if (!chart) continue;
    const drawings = drawingsOf(chart);
    box.classList.toggle("many", drawings.length > 1);
    for (const drawing of drawings) place(box, drawing);
  }
}

function drawingsOf(chart: Chart): Drawing[] {
  if (chart.type === "times") return timesDrawings(chart);
  return [chart.type === "groups" ? groupsDrawing(chart) : rangesDrawing(chart)];
}

function place(box: HTMLElement, drawing: Drawing): void {
  const panel = box.appendChild(document.createElement("div"));
  panel.className = "one";
  if (drawing.name) panel.appendChild(named("p", "name", drawing.name)).append(named("span", "", drawing.unit ?? ""));
  const canvas = panel.appendChild(document.createElement("div"));
  canvas.className = "canvas";
  canvas.role = "img";
  canvas.ariaLabel = `${drawing.label}. A table below has the same figures.`;
  const legend = panel.appendChild(named("p", "legend", ""));
  legend.ariaHidden = "true";
  let chart: uPlot | null = null;
  const draw = (): void => {
    chart?.destroy();
    chart = new uPlot(drawing.options(Math.max(200, canvas.clientWidth)), drawing.data, canvas);
    explain(legend, drawing, null);
  };
  canvas.addEventListener("pointermove", () => explain(legend, drawing, chart?.cursor.idx ?? null));
  canvas.addEventListener("pointerleave", () => explain(legend, drawing, null));
  new ResizeObserver(() => {
    if (!chart || canvas.clientWidth !== chart.width) draw();
  }).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

function explain(legend: HTMLElement, drawing: Drawing, at: number | null): void {
  const marks = drawing.legend.map(({ text, mark }) => {
    const entry = named("span", "", text);
    entry.prepend(named("i", mark, ""));
    return entry;
  });
  legend.replaceChildren(...(at === null ? marks : [named("strong", "", drawing.readout(at))]));
}

function named(tag: string, className: string, text: string): HTMLElement {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}
