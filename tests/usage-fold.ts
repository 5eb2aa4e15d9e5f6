/**
 * What the log itself says was used, counted by the plainest rule there is: every `ce_id` once, every message by itself. Nothing of it is shared with the
 * metering consumer.
 */
import type {
  MessageAcknowledged,
  MessageDiscarded,
  MessageQueued,
  UsageCounts,
  UsageStored,
} from "../schemas/values.ts";

type Who = "senderId" | "recipientId" | "size";

/** What counts of the values of the three topics. */
export type Counted =
  | Pick<MessageQueued, Who | "kind" | "queuedAt">
  | Pick<MessageAcknowledged, Who | "deliveredAt" | "acknowledgedAt">
  | Pick<MessageDiscarded, Who | "discardedAt">;

export interface LoggedRecord<Value extends Counted = Counted> {
  readonly ceId: string;
  readonly value: Value;
}

/** By agent and beginning of the hour: `agent hour`. */
export type UsageByHour = ReadonlyMap<string, UsageCounts & UsageStored>;

const hourMs = 3_600_000;
const nobody = {
  messagesSent: 0,
  bytesSent: 0,
  messagesReceived: 0,
  bytesReceived: 0,
  messagesAcknowledged: 0,
  bytesAcknowledged: 0,
  messagesDiscarded: 0,
  bytesDiscarded: 0,
  messagesStored: 0,
  bytesStored: 0,
};

/** What the records say was used, in any order and with any repeats. */
export function usageByFold(records: readonly LoggedRecord[]): UsageByHour {
  const once = [...new Map(records.map((record) => [record.ceId, record.value])).values()];
  const rows = new Map<string, { -readonly [Name in keyof typeof nobody]: number }>();
  const moves: { readonly agentId: string; readonly at: number; readonly messages: number; readonly bytes: number }[] =
    [];
  const rowOf = (agentId: string, at: number) => {
    const name = `${agentId} ${Math.floor(at / hourMs) * hourMs}`;
    const row = rows.get(name) ?? { ...nobody };
    rows.set(name, row);
    return row;
  };
  for (const value of once) {
    const { senderId, recipientId } = value;
    if ("queuedAt" in value && !("deliveredAt" in value)) {
      if (value.kind !== "message") continue;
      const [sender, at] = [rowOf(senderId, value.queuedAt), value.queuedAt];
      sender.messagesSent += 1;
      sender.bytesSent += value.size;
      const recipient = rowOf(recipientId, at);
      recipient.messagesReceived += 1;
      recipient.bytesReceived += value.size;
      moves.push({ agentId: recipientId, at, messages: 1, bytes: value.size });
    } else if ("acknowledgedAt" in value) {
      const row = rowOf(recipientId, value.acknowledgedAt);
      row.messagesAcknowledged += 1;
      row.bytesAcknowledged += value.size;
      moves.push({ agentId: recipientId, at: value.acknowledgedAt, messages: -1, bytes: -value.size });
    } else if ("discardedAt" in value && typeof value.size === "number") {
      const row = rowOf(recipientId, value.discardedAt);
      row.messagesDiscarded += 1;
      row.bytesDiscarded += value.size;
      moves.push({ agentId: recipientId, at: value.discardedAt, messages: -1, bytes: -value.size });
    }
  }
  for (const [name, row] of rows) {
    const [agentId, hour] = name.split(" ");
    const before = moves.filter((move) => move.agentId === agentId && move.at < Number(hour) + hourMs);
    row.messagesStored = before.reduce((sum, { messages }) => sum + messages, 0);
    row.bytesStored = before.reduce((sum, { bytes }) => sum + bytes, 0);
  }
  return rows;
}
