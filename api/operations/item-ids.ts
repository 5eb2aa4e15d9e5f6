/**
 * Which ids of items are taken: their time must be about now.
 */
import { DAY_MS } from "../../protocol/limits.ts";

/** protocol.md §5: forgetting ids after 40 days is safe only if old ones cannot come back. */
const ID_AGE_MS_MAX = 7 * DAY_MS;

/** protocol.md §5: a clock that runs ahead must not decide which session is active. */
const ID_AHEAD_MS_MAX = 5 * 60 * 1000;

export interface IdFault {
  readonly code: "message-id-too-old" | "message-id-in-future";
  readonly detail: string;
}

/** `member`: which one holds the id. `idTime`: the time in it, ms since the epoch. null when it is taken. */
export function faultOfIdTime(member: string, idTime: number, nowMs: number): IdFault | null {
  if (idTime < nowMs - ID_AGE_MS_MAX) {
    return { code: "message-id-too-old", detail: `the time in ${member} is more than 7 days ago` };
  }
  if (idTime > nowMs + ID_AHEAD_MS_MAX) {
    return { code: "message-id-in-future", detail: `the time in ${member} is more than 5 minutes ahead` };
  }
  return null;
}
