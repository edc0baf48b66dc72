import { describe, expect, it } from "vitest";
import type { components } from "./schema";
import { outcomeOf } from "./replays";

type Entry = components["schemas"]["FailureEntry"];

function entry(state: string, replay: object | null, waiting: string[] = []): Entry {
  return { failure: { id: "F1", state }, waiting, replay } as unknown as Entry;
}

describe("what became of a replay", () => {
  it("has the counts, and where refused records wait", () => {
    expect(outcomeOf(entry("replayed", { state: "done", loaded: 1, rejected: 5, failed: 0, problem: null }, ["F2"]))).toBe(
      "1 loaded, 5 rejected. What was refused again waits in F2.",
    );
    expect(outcomeOf(entry("replayed", { state: "done", loaded: 0, rejected: 0, failed: 2, problem: "late" }))).toBe(
      "0 loaded, 0 rejected, 2 failed. late.",
    );
  });

  it("says the reason of one that failed, and the state where nobody knows of it", () => {
    expect(outcomeOf(entry("pending", { state: "failed", problem: "away" }))).toBe("The replay failed, and the file is pending: away.");
    expect(outcomeOf(entry("replayed", null, ["F2"]))).toBe(
      "The service was started again; the file is replayed. What was refused again waits in F2.",
    );
  });
});
