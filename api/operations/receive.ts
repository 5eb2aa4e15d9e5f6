/**
 * Reads a mailbox: what waits after a seq, at most 100 items and 4 MiB, waiting for mail when asked to.
 *
 * Promise: nothing is skipped: seqs are dense, the answer holds every waiting item after `afterSeq` up to its last one, and the cursor
 * continues there. Reading changes nothing; an item waits until it is answered. While the agent has an open stream a poll is refused, and
 * one that waited is handed nothing when the agent was suspended meanwhile.
 */
import type { MailboxPage, StoredItem } from "../../store/mailbox.ts";
import type { Caller } from "../auth.ts";
import { ApiRefusal } from "../problem.ts";
import { requireStanding, type StandingDeps } from "../standing.ts";
import type { Counted } from "./counters.ts";

export interface ReceiveDeps extends StandingDeps {
  readonly readMailbox: (
    recipientId: string,
    range: { readonly afterSeq: number; readonly limit: number; readonly maxBytes: number },
  ) => Promise<MailboxPage>;
  /** Does the agent have an open stream anywhere? Answers false when that cannot be known. */
  readonly hasStream: (agentId: string) => Promise<boolean>;
  /** The agent is here: it needs no more waking for what waited. Never throws. */
  readonly endWakes: (agentId: string) => Promise<void>;
  /** Resolves when there may be mail, at the latest after `ms` or when the signal aborts. Never throws; may resolve for nothing. */
  readonly waitForMail: (recipientId: string, signal: AbortSignal, ms: number) => Promise<void>;
  readonly counted: Counted;
  /** ms since the epoch. */
  readonly now: () => number;
}

export interface ReceiveInput {
  /** 0 starts a sweep at the beginning. */
  readonly afterSeq: number;
  /** 1 to `RECEIVE_ITEMS_MAX` */
  readonly limit: number;
  /** How long to wait for the first item; at most `WAIT_SECONDS_MAX` seconds, in ms. */
  readonly waitMs: number;
  /** Aborts the waiting: the client is gone. */
  readonly signal: AbortSignal;
}

export interface Received {
  readonly items: readonly StoredItem[];
  /** Where the next call continues. */
  readonly cursor: number;
  readonly lastSeq: number;
}

/** As many as a call may send. */
export const RECEIVE_ITEMS_MAX = 100;

/** What a stream may have in flight, too. JSON makes 5.6 MB of it. */
const RECEIVE_BYTES_MAX = 4 * 1024 * 1024;

/** Proxies close what is silent for a minute; half of it leaves room. */
export const WAIT_SECONDS_MAX = 30;

/**
 * @throws ApiRefusal `stream-open`, `agent-suspended`; `Unavailable`
 */
export async function receive(deps: ReceiveDeps, caller: Caller, input: ReceiveInput): Promise<Received> {
  const [hasStream] = await Promise.all([deps.hasStream(caller.agentId), deps.endWakes(caller.agentId)]);
  if (hasStream) throw new ApiRefusal("stream-open");
  const deadline = deps.now() + input.waitMs;
  for (let waited = false; ; waited = true) {
    const page = await readFrom(deps, caller, input);
    if (waited && page.items.length > 0) await requireStanding(deps, caller);
    const remainingMs = deadline - deps.now();
    if (page.items.length > 0 || remainingMs <= 0 || input.signal.aborted) {
      deps.counted("items_received", page.items.length);
      return { items: page.items, cursor: cursorAfter(page), lastSeq: page.lastSeq };
    }
    await deps.waitForMail(caller.agentId, input.signal, remainingMs);
  }
}

async function readFrom(deps: ReceiveDeps, caller: Caller, { afterSeq, limit }: ReceiveInput): Promise<MailboxPage> {
  const page = await deps.readMailbox(caller.agentId, { afterSeq, limit, maxBytes: RECEIVE_BYTES_MAX });
  if (afterSeq <= page.lastSeq) return page;
  // A cursor beyond the mailbox is from before a restore: only from the start is nothing skipped.
  return deps.readMailbox(caller.agentId, { afterSeq: 0, limit, maxBytes: RECEIVE_BYTES_MAX });
}

function cursorAfter({ items, lastSeq, end }: MailboxPage): number {
  const last = items.at(-1);
  return end || last === undefined ? lastSeq : last.seq;
}
