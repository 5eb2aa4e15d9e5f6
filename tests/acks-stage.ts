/** What acks is told in its tests, and what it tells. */
import { afterAll, beforeAll } from "vitest";
import { acks } from "../consumers/acks/acks.ts";
import type {
  MessageAcknowledged,
  MessageDelivered,
  MessageDiscarded,
  MessageReceipt,
  MessageSetAside,
  MessageUndeliverable,
  Outcome,
  ReceiptItem,
} from "../schemas/values.ts";
import type { Postgres } from "../store/postgres.ts";
import type { Arrival } from "../store/queuing.ts";
import { messageReceipt } from "../streams/catalogue.ts";
import type { Emit, Inbound } from "../streams/consumer.ts";
import { inStep, openSampleDatabase } from "./messaging.ts";

let postgres: Postgres;

/** To be called once in a file of tests: a database of its own, which the functions below use. */
export function useAcks(): () => Postgres {
  beforeAll(async () => {
    postgres = await openSampleDatabase();
  });
  afterAll(() => postgres.close());
  return () => postgres;
}

export function receipt(offset: number, recipientId: string, items: readonly ReceiptItem[]): Inbound<MessageReceipt> {
  const value = { recipientId, items };
  return {
    topic: messageReceipt,
    partition: 0,
    offset,
    key: recipientId,
    value,
    headers: {},
    timestamp: 1_000 + offset,
  };
}

export function report(
  outcome: Outcome,
  { senderId, itemId }: Arrival,
  at: number,
  code: string | null = null,
): ReceiptItem {
  return { outcome, senderId, itemId, at, door: at % 2 === 0 ? "http" : "stream", code };
}

export function apply(batch: readonly Inbound<MessageReceipt>[]): Promise<readonly Emit[]> {
  return inStep(postgres, (tx) => acks.step(batch, tx));
}

/** One step for each item. */
export async function applyEach(recipientId: string, items: readonly ReceiptItem[]): Promise<readonly Emit[]> {
  const told: Emit[] = [];
  for (const [offset, item] of items.entries()) told.push(...(await apply([receipt(offset, recipientId, [item])])));
  return told;
}

type Told = Partial<MessageDelivered & MessageAcknowledged & MessageDiscarded & MessageUndeliverable & MessageSetAside>;

/** Short words for what was told, in order. */
export function words(told: readonly Emit[]): string[] {
  return told.map((emit) => {
    const value = emit.value("00000000-0000-0000-0000-000000000000") as Told;
    if (value.code !== undefined) return `${value.code}@${value.discardedAt}`;
    if (value.setAsideAt !== undefined) return `aside@${value.setAsideAt}`;
    if (value.undeliverableAt !== undefined) return `undeliverable@${value.undeliverableAt}`;
    if (value.acknowledgedAt !== undefined) return `acknowledged@${value.acknowledgedAt}`;
    return `delivered@${value.deliveredAt}`;
  });
}

export async function waiting(recipientId: string): Promise<number> {
  const { rowCount } = await postgres.query({
    text: "SELECT FROM messaging_queue WHERE recipient_id = $1",
    values: [recipientId],
  });
  return rowCount ?? 0;
}

export async function ended(recipientId: string): Promise<{ items: number; bytes: number }> {
  const { rows } = await postgres.query<{ items: number; bytes: number }>({
    text: "SELECT ended_items AS items, ended_bytes AS bytes FROM messaging_mailbox_ends WHERE recipient_id = $1",
    values: [recipientId],
  });
  return rows[0] ?? { items: 0, bytes: 0 };
}
