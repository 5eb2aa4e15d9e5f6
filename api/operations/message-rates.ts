/**
 * How many messages a sender may send, to all and to each recipient, whatever the door.
 */
import { BatchRefusal, type Fault } from "../problem.ts";
import { type RateDeps, rateLimited, tooManyOf } from "../rate-limits.ts";
import type { Counted } from "./counters.ts";

export interface MessageRatesDeps extends RateDeps {
  readonly counted: Counted;
}

/** A message of the call, and where it stands there (`/envelopes/3`). */
export interface Placed {
  readonly pointer: string;
  readonly messageId: string;
  readonly recipientId: string;
}

/**
 * Takes for all messages of a call, or for none.
 *
 * @returns gives back what was taken: the call did not happen
 * @throws ApiRefusal `rate-limited` for the sender; BatchRefusal naming each message to a recipient that got too many
 */
export async function takeMessageRates(
  { rates, rateLimits: { messages: ofSender, pair }, counted }: MessageRatesDeps,
  senderId: string,
  messages: readonly Placed[],
): Promise<() => void> {
  const ofAll = await rates.take(ofSender, senderId, messages.length);
  if (!ofAll.allowed) {
    counted("messages_refused", messages.length);
    throw rateLimited("messages", ofSender, ofAll);
  }
  const counts = new Map<string, number>();
  for (const { recipientId } of messages) counts.set(recipientId, (counts.get(recipientId) ?? 0) + 1);
  const taken = await Promise.all(
    [...counts].map(async ([recipientId, count]) => {
      return { recipientId, ...(await rates.take(pair, `${senderId}:${recipientId}`, count)) };
    }),
  );
  const giveBack = () => {
    ofAll.giveBack();
    for (const one of taken) one.giveBack();
  };
  const over = new Map(taken.filter(({ allowed }) => !allowed).map((one) => [one.recipientId, one]));
  const faults = messages.flatMap(({ pointer, messageId, recipientId }): Fault[] => {
    if (!over.has(recipientId)) return [];
    const detail = tooManyOf("pair", pair);
    return [{ pointer: `${pointer}/recipient_id`, code: "rate-limited", detail, messageId, recipientId }];
  });
  const [first, ...others] = faults;
  if (first === undefined) return giveBack;
  giveBack();
  counted("messages_refused", faults.length);
  const retryAfterMs = Math.max(...[...over.values()].map(({ resetMs }) => resetMs));
  throw new BatchRefusal([first, ...others], { retryAfterMs, policy: "pair" });
}
