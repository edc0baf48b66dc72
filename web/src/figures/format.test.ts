import { describe, expect, it } from "vitest";
import { bytes, change, count, decimal, instant, part, percent } from "./format";

describe("figures as texts", () => {
  it("write a missing value as a dash, and 0 as 0", () => {
    expect([count(null), decimal(undefined), percent(null), instant(null)]).toEqual(["–", "–", "–", "–"]);
    expect([count(0), decimal(0), percent(0)]).toEqual(["0", "0.0", "0.0 %"]);
    expect([count(1234567), decimal(1.25), bytes(999), bytes(2_500_000)]).toEqual(["1,234,567", "1.3", "999 B", "2.5 MB"]);
  });

  it("write 100 % and 0 % only for all and nothing", () => {
    expect([percent(1), percent(0.99999), percent(0.00001), percent(0.5)]).toEqual(["100.0 %", "99.9 %", "0.1 %", "50.0 %"]);
  });

  it("write a part with its whole, and a difference in words", () => {
    expect([part(12, 42), part(0, 0), part(null, 42)]).toEqual(["12 of 42 (28.6 %)", "0 of 0", "–"]);
    expect([change(110, 100), change(95, 100), change(100, 100), change(5, 0), change(null, 5)]).toEqual([": 10.0\u00a0% more now", ": 5.0\u00a0% fewer now", ": the same", "", ""]);
  });

  it("write an instant without its parts of a second and its zone", () => {
    expect(instant("2026-01-31T10:00:00.123456+00:00")).toBe("2026-01-31 10:00:00");
    expect(instant("2026-01-31T10:00:00Z")).toBe("2026-01-31 10:00:00");
  });
});
