import { describe, expect, it } from "vitest";
import { conditionsOf, conditionText, factsAt, named, whereOf, within } from "./facts";
import { format, parse } from "./place";

describe("facts", () => {
  it("are chosen by conditions that the address gives back, whatever characters they have", () => {
    const conditions = [...within("created_at", "2026-01-31"), ...named({ carrier: "O'Malley & Sons = 50 %", city: "Київ", code: "(none)" })];
    expect(conditions).toEqual([
      ["created_at", "gte.2026-01-31T00:00Z"], ["created_at", "lt.2026-02-01T00:00Z"],
      ["carrier", "eq.O'Malley & Sons = 50 %"], ["city", "eq.Київ"], ["code", "is.null"],
    ]);
    expect(conditionsOf(whereOf(conditions))).toEqual(conditions);
    const place = { ...parse(""), ...factsAt("logistics.shipments", conditions) };
    expect(parse(format(place))).toEqual(place);
  });

  it("leave out a filter that is not set", () => {
    expect(named({ carrier: "" })).toEqual([]);
  });

  it("are said in words", () => {
    expect(conditionText(["created_at", "gte.2026-01-31T00:00Z"])).toBe("created_at from 2026-01-31 00:00 UTC");
    expect(conditionText(["carrier", "eq.A.B. & Sons"])).toBe("carrier is A.B. & Sons");
    expect(conditionText(["note", "is.null"])).toBe("note is missing");
    expect(conditionText(["note", "not.is.null"])).toBe("note is known");
    expect(conditionText(["status", "not.in.(lost,returned)"])).toBe("status not one of (lost,returned)");
  });
});
