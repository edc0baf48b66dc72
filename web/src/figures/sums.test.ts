import { describe, expect, it } from "vitest";
import { grouped, kept, ratio, sum } from "./sums";

describe("sums", () => {
  it("adds what is known, and a share of nothing is unknown", () => {
    expect(sum([{ n: 2 }, { n: null }, { n: 3 }], (row) => row.n)).toBe(5);
    expect(ratio(1, 4)).toBe(0.25);
    expect(ratio(0, 0)).toBeNull();
  });

  it("makes the share of kept promises of sums, and never of shares", () => {
    const rows = [
      { count_due: 100, count_untimed: 0, count_on_time: 100 },
      { count_due: 2, count_untimed: 1, count_on_time: 0 },
    ];
    expect(kept(rows)).toBeCloseTo(100 / 101);
    expect(kept([])).toBeNull();
  });

  it("keeps the order in which groups are met", () => {
    expect([...grouped(["b1", "a1", "b2"], (text) => text[0]!)]).toEqual([["b", ["b1", "b2"]], ["a", ["a1"]]]);
  });
});
