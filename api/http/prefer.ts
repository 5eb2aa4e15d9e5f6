/** How long a reader would wait for mail (RFC 7240, `Prefer: wait`). */
import { WAIT_SECONDS_MAX } from "../operations/receive.ts";

/** For the documents: the request's header, and the answer's. */
export const preferWait = {
  Prefer: `wait=<seconds, 0 to ${WAIT_SECONDS_MAX}>: how long to wait for a first item (RFC 7240)`,
};
export const waitApplied = { "Preference-Applied": "wait=<seconds>, when Prefer was followed" };

/** RFC 7240: null when nothing was preferred that is understood here; more than the most is the most. */
export function waitOf(prefer: string | string[] | undefined): number | null {
  const preferences = (Array.isArray(prefer) ? prefer.join(",") : (prefer ?? "")).split(/[,;]/);
  for (const preference of preferences) {
    const match = /^\s*wait\s*=\s*"?(\d{1,6})"?\s*$/i.exec(preference);
    if (match !== null) return Math.min(Number(match[1]), WAIT_SECONDS_MAX);
  }
  return null;
}

export function appliedOf(waitSeconds: number | null): Record<string, string> {
  return waitSeconds === null ? {} : { "preference-applied": `wait=${waitSeconds}` };
}
