/** An answer of the service as a view shows it: on its way, there, or refused; asked again when it may have changed. */

import { onScopeDispose, reactive, watch } from "vue";
import { ProblemError } from "../api/client";
import { live } from "./live";
import { session } from "./session";

/** The state of an answer. `value` stays while a newer one is on its way. */
export interface Answer<Value> {
  value: Value | null;
  error: ProblemError | null;
  isLoading: boolean;
  again: () => void;
}

/** Ask, and ask again when `what` changes, or the version of one of the aggregates does. */
export function useAnswer<What, Value>(
  what: () => What,
  aggregates: readonly string[],
  load: (what: What, signal: AbortSignal) => Promise<Value>,
): Answer<Value> {
  const answer = reactive({ value: null, error: null, isLoading: true, again: run }) as Answer<Value>;
  let control = new AbortController();

  async function run(): Promise<void> {
    control.abort();
    const mine = (control = new AbortController());
    answer.isLoading = true;
    try {
      const value = await load(what(), mine.signal);
      if (mine === control) Object.assign(answer, { value, error: null });
    } catch (error) {
      if (mine !== control || mine.signal.aborted) return;
      answer.error = error instanceof ProblemError ? error : new ProblemError(500, `The page failed: ${String(error)}`);
      if (answer.error.status === 429) setTimeout(() => mine === control && void run(), (answer.error.retrySeconds ?? 1) * 1_000);
    } finally {
      if (mine === control) answer.isLoading = false;
    }
  }

  watch(() => JSON.stringify(what()), () => { answer.value = null; void run(); });
  watch(() => aggregates.map((name) => live.versions[name] ?? 0).join(), (_now, before) => {
    // The versions that are heard of first are those that the first answer has.
    if (/[1-9]/.test(before)) void run();
  });
  watch(() => [session.visitor?.name, live.isConnected] as const, ([who, isConnected], [whoBefore]) => {
    if ((whoBefore !== undefined && who !== whoBefore) || (isConnected && answer.error)) void run();
  });
  onScopeDispose(() => control.abort());
  void run();
  return answer;
}
