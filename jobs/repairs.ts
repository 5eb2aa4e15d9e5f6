/**
 * Works off what peers ask agents of server custody to say anew (protocol.md §4, Repair): also for agents that only send, and what could not be answered
 * before.
 *
 * It hands requests to the encryption tier, which decides about each: a request is told again as long as it waits in its mailbox. What there is nothing to say to is
 * acknowledged from here, as by a reader's call: the tier's log is not filled with it while the tier is away.
 */
import { makeMessageId } from "../protocol/message-id.ts";
import { nodeRandom } from "../protocol/primitives/node.ts";
import type { MessageSend, ReceiptItem } from "../schemas/values.ts";
import { findAskedOwners, type RequestKey, takeRequests } from "../store/custody/requests.ts";
import type { Postgres } from "../store/postgres.ts";
import { commandEvent, protocolCommand } from "../streams/command-events.ts";
import type { NewEvent } from "../streams/headers.ts";
import { receiptEvents } from "../streams/receipt-events.ts";

export interface RepairsDeps {
  readonly postgres: Postgres;
  /** Resolves when Kafka has them. @throws Unavailable */
  readonly append: <Value>(events: readonly NewEvent<Value>[]) => Promise<void>;
}

/** Every minute: nobody who reads waits for it (api/operations/open-messages.ts looks as well). */
export const repairsCron = "* * * * *";

/** `ce_source`. */
const SOURCE = "/sealpost/jobs";

const OWNERS_MAX = 200;

/**
 * @param now ms since the epoch
 * @param signal ends it between two mailboxes
 * @throws Unavailable; what was told until then stays told
 */
export async function answerRequests(
  { postgres, append }: RepairsDeps,
  now: number,
  signal: AbortSignal,
): Promise<void> {
  let afterId = "";
  for (;;) {
    const owners = await findAskedOwners(postgres, afterId, OWNERS_MAX);
    for (const ownerId of owners) {
      if (signal.aborted) return;
      await answerMailbox({ postgres, append }, ownerId, now);
    }
    const last = owners.at(-1);
    if (last === undefined || owners.length < OWNERS_MAX) return;
    afterId = last;
  }
}

async function answerMailbox({ postgres, append }: RepairsDeps, ownerId: string, now: number): Promise<void> {
  for (let from: number | null = 0; from !== null; ) {
    const { due, ended, afterSeq } = await takeRequests(postgres, ownerId, now, from);
    if (due.length > 0) await append(due.map((key) => commandEvent(commandOf(key, now), SOURCE)));
    const ends = ended.map((key) => endOf(key, now));
    if (ends.length > 0) await append(receiptEvents(SOURCE, ownerId, ends, now));
    from = afterSeq;
  }
}

function endOf({ peerId: senderId, itemId }: RequestKey, at: number): ReceiptItem {
  return { outcome: "acknowledged", senderId, itemId, at, door: "none", code: null };
}

function commandOf({ ownerId, peerId, itemId }: RequestKey, now: number): MessageSend {
  const messageId = makeMessageId(now, nodeRandom);
  return protocolCommand({
    kind: "repair",
    messageId,
    senderId: ownerId,
    recipientId: peerId,
    aboutId: itemId,
    sentAt: now,
  });
}
