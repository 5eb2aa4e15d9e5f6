/**
 * Opens what waits for an agent whose keys the service holds, and answers it to that agent only.
 *
 * Promise: what was answered once is answered again until its item has ended: a lost answer costs nothing. Repeats, messages of the protocol itself
 * and what will never be of use are answered in the mailbox here; a peer that waits for a rekey gets it by way of the encryption tier. Those follow
 * the opening and may be lost: they come up again with the next call, or with the peer's next message.
 */
import { makeMessageId } from "../../protocol/message-id.ts";
import { nodeRandom } from "../../protocol/primitives/node.ts";
import { Unavailable } from "../../protocol/refusal.ts";
import type { ReceiptItem } from "../../schemas/values.ts";
import type { OpenedMailbox } from "../../store/custody/open-mailbox.ts";
import type { Caller } from "../auth.ts";
import type { Counted } from "./counters.ts";
import { type CustodyDeps, requireHeldKeys, withHeldKeys } from "./custody.ts";
import { type Appender, receiptEvents } from "./events.ts";
import { commandEvent } from "./send-messages.ts";

export interface OpenMessagesDeps extends CustodyDeps {
  readonly items: Appender;
  readonly receipts: Appender;
  readonly counted: Counted;
  /** ms since the epoch. */
  readonly now: () => number;
}

export interface OpenMessagesInput {
  /** 0 starts at the beginning. */
  readonly afterSeq: number;
  /** 1 to `OPEN_MESSAGES_MAX`. */
  readonly limit: number;
}

/** Rows are locked while so many are opened: some 20 ms. */
export const OPEN_MESSAGES_MAX = 100;

/** As much as a poll reads. */
const OPEN_BYTES_MAX = 4 * 1024 * 1024;

/** @throws ApiRefusal `custody-mismatch`, `custody-unavailable`, `keys-destroyed`, `keys-unavailable`; `Unavailable` */
export async function openMessages(
  deps: OpenMessagesDeps,
  caller: Caller,
  { afterSeq, limit }: OpenMessagesInput,
): Promise<OpenedMailbox> {
  const custody = await requireHeldKeys(deps, caller);
  const opened = await withHeldKeys(() =>
    custody.openMailbox(caller.agentId, { afterSeq, limit, maxBytes: OPEN_BYTES_MAX }),
  );
  await unlessLost(Promise.all([settle(deps, caller, opened), answerRekeys(deps, caller, opened)]));
  deps.counted("items_received", opened.messages.length);
  return opened;
}

async function settle(deps: OpenMessagesDeps, caller: Caller, { handled, refused }: OpenedMailbox): Promise<void> {
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
  if (items.length > 0) await deps.receipts.append(receiptEvents(caller.agentId, items, at));
}

async function answerRekeys(deps: OpenMessagesDeps, { agentId }: Caller, { rekeys }: OpenedMailbox): Promise<void> {
  if (rekeys.length === 0) return;
  const sentAt = deps.now();
  await deps.items.append(
    rekeys.map(({ peerId, sessionId }) =>
      commandEvent({
        kind: "rekey",
        messageId: makeMessageId(sentAt, nodeRandom),
        senderId: agentId,
        recipientId: peerId,
        sealed: new Uint8Array(),
        hmac: new Uint8Array(),
        sessionId,
        sentAt,
      }),
    ),
  );
}

async function unlessLost(work: Promise<unknown>): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (!(error instanceof Unavailable)) throw error;
  }
}
