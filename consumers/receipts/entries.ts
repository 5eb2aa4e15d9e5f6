/**
 * News as gateways get it: what became of messages, prekeys that run low, requests of contacts, and mailboxes that must be read from their start again. Pure.
 */
import { Refusal } from "../../protocol/refusal.ts";
import { isTimestamp } from "../../protocol/timestamp.ts";
import type {
  AgentChanged,
  MessageAcknowledged,
  MessageDelivered,
  MessageDiscarded,
  MessageRetried,
  MessageUndeliverable,
  PrekeyLow,
} from "../../schemas/values.ts";
import type { NoticeEntry, ReceiptEntry, ReconnectEntry } from "../../store/handover.ts";
import type { Presence } from "../../store/presence.ts";
import type { Inbound } from "../../streams/consumer.ts";

type Fate = MessageDelivered | MessageAcknowledged | MessageDiscarded | MessageUndeliverable;

export type News = Fate | MessageRetried | PrekeyLow | AgentChanged;

type Entry = NoticeEntry | ReceiptEntry | ReconnectEntry;

/** @throws Refusal */
export function checkNews({ value }: Inbound<News>): void {
  const entry = entryOf(value);
  if (entry.type === "receipt" && !isTimestamp(entry.at)) throw new Refusal("malformed");
}

/**
 * Whom it concerns: a message's sender, whose prekeys they are, whom an agent asks or has accepted as a contact, or who could not see an item and now can. Null when the service itself sees to them, and for other bytes under a used id: told as
 * a receipt, it would be taken for the end of the message of that id, which goes on.
 */
export function addresseeOf(news: News): string | null {
  if ("retriedAt" in news) return news.wasSetAside ? news.recipientId : null;
  if ("discardedAt" in news && news.code === "id-reused") return null;
  if ("senderId" in news) return news.senderId;
  if ("change" in news) return isOfContacts(news) ? (news.peerId ?? null) : null;
  return news.custody === "agent" ? news.agentId : null;
}

/** For each gateway what concerns its agents, in the order of the batch. */
export function entriesByGateway(
  batch: readonly Inbound<News>[],
  present: ReadonlyMap<string, Presence>,
): ReadonlyMap<string, readonly Entry[]> {
  const byGateway = new Map<string, Entry[]>();
  const reconnecting = new Set<string>();
  for (const { value } of batch) {
    const agentId = addresseeOf(value);
    const presence = agentId === null ? undefined : present.get(agentId);
    if (agentId === null || presence === undefined) continue;
    if ("retriedAt" in value) {
      // However many of its items are handed out again.
      if (reconnecting.has(agentId)) continue;
      reconnecting.add(agentId);
    }
    const entries = byGateway.get(presence.gatewayId) ?? [];
    entries.push(entryOf(value));
    byGateway.set(presence.gatewayId, entries);
  }
  return byGateway;
}

/** A refusal's code, or the recipient's rule, says why; of the other ends, the end itself does (an operator's reason is the operators'). */
function entryOf(news: News): Entry {
  if ("retriedAt" in news) return { type: "reconnect", agentId: news.recipientId };
  if ("change" in news) {
    const kind = news.change === "contact-requested" ? "contact-requested" : "contact-accepted";
    return { type: "notice", agentId: news.peerId ?? "", kind };
  }
  if (!("senderId" in news)) return { type: "notice", agentId: news.agentId, kind: "prekeys-low" };
  const { senderId: agentId, messageId, recipientId } = news;
  const about = { type: "receipt", agentId, messageId, recipientId } as const;
  if ("discardedAt" in news) return { ...about, status: "discarded", at: news.discardedAt, code: codeOf(news) };
  if ("undeliverableAt" in news) return { ...about, status: "undeliverable", at: news.undeliverableAt, code: null };
  if ("acknowledgedAt" in news) return { ...about, status: "acknowledged", at: news.acknowledgedAt, code: null };
  return { ...about, status: "delivered", at: news.deliveredAt, code: null };
}

function isOfContacts({ change }: AgentChanged): boolean {
  return change === "contact-requested" || change === "contact-accepted";
}

function codeOf({ code, detail }: MessageDiscarded): string {
  return code === "refused" || code === "not-allowed" ? (detail ?? code) : code;
}

/** How long each message took to its first delivery. */
export function deliverySeconds(batch: readonly Inbound<News>[]): readonly number[] {
  return batch.flatMap(({ value }) =>
    "deliveredAt" in value && !("acknowledgedAt" in value) ? [(value.deliveredAt - value.acceptedAt) / 1000] : [],
  );
}
