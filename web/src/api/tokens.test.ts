import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { forget, hold, session } from "../state/session";
import { ask, ProblemError } from "./client";
import { signIn } from "./tokens";

interface Asked {
  path: string;
  bearer: string | null;
  body: string;
}

const stored = new Map<string, string>();
const asked: Asked[] = [];

/** Answer requests by a function of their path and key, and note them. */
function answering(answer: (request: Asked) => Response): void {
  vi.stubGlobal("fetch", (address: string, init: RequestInit = {}) => {
    const request = { path: address, bearer: new Headers(init.headers).get("Authorization"), body: String(init.body ?? "") };
    asked.push(request);
    return Promise.resolve(answer(request));
  });
}

function issued(number: number): Response {
  return Response.json({ access_token: `a.b.${number}`, expires_in: 900, refresh_token: `etlr_${number}` });
}

beforeEach(() => {
  vi.useFakeTimers();
  stored.clear();
  asked.length = 0;
  vi.stubGlobal("sessionStorage", {
    getItem: (name: string) => stored.get(name) ?? null,
    setItem: (name: string, value: string) => stored.set(name, value),
    removeItem: (name: string) => stored.delete(name),
  });
  Object.assign(session, { held: null, needsKey: false, reason: "", visitor: null });
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

describe("a key", () => {
  it("is exchanged for tokens, and no secret but the token of minutes is written while the tab lives", async () => {
    answering(() => issued(1));
    await signIn("etl_key");
    expect(asked[0]).toMatchObject({ path: "/v1/token", bearer: "Bearer etl_key" });
    expect(session.held).toMatchObject({ bearer: "a.b.1", refresh: "etlr_1" });
    expect([...stored.values()].join()).toContain("a.b.1");
    expect([...stored.values()].join()).not.toMatch(/etlr_|etl_key/);
  });

  it("is used itself where the service gives no tokens, and so is a token", async () => {
    answering(() => new Response("", { status: 404 }));
    await signIn("etl_key");
    expect(session.held?.bearer).toBe("etl_key");
    await signIn("a.b.c");
    expect(session.held?.bearer).toBe("a.b.c");
    expect(asked).toHaveLength(1);
  });

  it("that is refused is forgotten, with the reason", async () => {
    answering(() => Response.json({}, { status: 401 }));
    await signIn("etl_wrong");
    expect(session).toMatchObject({ held: null, needsKey: true, reason: "refused" });
  });

  it("is not forgotten for a late answer to an earlier request", async () => {
    hold({ bearer: "old" });
    answering(({ bearer }) => {
      if (bearer === "Bearer old") hold({ bearer: "new" });
      return Response.json({}, { status: bearer === "Bearer old" ? 401 : 200 });
    });
    expect((await ask("/v1/freshness")).ok).toBe(true);
    expect(session.held?.bearer).toBe("new");
  });

  it("says that a session has ended, when it was valid before", async () => {
    hold({ bearer: "etl_key" });
    session.visitor = { name: "key 1", role: "analyst", may_replay: false };
    answering(() => Response.json({ detail: "no" }, { status: 401 }));
    await expect(ask("/v1/freshness")).rejects.toBeInstanceOf(ProblemError);
    expect(session).toMatchObject({ held: null, needsKey: true, reason: "ended" });
  });
});

describe("a token", () => {
  it("is renewed once before its end, also when several requests come at the same time", async () => {
    let number = 0;
    answering(({ path }) => (path === "/v1/token" ? issued((number += 1)) : Response.json({})));
    await signIn("etl_key");
    vi.advanceTimersByTime(850_000);
    await Promise.all([ask("/a"), ask("/b"), ask("/c")]);
    const renewals = asked.filter((each) => each.path === "/v1/token");
    expect(renewals.map((each) => each.body)).toEqual(["", '{"refresh_token":"etlr_1"}']);
    expect(asked.filter((each) => each.path.length === 2).map((each) => each.bearer)).toEqual(Array(3).fill("Bearer a.b.2"));
  });

  it("is renewed when the service refuses it early, and the request is sent again", async () => {
    let number = 0;
    answering(({ path, bearer }) => (path === "/v1/token" ? issued((number += 1)) : Response.json({}, { status: bearer === "Bearer a.b.1" ? 401 : 200 })));
    await signIn("etl_key");
    expect((await ask("/a")).ok).toBe(true);
    expect(session.held).toMatchObject({ bearer: "a.b.2", refresh: "etlr_2" });
  });

  it("is never renewed twice with one refresh token after an answer that was lost", async () => {
    answering(() => issued(1));
    await signIn("etl_key");
    const tried: string[] = [];
    vi.stubGlobal("fetch", (path: string) => {
      tried.push(path);
      return path === "/v1/token" ? Promise.reject(new TypeError("lost")) : Promise.resolve(Response.json({}));
    });
    vi.advanceTimersByTime(850_000);
    await ask("/a");
    await ask("/b");
    expect(tried.filter((path) => path === "/v1/token")).toHaveLength(1);
  });

  it("keeps its refresh token while there is no network", async () => {
    answering(() => issued(1));
    await signIn("etl_key");
    vi.stubGlobal("fetch", () => Promise.reject(new TypeError("no network")));
    vi.advanceTimersByTime(850_000);
    await expect(ask("/a")).rejects.toMatchObject({ status: 0 });
    expect(session.held?.refresh).toBe("etlr_1");
  });

  it("ends with its user", async () => {
    answering(() => issued(1));
    await signIn("etl_key");
    forget("");
    expect(stored.size).toBe(0);
    expect(session).toMatchObject({ held: null, needsKey: true, reason: "" });
  });
});
