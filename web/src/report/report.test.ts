import { expect, test } from "vitest";
import { chosen } from "./axes";
import type { Times } from "./data";
import { written } from "./data";
import { compare } from "./tables";
import { boundsOf } from "./times";
import { wrapped } from "./wrapping";

const CHART: Times = { type: "times", label: "", unit: "", kind: "percent", grain: "week", isBars: false, times: [], youngFrom: null, panels: [] };

test("unknown values are last in both orders", () => {
  const values = [3, null, 1, 2];
  expect(values.toSorted((a, b) => compare(a, b, true))).toEqual([1, 2, 3, null]);
  expect(values.toSorted((a, b) => compare(a, b, false))).toEqual([3, 2, 1, null]);
});

test("a name is in full, whatever the room", () => {
  const width = (text: string): number => text.length;
  expect(wrapped("Ciudad de México (MX) → Łódź (PL)", 12, width)).toEqual(["Ciudad de", "México (MX)", "→ Łódź (PL)"]);
  expect(wrapped("x".repeat(25), 10, width).join("")).toBe("x".repeat(25));
  expect(wrapped("", 10, width)).toEqual([]);
});

test("the last time is labelled, and the others at equal distances of whole weeks", () => {
  expect(chosen(13, 5)).toEqual([0, 3, 6, 9, 12]);
  expect(chosen(28, 3, 7)).toEqual([13, 27]);
  expect(chosen(1, 0)).toEqual([0]);
});

test("panels have the same bounds: shares in steps of 5 %, bars from 0", () => {
  const panels = [{ name: "a", values: [0.91, null] }, { name: "b", values: [0.78, 1] }];
  expect(boundsOf({ ...CHART, panels })).toEqual([0.75, 1]);
  expect(boundsOf({ ...CHART, panels: [{ name: "a", values: [null] }] })).toEqual([0, 1]);
  expect(boundsOf({ ...CHART, kind: "count", isBars: true, panels: [{ name: "a", values: [40, 100] }] })).toEqual([0, 105]);
  for (const [all, bounds] of [[1, [0.95, 1]], [0, [0, 0.05]]] as const)
    expect(boundsOf({ ...CHART, panels: [{ name: "a", values: [all, all] }] })).toEqual(bounds);
});

test("a missing figure is a dash, never 0", () => {
  expect([written(null, "count"), written(0.915, "percent"), written(0.9, "percent", 0), written(1234, "count"), written(2.5, "money")])
    .toEqual(["–", "91.5 %", "90 %", "1,234", "2.50"]);
});
