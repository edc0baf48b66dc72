import { afterEach, describe, expect, it, vi } from "vitest";
import { addressOf, ask, askRows, MOST_PAGES } from "./client";

/** Answer requests by a function of their address, and note them. */
function answering(answer: (url: URL, headers: Headers) => Response): URL[] {
  const asked: URL[] = [];
  vi.stubGlobal("fetch", (address: string, init?: RequestInit) => {
    const url = new URL(address, "http://service");
    asked.push(url);
    return Promise.resolve(answer(url, new Headers(init?.headers)));
  });
  return asked;
}

function page(version: number, day: string, next: string | null): Response {
  return Response.json({ columns: ["day", "count_shipments"], rows: [[day, 1]], version, next });
}

afterEach(() => vi.unstubAllGlobals());

describe("rows", () => {
  it("are read page after page, with the filters of the first", async () => {
    const asked = answering((url) => (url.searchParams.has("after") ? page(1, "b", null) : page(1, "a", "token=")));
    const found = await askRows("daily_shipments", ["day", "count_shipments"], [["carrier", "eq.A & B"]]);
    expect(found).toEqual({ rows: [{ day: "a", count_shipments: 1 }, { day: "b", count_shipments: 1 }], isCut: false });
    expect(asked.map((url) => [url.searchParams.get("carrier"), url.searchParams.get("after")])).toEqual([["eq.A & B", null], ["eq.A & B", "token="]]);
  });

  it("never mix two versions", async () => {
    let refreshes = 0;
    answering((url) => (url.searchParams.has("after") ? page((refreshes += 1) < 2 ? 2 : 3, "b", null) : page(3, "a", "t")));
    expect((await askRows("daily_shipments", ["day"], [])).rows).toHaveLength(2);
    answering((url) => page(url.searchParams.has("after") ? 2 : 1, "a", "t"));
    await expect(askRows("daily_shipments", ["day"], [])).rejects.toThrow("change faster");
  });

  it("say that there are more than are read", async () => {
    const asked = answering(() => page(1, "a", "t"));
    expect((await askRows("daily_shipments", ["day"], [])).isCut).toBe(true);
    expect(asked).toHaveLength(MOST_PAGES);
  });

  it("have an address for each condition, also two of one column", () => {
    const query = new URL(addressOf("daily_shipments", [["day", "gte.2026-01-01"], ["day", "lte.2026-01-31"]]), "http://service").searchParams;
    expect(query.getAll("day")).toEqual(["gte.2026-01-01", "lte.2026-01-31"]);
  });
});

describe("a problem", () => {
  it("has the words of the service, or says what is known of it", async () => {
    answering(() => Response.json({ detail: "took too long" }, { status: 503, headers: { "Retry-After": "7" } }));
    await expect(ask("/x")).rejects.toMatchObject({ status: 503, message: "took too long", retrySeconds: 7 });
    answering(() => new Response("<html>", { status: 502 }));
    await expect(ask("/x")).rejects.toMatchObject({ status: 502, message: "The service answered 502.", retrySeconds: null });
    vi.stubGlobal("fetch", () => Promise.reject(new TypeError("refused")));
    await expect(ask("/x")).rejects.toMatchObject({ status: 0, message: "The service cannot be reached." });
  });
});
