/** The key of a visitor. It stays in the session of this tab, and is sent to this service only. */

import { reactive } from "vue";

const NAME = "etl.key";

/** Who looks at the page. `needsKey`: the service refused to answer without a valid key. */
export const session = reactive({
  key: globalThis.sessionStorage?.getItem(NAME) ?? null,
  needsKey: false,
  refused: false,
});

/** Use a key from now on. */
export function useKey(key: string): void {
  sessionStorage.setItem(NAME, key);
  Object.assign(session, { key, needsKey: false, refused: false });
}

/** Forget the key, because the service refused it or its user leaves. */
export function forgetKey(): void {
  sessionStorage.removeItem(NAME);
  Object.assign(session, { refused: session.refused || session.key !== null, key: null, needsKey: true });
}
