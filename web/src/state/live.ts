/** How fresh the data are, and word of each refresh as it comes. */

import { reactive, watch } from "vue";
import { ask, askJson, ProblemError } from "../api/client";
import type { components } from "../api/schema";
import { readEvents } from "../api/stream";
import { session } from "./session";

export type Freshness = components["schemas"]["Freshness"];

const RETRY_MS = [1_000, 2_000, 5_000, 15_000] as const;
const LOOK_MS = 60_000;
const SETTLE_MS = 2_500;

/** What is known of the data now. `at` moves on, so that an age grows while nobody reloads. */
export const live = reactive({
  isConnected: false,
  isLost: false,
  hasLooked: false,
  error: null as string | null,
  at: Date.now(),
  freshness: {} as Record<string, Freshness>,
  versions: {} as Record<string, number | null>,
  loads: 0,
});

/** Take an event of the stream: the version of an aggregate, or word of loads. */
export function take(event: { event: string; data: string }): void {
  if (event.event === "loaded") live.loads += 1;
  if (event.event !== "state" && event.event !== "refresh") return;
  const read = JSON.parse(event.data) as { aggregate: string; version: number | null };
  live.versions[read.aggregate] = read.version;
}

/** Ask how fresh all aggregates are. */
export async function look(): Promise<void> {
  live.at = Date.now();
  try {
    const [answer, visitor] = await Promise.all([
      askJson<components["schemas"]["FreshnessList"]>("/v1/freshness"),
      session.visitor ?? askJson<components["schemas"]["Visitor"]>("/v1/identity"),
    ]);
    session.visitor = visitor;
    for (const each of answer.freshness) {
      live.freshness[each.aggregate] = each;
      live.versions[each.aggregate] = each.version;
    }
    live.error = null;
    live.hasLooked = true;
  } catch (error) {
    live.error = error instanceof ProblemError ? error.message : String(error);
  }
}

/** Follow the service until the page is left. */
export async function follow(): Promise<never> {
  let failures = 0;
  setInterval(() => {
    live.at = Date.now();
    if (!session.needsKey) void look();
  }, LOOK_MS);
  for (;;) {
    if (!session.needsKey) {
      try {
        await look();
        if (!session.needsKey) await listen(() => {
          failures = 0;
        });
      } catch (error) {
        if (error instanceof ProblemError && error.retrySeconds) await pause(error.retrySeconds * 1_000);
      }
      Object.assign(live, { isConnected: false, isLost: true });
    }
    await pause(session.needsKey ? 200 : (RETRY_MS[failures] ?? 15_000));
    if (!session.needsKey) failures += 1;
  }
}

async function listen(hasBegun: () => void): Promise<void> {
  // The stream of one who signs out ends, so that the next one is looked up.
  const control = new AbortController();
  const unwatch = watch(() => session.needsKey, (needsKey) => needsKey && control.abort(), { flush: "sync" });
  try {
    const answer = await ask("/v1/stream", { headers: { Accept: "text/event-stream" }, cache: "no-store", signal: control.signal });
    if (!answer.body) return;
    Object.assign(live, { isConnected: true, isLost: false });
    hasBegun();
    let timer: ReturnType<typeof setTimeout> | undefined;
    await readEvents(answer.body, (event) => {
      take(event);
      if (event.event !== "refresh") return;
      // The event has the version; what else is new of the freshness is known to the service a moment later.
      clearTimeout(timer);
      timer = setTimeout(() => void look(), SETTLE_MS);
    });
  } finally {
    unwatch();
  }
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
