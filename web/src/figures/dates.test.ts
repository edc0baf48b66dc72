import { describe, expect, it } from "vitest";
import { ageOf, daysBetween, hoursSince, isDay, isYoung, monthOf, plusDays } from "./dates";

describe("days", () => {
  it("cross months, years and leap days", () => {
    expect(plusDays("2024-02-28", 1)).toBe("2024-02-29");
    expect(plusDays("2025-12-31", 1)).toBe("2026-01-01");
    expect(monthOf("2026-01-31", -1)).toBe("2025-12-01");
    expect(monthOf("2025-12-31", 1 - 6)).toBe("2025-07-01");
    expect(daysBetween("2025-12-30", "2026-01-01")).toBe(3);
    expect(daysBetween("2026-01-01", "2026-01-01")).toBe(1);
  });

  it("are days of the calendar", () => {
    expect(isDay("2026-02-28")).toBe(true);
    for (const text of ["2026-02-30", "2026-2-1", "", null, "2026-13-01", "x"]) expect(isDay(text)).toBe(false);
  });

  it("leave out a month until thirty days after its end", () => {
    expect(isYoung("2025-12-01", "2025-12-31")).toBe(true);
    expect(isYoung("2025-11-01", "2025-12-30")).toBe(true);
    expect(isYoung("2025-11-01", "2025-12-31")).toBe(false);
  });
});

describe("ages", () => {
  const now = Date.parse("2026-01-31T12:00:00Z");

  it("are read from instants as PostgreSQL and as JSON write them", () => {
    expect(hoursSince("2026-01-30T10:00:00+00:00", now)).toBe(26);
    expect(hoursSince("2026-01-30 10:00:00+00", now)).toBe(26);
    expect(hoursSince("2026-01-30 11:30:00+01:30", now)).toBe(26);
    expect(hoursSince(null, now)).toBeNull();
    expect(hoursSince("nothing", now)).toBeNull();
    expect(hoursSince("2026-02-01T00:00:00Z", now)).toBe(0);
  });

  it("are said as people say them", () => {
    expect([0.5, 1, 26, 71.9, 72].map(ageOf)).toEqual(["30 minutes", "1 hour", "26 hours", "71 hours", "3 days"]);
  });
});
