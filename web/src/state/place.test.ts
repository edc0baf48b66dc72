import { describe, expect, it } from "vitest";
import { laneConditions, laneName, laneText } from "./lane";
import { format, parse } from "./place";

describe("the address", () => {
  it("has the view and its filters, and gives them back", () => {
    const place = parse("?view=carriers&from=2026-01-01&to=2026-01-31&carrier=O%27Malley+%26+Sons");
    expect(place).toMatchObject({ view: "carriers", from: "2026-01-01", to: "2026-01-31", carrier: "O'Malley & Sons" });
    expect(parse(format(place))).toEqual(place);
    expect(format(parse(""))).toBe("/");
  });

  it("leaves out what is no view and no day", () => {
    expect(parse("?view=nothing&from=2026-02-30&to=yesterday&other=1")).toEqual(parse(""));
  });
});

describe("a lane", () => {
  it("chooses its rows, whatever characters its names have", () => {
    const row = { origin_country: "DE", origin_city: 'a","b', destination_country: "UA", destination_city: "Київ & (none)" };
    const name = parse(format({ ...parse(""), lane: laneName(row) })).lane;
    expect(laneConditions(name)).toEqual([
      ["origin_country", "eq.DE"], ["origin_city", 'eq.a","b'], ["destination_country", "eq.UA"], ["destination_city", "eq.Київ & (none)"],
    ]);
    expect(laneText(name)).toBe('a","b (DE) → Київ & (none) (UA)');
    expect(laneConditions("no lane")).toEqual([]);
  });
});
