/**
 * What agents used, by the hour: the counts of `messaging_usage`, folded from what was stored and what has ended. Pure.
 *
 * A place of a mailbox is stored once, and ends once, however often that is told.
 */
import { isAgentId } from "../protocol/identity.ts";
import { isTimestamp } from "../protocol/timestamp.ts";
import { messageAcknowledged, messageDiscarded, messageQueued } from "../streams/catalogue.ts";
import { type Fold, type FoldedRow, on } from "./folding.ts";

const HOUR_MS = 60 * 60 * 1000;

const nothing = {
  messages_sent: 0,
  bytes_sent: 0,
  messages_received: 0,
  bytes_received: 0,
  messages_acknowledged: 0,
  bytes_acknowledged: 0,
  messages_discarded: 0,
  bytes_discarded: 0,
};

type Direction = "sent" | "received" | "acknowledged" | "discarded";

interface Placed {
  readonly senderId: string;
  readonly recipientId: string;
  readonly seq: number;
}

/** What is of nobody, or of no time, is passed over by its reader, too. */
function isCounted({ senderId, recipientId }: Placed, at: number): boolean {
  return isAgentId(senderId) && isAgentId(recipientId) && isTimestamp(at);
}

export function foldUsage(): Fold {
  const hours = new Map<string, { readonly since: number; columns: typeof nothing }>();
  const stored = new Set<string>();
  const ended = new Set<string>();

  const add = (agentId: string, at: number, direction: Direction, size: number) => {
    const since = Math.floor(at / HOUR_MS) * HOUR_MS;
    const name = `${agentId}/${since}`;
    const columns = { ...(hours.get(name)?.columns ?? nothing) };
    columns[`messages_${direction}`] += 1;
    columns[`bytes_${direction}`] += size;
    hours.set(name, { since, columns });
  };
  const isFirst = (places: Set<string>, { recipientId, seq }: Placed) => {
    const before = places.size;
    return places.add(`${recipientId}/${seq}`).size > before;
  };

  return {
    handlers: [
      on(messageQueued, ({ value }) => {
        if (value.kind !== "message" || !isCounted(value, value.queuedAt) || !isFirst(stored, value)) return;
        add(value.senderId, value.queuedAt, "sent", value.size);
        add(value.recipientId, value.queuedAt, "received", value.size);
      }),
      on(messageAcknowledged, ({ value }) => {
        if (!isCounted(value, value.acknowledgedAt)) return;
        if (isFirst(ended, value)) add(value.recipientId, value.acknowledgedAt, "acknowledged", value.size);
      }),
      on(messageDiscarded, ({ value: { senderId, recipientId, seq, size, discardedAt } }) => {
        if (typeof seq !== "number" || typeof size !== "number") return;
        const place = { senderId, recipientId, seq };
        if (isCounted(place, discardedAt) && isFirst(ended, place)) add(recipientId, discardedAt, "discarded", size);
      }),
    ],
    tables: () => {
      const reads = [messageQueued, messageAcknowledged, messageDiscarded];
      return [{ table: "messaging_usage", reads, rows: new Map<string, FoldedRow>(hours), says: "rows" }];
    },
  };
}
