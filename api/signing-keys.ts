/**
 * Whose a signing key is, as `authenticate` asks it for every call that was signed by one.
 *
 * Promise: a key that was added is taken at once; one that was removed is refused after `FRESH_MS` at the latest, and one that has ended at once.
 */
import type { SigningKey } from "../store/signing-keys.ts";

/** The key of this id that is in force now; `ended`: it was; null: there is none. Throws `Unavailable`. */
export type FindSigningKey = (keyId: string) => Promise<SigningKey | "ended" | null>;

/** As a change of an agent's status (`agents.ts`). */
const FRESH_MS = 5_000;

/** Some 300 bytes each. */
const KEYS_MAX = 20_000;

/** `find`, remembered for a short time. */
export function cachedSigningKeys(find: FindSigningKey, now: () => number = Date.now): FindSigningKey {
  const known = new Map<string, { readonly key: SigningKey; readonly from: number; readonly until: number }>();
  return async (keyId) => {
    const entry = known.get(keyId);
    const nowMs = now();
    // A clock that was set back is before it.
    if (entry !== undefined && entry.from <= nowMs && nowMs < entry.until) return entry.key;
    known.delete(keyId);
    const key = await find(keyId);
    if (key === null || key === "ended") return key;
    known.set(keyId, { key, from: nowMs, until: Math.min(nowMs + FRESH_MS, key.notAfter) });
    for (const oldest of known.keys()) {
      if (known.size <= KEYS_MAX) break;
      known.delete(oldest);
    }
    return key;
  };
}
