/**
 * Whether the messages of a call may go now: their sender is within its rates, and they fit into their recipients' mailboxes. Asked last: a call with a fault
 * that stays is refused for that.
 */
import { ApiRefusal, BatchRefusal, type Fault } from "../problem.ts";
import type { NoRoom, Room } from "../room.ts";
import { type MessageRatesDeps, type Placed, takeMessageRates } from "./message-rates.ts";

export interface MailboxRoomDeps extends MessageRatesDeps {
  readonly room: Room;
}

/** Nobody is told when there is room again; it comes with the recipient, or with acks, which is quick. */
const RETRY_AFTER_MS: Readonly<Record<NoRoom, number>> = { "pair-full": 5_000, overloaded: 2_000 };

const DETAILS: Readonly<Record<NoRoom, string>> = {
  "pair-full": "as many of the sender's messages as may wait for this recipient do",
  overloaded: "the recipient's mailbox holds more than it should until what was evicted has left it",
};

/**
 * For an item that is no message: it counts for no rate, and takes room like one.
 *
 * @throws ApiRefusal `pair-full` or `overloaded`, of `field`
 */
export async function takeRoomForItem(
  room: Room,
  senderId: string,
  { field, itemId, recipientId }: { readonly field: string; readonly itemId: string; readonly recipientId: string },
): Promise<void> {
  const [code] = await room.take(senderId, [{ recipientId, messageId: itemId }]);
  if (code) throw new ApiRefusal(code, { field, detail: DETAILS[code], retryAfterMs: RETRY_AFTER_MS[code] });
}

/**
 * @throws BatchRefusal naming each message that has to wait, `rate-limited`, `pair-full` or `overloaded`; ApiRefusal `rate-limited` when the sender has to:
 *   then none of the call has taken anything
 */
export async function takeRoom(deps: MailboxRoomDeps, senderId: string, messages: readonly Placed[]): Promise<void> {
  if (messages.length === 0) return;
  const giveBack = await takeMessageRates(deps, senderId, messages);
  const answers = await deps.room.take(senderId, messages);
  const faults = messages.flatMap(({ pointer, messageId, recipientId }, n): Fault[] => {
    const code = answers[n] ?? null;
    if (code === null) return [];
    return [{ pointer: `${pointer}/recipient_id`, code, detail: DETAILS[code], messageId, recipientId }];
  });
  const [first, ...others] = faults;
  if (first === undefined) return;
  giveBack();
  deps.counted("messages_refused", faults.length);
  const retryAfterMs = Math.max(...answers.map((code) => (code === null ? 0 : RETRY_AFTER_MS[code])));
  throw new BatchRefusal([first, ...others], { retryAfterMs });
}
