/** Who looks at the page, and what the service is asked with: a key, or tokens that the key was exchanged for. */

import { computed, reactive } from "vue";
import type { components } from "../api/schema";

/** What is sent with each request. `refresh` and `until` (milliseconds) are those of a token that can be renewed. */
export interface Held {
  bearer: string;
  refresh?: string | undefined;
  until?: number | undefined;
}

const NAME = "etl.session";

function stored(): Held | null {
  try {
    const found = JSON.parse(sessionStorage.getItem(NAME) ?? "null") as Held | null;
    return typeof found?.bearer === "string" ? found : null;
  } catch {
    return null;
  }
}

/**
 * The state of the visitor. `needsKey`: the service refused to answer. `reason`: why it asks again: the key that was
 * given is not valid, or a session that was valid has ended.
 */
export const session = reactive({
  held: stored(),
  needsKey: false,
  reason: "" as "" | "refused" | "ended",
  visitor: null as components["schemas"]["Visitor"] | null,
});

/** Whether the visitor may see runs, failures and sources. */
export const isOperator = computed(() => session.visitor !== null && session.visitor.role !== "analyst");

/** Use a key or tokens from now on. */
export function hold(held: Held): void {
  Object.assign(session, { held, needsKey: false, reason: "", visitor: null });
  write(false);
}

/** Replace the tokens by newer ones of the same visitor. */
export function renew(held: Held): void {
  session.held = held;
  write(false);
}

/** Forget the key, because the service refused it or its user leaves. */
export function forget(reason: "" | "refused" | "ended"): void {
  sessionStorage.removeItem(NAME);
  Object.assign(session, { held: null, needsKey: true, reason, visitor: null });
}

/**
 * Write the session for a reload of the tab. A refresh token is written only when the page is left: a second tab that
 * the browser makes of this one must not have it, because a refresh token that is used twice ends all of its key.
 */
function write(withRefresh: boolean): void {
  if (session.held) sessionStorage.setItem(NAME, JSON.stringify({ ...session.held, refresh: withRefresh ? session.held.refresh : undefined }));
}

/** Keep the session over a reload. */
export function keepOverReload(): void {
  write(false);
  addEventListener("pagehide", () => write(true));
  addEventListener("pageshow", (event) => event.persisted && write(false));
}
