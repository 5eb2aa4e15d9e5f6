/**
 * Where stored items go. Pure.
 */
import { isAgentId } from "../../protocol/identity.ts";
import { Refusal } from "../../protocol/refusal.ts";
import { isTimestamp } from "../../protocol/timestamp.ts";
import type { MessageQueued, PushRequested } from "../../schemas/values.ts";
import type { ItemEntry } from "../../store/handover.ts";
import type { AgentPresence, Presence } from "../../store/presence.ts";
import { pushRequested } from "../../streams/catalogue.ts";
import type { Emit, Inbound } from "../../streams/consumer.ts";

type Queued = Inbound<MessageQueued>;
type Stored = Pick<Queued, "value">;

/** @throws Refusal */
export function checkQueued({ value: { senderId, recipientId, queuedAt } }: Queued): void {
  if (!isAgentId(senderId) || !isAgentId(recipientId) || !isTimestamp(queuedAt)) throw new Refusal("malformed");
}

export interface Destinations<Item extends Stored> {
  /** In order for each recipient. */
  readonly byGateway: ReadonlyMap<string, readonly Item[]>;
  readonly absent: readonly Item[];
}

export function sortByGateway<Item extends Stored>(
  batch: readonly Item[],
  present: ReadonlyMap<string, Presence>,
): Destinations<Item> {
  const byGateway = new Map<string, Item[]>();
  const absent: Item[] = [];
  for (const record of batch) {
    const presence = present.get(record.value.recipientId);
    if (presence === undefined) {
      absent.push(record);
      continue;
    }
    const records = byGateway.get(presence.gatewayId);
    if (records === undefined) byGateway.set(presence.gatewayId, [record]);
    else records.push(record);
  }
  return { byGateway, absent };
}

/** Of the items' recipients, each once. */
export function presencesOf(
  items: readonly Stored[],
  present: ReadonlyMap<string, Presence>,
): readonly AgentPresence[] {
  return [...new Set(items.map(({ value }) => value.recipientId))].flatMap((agentId) => {
    const presence = present.get(agentId);
    return presence === undefined ? [] : [{ agentId, ...presence }];
  });
}

export function itemEntry({ value }: Stored): ItemEntry {
  const { recipientId: agentId, seq, kind, senderId, itemId, body } = value;
  return { type: "item", agentId, seq, kind, senderId, itemId, body };
}

/** One for each recipient, caused by its latest item. */
export function pushRequests(records: readonly Queued[]): readonly Emit<PushRequested>[] {
  const latest = new Map<string, Queued>();
  for (const record of records) {
    const before = latest.get(record.value.recipientId);
    if (before === undefined || before.value.seq < record.value.seq) latest.set(record.value.recipientId, record);
  }
  return [...latest.values()].map((record) => {
    const { recipientId, seq, queuedAt } = record.value;
    return {
      topic: pushRequested,
      key: recipientId,
      cause: record,
      time: queuedAt,
      subject: recipientId,
      value: () => ({ recipientId, seq, requestedAt: queuedAt }),
    };
  });
}
