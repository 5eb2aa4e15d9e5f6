/**
 * Opens what waits for an agent whose keys the service holds, and answers it to that agent only.
 *
 * Promise: what was answered once is answered again until its item has ended: a lost answer costs nothing. Repeats, messages of the protocol itself
 * and what will never be of use are answered in the mailbox here; a peer that waits for a rekey, or could not open something, gets it by way of the encryption
 * tier, which asks for what did not open here as well. Those follow the opening and may be lost: they come up again with a later one, in this call if it waits,
 * and wherever the caller's cursor stands.
 */
import { makeMessageId } from "../../protocol/message-id.ts";
import { nodeRandom } from "../../protocol/primitives/node.ts";
import { Unavailable } from "../../protocol/refusal.ts";
import type { ReceiptItem } from "../../schemas/values.ts";
import type { OpenedMailbox } from "../../store/custody/open-mailbox.ts";
import type { RequestKey } from "../../store/custody/requests.ts";
import type { MessageKey } from "../../store/messages.ts";
import { commandEvent, protocolCommand } from "../../streams/command-events.ts";
import { receiptEvents } from "../../streams/receipt-events.ts";
import type { Caller } from "../auth.ts";
import { requireStanding, type StandingDeps } from "../standing.ts";
import type { Counted } from "./counters.ts";
import { type CustodyDeps, requireHeldKeys, withHeldKeys } from "./custody.ts";
import { API_SOURCE, type Appender } from "./events.ts";
import type { ReceiveDeps } from "./receive.ts";

export interface OpenMessagesDeps extends CustodyDeps, StandingDeps, Pick<ReceiveDeps, "readMailbox" | "waitForMail"> {
  readonly items: Appender;
  readonly receipts: Appender;
  readonly counted: Counted;
  /** The agent is here: it needs no more waking for what waited. Never throws. */
  readonly endWakes: (agentId: string) => Promise<void>;
  /** ms since the epoch. */
  readonly now: () => number;
}

export interface OpenMessagesInput {
  /** 0 starts at the beginning. */
  readonly afterSeq: number;
  /** 1 to `OPEN_MESSAGES_MAX`. */
  readonly limit: number;
  /** How long to wait for something to tell; at most `WAIT_SECONDS_MAX` seconds, in ms. */
  readonly waitMs: number;
  /** Aborts the waiting: the client is gone. */
  readonly signal: AbortSignal;
}

/** Rows are locked while so many are opened: some 20 ms, and 100 at most, since a page ends where peers ask for more (store/custody/open-mailbox.ts). */
export const OPEN_MESSAGES_MAX = 100;

/** As much as a poll reads. */
const OPEN_BYTES_MAX = 4 * 1024 * 1024;

/** @throws ApiRefusal `agent-suspended` (while it waited), `custody-mismatch`, `custody-unavailable`, `keys-destroyed`, `keys-unavailable`; `Unavailable` */
export async function openMessages(
  deps: OpenMessagesDeps,
  caller: Caller,
  { afterSeq, limit, waitMs, signal }: OpenMessagesInput,
): Promise<OpenedMailbox> {
  const custody = await requireHeldKeys(deps, caller);
  const deadline = deps.now() + waitMs;
  for (let after = afterSeq; ; ) {
    const range = { afterSeq: after, limit, maxBytes: OPEN_BYTES_MAX };
    const [opened] = await Promise.all([
      withHeldKeys(() => custody.openMailbox(caller.agentId, range)),
      deps.endWakes(caller.agentId),
    ]);
    const isSettled = await unlessLost(async () => {
      const { due, ended } = await custody.takeRequests(caller.agentId);
      const done = [...opened.handled, ...ended.map(({ peerId, itemId }) => ({ senderId: peerId, messageId: itemId }))];
      await Promise.all([settle(deps, caller, done, opened.refused), command(deps, caller, opened, due)]);
    });
    deps.counted("items_received", opened.messages.length);
    const remainingMs = deadline - deps.now();
    const isTelling = opened.messages.length + opened.failed.length > 0;
    if (isTelling || remainingMs <= 0 || signal.aborted) return opened;
    after = opened.cursor;
    // More waits behind a page that ended before the mailbox did. What the log was not told comes up again with the next opening, behind the cursor.
    const isAtEnd = opened.cursor >= opened.lastSeq;
    if (isAtEnd && isSettled) await somethingAfter(deps, caller, after, { deadline, signal });
    else if (isAtEnd) await deps.waitForMail(caller.agentId, signal, remainingMs);
    await requireStanding(deps, caller);
  }
}

/** Until something waits after this place, or the time is over. Looking costs what a poll's look costs; opening is a transaction. */
async function somethingAfter(
  deps: OpenMessagesDeps,
  { agentId }: Caller,
  afterSeq: number,
  { deadline, signal }: { readonly deadline: number; readonly signal: AbortSignal },
): Promise<void> {
  for (;;) {
    await deps.waitForMail(agentId, signal, deadline - deps.now());
    if (signal.aborted || deps.now() >= deadline) return;
    const { items } = await deps.readMailbox(agentId, { afterSeq, limit: 1, maxBytes: 1 });
    if (items.length > 0) return;
  }
}

async function settle(
  deps: OpenMessagesDeps,
  caller: Caller,
  handled: readonly MessageKey[],
  refused: OpenedMailbox["refused"],
): Promise<void> {
  const at = deps.now();
  const end = { at, door: "none" } as const;
  const items: ReceiptItem[] = [
    ...handled.map((item) => ({
      ...end,
      outcome: "acknowledged" as const,
      senderId: item.senderId,
      itemId: item.messageId,
      code: null,
    })),
    ...refused.map((item) => ({
      ...end,
      outcome: "refused" as const,
      senderId: item.senderId,
      itemId: item.messageId,
      code: item.code,
    })),
  ];
  if (items.length > 0) await deps.receipts.append(receiptEvents(API_SOURCE, caller.agentId, items, at));
}

/** What encryption is to do: answer rekey requests, ask for what did not open, and say anew what peers could not open. */
async function command(
  deps: OpenMessagesDeps,
  { agentId: senderId }: Caller,
  { rekeys, asks }: Pick<OpenedMailbox, "rekeys" | "asks">,
  due: readonly RequestKey[],
): Promise<void> {
  const sentAt = deps.now();
  const fresh = () => ({ messageId: makeMessageId(sentAt, nodeRandom), senderId, sentAt });
  const commands = [
    ...rekeys.map(({ peerId, sessionId }) =>
      protocolCommand({ kind: "rekey", ...fresh(), recipientId: peerId, sessionId }),
    ),
    ...asks.map(({ requestId, senderId: recipientId, messageId: aboutId }) =>
      protocolCommand({ kind: "retry", messageId: requestId, senderId, recipientId, aboutId, sentAt }),
    ),
    ...due.map(({ peerId, itemId }) =>
      protocolCommand({ kind: "repair", ...fresh(), recipientId: peerId, aboutId: itemId }),
    ),
  ];
  if (commands.length > 0) await deps.items.append(commands.map((one) => commandEvent(one, API_SOURCE)));
  deps.counted("retry_requests_sent", asks.length);
}

/** The agent has its messages whatever became of what follows. False: it is lost. */
async function unlessLost(work: () => Promise<void>): Promise<boolean> {
  try {
    await work();
    return true;
  } catch (error) {
    if (!(error instanceof Unavailable)) throw error;
    return false;
  }
}
