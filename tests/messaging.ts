/**
 * What tests of mailboxes need: a database of their own, and items to put into it.
 */
import { randomBytes } from "node:crypto";
import { makeMessageId } from "../protocol/message-id.ts";
import { migrate } from "../store/migrate.ts";
import { inTransaction, openPostgres, type Postgres } from "../store/postgres.ts";
import type { Arrival, Placement } from "../store/queuing.ts";
import { stepTx, type Tx } from "../store/tx.ts";
import { createDatabase } from "./stack.ts";

/** An empty database with this version's tables; `close` when done. */
export async function openSampleDatabase(connectionsMax = 8): Promise<Postgres> {
  const url = await createDatabase("store");
  await migrate(url);
  return openPostgres(url, { connectionsMax });
}

/** Runs `work` as a step would: in one transaction, with the step's `Tx`. */
export function inStep<Result>(postgres: Postgres, work: (tx: Tx) => Promise<Result>): Promise<Result> {
  const openTx = stepTx(postgres);
  return inTransaction(postgres, (client) => work(openTx(client)));
}

export async function placeAll(postgres: Postgres, arrivals: readonly Arrival[]): Promise<readonly Placement[]> {
  const { placed } = await inStep(postgres, (tx) => tx.queuing.place(arrivals, Number.MAX_SAFE_INTEGER));
  return placed.map(({ placement }) => placement);
}

/** 43 characters, as of an identity key nobody knows. */
export function sampleAgentId(): string {
  return randomBytes(32).toString("base64url");
}

/** An id whose time is `ms`. */
export function sampleItemId(ms = Date.now()): string {
  return makeMessageId(ms, (length) => randomBytes(length));
}

export function sampleArrival(fields: Partial<Arrival> = {}): Arrival {
  const body = fields.body ?? randomBytes(40);
  return {
    kind: "message",
    recipientId: sampleAgentId(),
    senderId: sampleAgentId(),
    itemId: sampleItemId(),
    custody: "agent",
    sessionId: randomBytes(16),
    sendCounter: 1,
    size: body.length,
    acceptedAt: Date.now(),
    ...fields,
    body,
  };
}
