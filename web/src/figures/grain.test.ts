import { describe, expect, it } from "vitest";
import { byTime, grainOf, mondayOf, partText, within } from "./grain";

describe("the grain of a chart", () => {
  it("is the day of up to two months, and the week of more", () => {
    expect(grainOf("2026-01-01", "2026-01-01")).toBe("day");
    expect(grainOf("2026-01-01", "2026-03-03")).toBe("day");
    expect(grainOf("2026-01-01", "2026-03-04")).toBe("week");
  });

  it("has weeks from Monday to Sunday, also over the end of a year", () => {
    expect(["2025-12-28", "2025-12-29", "2026-01-01", "2026-01-04", "2026-01-05"].map(mondayOf)).toEqual([
      "2025-12-22", "2025-12-29", "2025-12-29", "2025-12-29", "2026-01-05",
    ]);
  });

  it("has no gap between the first and the last part", () => {
    const rows = [{ day: "2026-01-14", n: 1 }, { day: "2025-12-30", n: 2 }, { day: "2026-01-01", n: 3 }];
    expect(byTime(rows, "week").map((each) => [each.start, each.rows.length])).toEqual([["2025-12-29", 2], ["2026-01-05", 0], ["2026-01-12", 1]]);
    expect(byTime(rows.slice(1), "day").map((each) => each.start)).toEqual(["2025-12-30", "2025-12-31", "2026-01-01"]);
    expect(byTime([], "day")).toEqual([]);
  });

  it("keeps a week within the period", () => {
    const period = { from: "2026-01-01", to: "2026-01-31" };
    expect(within("2025-12-29", "week", period)).toEqual({ from: "2026-01-01", to: "2026-01-04" });
    expect(within("2026-01-26", "week", period)).toEqual({ from: "2026-01-26", to: "2026-01-31" });
    expect(["2025-12-29", "2026-01-05", "2026-01-26"].map((start) => partText(start, "week", period))).toEqual(["2025-12-29 (4 days)", "2026-01-05", "2026-01-26 (6 days)"]);
    expect(partText("2026-01-26", "day", period)).toBe("2026-01-26");
  });
});
