/**
 * Receipts as gateways get them. Pure.
 */
import type { MessageAcknowledged, MessageDelivered, MessageDiscarded } from "../../schemas/values.ts";
import type { ReceiptEntry } from "../../store/handover.ts";
import type { Presence } from "../../store/presence.ts";
import type { Inbound } from "../../streams/consumer.ts";

export type Fate = MessageDelivered | MessageAcknowledged | MessageDiscarded;

/** For each gateway what concerns its agents, in the order of the batch. */
export function entriesByGateway(
  batch: readonly Inbound<Fate>[],
  present: ReadonlyMap<string, Presence>,
): ReadonlyMap<string, readonly ReceiptEntry[]> {
  const byGateway = new Map<string, ReceiptEntry[]>();
  for (const { value } of batch) {
    const presence = present.get(value.senderId);
    if (presence === undefined) continue;
    const entries = byGateway.get(presence.gatewayId) ?? [];
    entries.push(entryOf(value));
    byGateway.set(presence.gatewayId, entries);
  }
  return byGateway;
}

/** A refusal's code says why; of the other ends, the end itself does. */
function entryOf(fate: Fate): ReceiptEntry {
  const { senderId: agentId, messageId, recipientId } = fate;
  const about = { type: "receipt", agentId, messageId, recipientId } as const;
  if ("discardedAt" in fate)
    return { ...about, status: "discarded", at: fate.discardedAt, code: fate.detail ?? fate.code };
  if ("acknowledgedAt" in fate) return { ...about, status: "acknowledged", at: fate.acknowledgedAt, code: null };
  return { ...about, status: "delivered", at: fate.deliveredAt, code: null };
}

/** How long each message took to its first delivery. */
export function deliverySeconds(batch: readonly Inbound<Fate>[]): readonly number[] {
  return batch.flatMap(({ value }) =>
    "deliveredAt" in value && !("acknowledgedAt" in value) ? [(value.deliveredAt - value.acceptedAt) / 1000] : [],
  );
}
