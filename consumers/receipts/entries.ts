/**
 * News as gateways get it: what became of messages, and prekeys that run low. Pure.
 */
import type { MessageAcknowledged, MessageDelivered, MessageDiscarded, PrekeyLow } from "../../schemas/values.ts";
import type { NoticeEntry, ReceiptEntry } from "../../store/handover.ts";
import type { Presence } from "../../store/presence.ts";
import type { Inbound } from "../../streams/consumer.ts";

type Fate = MessageDelivered | MessageAcknowledged | MessageDiscarded;

export type News = Fate | PrekeyLow;

/** Whom it concerns: a message's sender, or whose prekeys they are. Null when the service itself sees to them. */
export function addresseeOf(news: News): string | null {
  if ("senderId" in news) return news.senderId;
  return news.custody === "agent" ? news.agentId : null;
}

/** For each gateway what concerns its agents, in the order of the batch. */
export function entriesByGateway(
  batch: readonly Inbound<News>[],
  present: ReadonlyMap<string, Presence>,
): ReadonlyMap<string, readonly (ReceiptEntry | NoticeEntry)[]> {
  const byGateway = new Map<string, (ReceiptEntry | NoticeEntry)[]>();
  for (const { value } of batch) {
    const agentId = addresseeOf(value);
    const presence = agentId === null ? undefined : present.get(agentId);
    if (presence === undefined) continue;
    const entries = byGateway.get(presence.gatewayId) ?? [];
    entries.push(entryOf(value));
    byGateway.set(presence.gatewayId, entries);
  }
  return byGateway;
}

/** A refusal's code says why; of the other ends, the end itself does. */
function entryOf(news: News): ReceiptEntry | NoticeEntry {
  if (!("senderId" in news)) return { type: "notice", agentId: news.agentId, kind: "prekeys-low" };
  const { senderId: agentId, messageId, recipientId } = news;
  const about = { type: "receipt", agentId, messageId, recipientId } as const;
  if ("discardedAt" in news)
    return { ...about, status: "discarded", at: news.discardedAt, code: news.detail ?? news.code };
  if ("acknowledgedAt" in news) return { ...about, status: "acknowledged", at: news.acknowledgedAt, code: null };
  return { ...about, status: "delivered", at: news.deliveredAt, code: null };
}

/** How long each message took to its first delivery. */
export function deliverySeconds(batch: readonly Inbound<News>[]): readonly number[] {
  return batch.flatMap(({ value }) =>
    "deliveredAt" in value && !("acknowledgedAt" in value) ? [(value.deliveredAt - value.acceptedAt) / 1000] : [],
  );
}
