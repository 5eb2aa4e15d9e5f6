/**
 * From facts to audit records: which are new, in which order they take their places, and what is told of them. Pure.
 */
import { leafBytes } from "../../protocol/audit/leaf.ts";
import { hashLeaf } from "../../protocol/audit/merkle.ts";
import { nodePrimitives } from "../../protocol/primitives/node.ts";
import { Refusal } from "../../protocol/refusal.ts";
import { isTimestamp } from "../../protocol/timestamp.ts";
import { isUuid } from "../../protocol/uuid.ts";
import type { AuditRecord } from "../../schemas/values.ts";
import type { NewLeaf } from "../../store/audit-log.ts";
import { auditRecord } from "../../streams/catalogue.ts";
import type { Emit, Inbound } from "../../streams/consumer.ts";
import { stepEventId } from "../../streams/headers.ts";
import { factKinds } from "./facts.ts";

/** As its records' ids are made of it, it must never change. */
export const GROUP = "audit";

const kinds = new Map(factKinds.map((kind) => [kind.topic.name, kind]));

export interface Recorded {
  readonly fact: Inbound<unknown>;
  readonly record: AuditRecord;
}

/** Refuses (`malformed`, naming the field) what can have no record. */
export function checkFact(fact: Inbound<unknown>): void {
  if (!isUuid(sourceEventIdOf(fact))) throw new Refusal("malformed", { field: "ce_id", fix: "a UUID in lower case" });
  const record = recordOf(fact, 0);
  if (!isTimestamp(record.occurredAt)) throw new Refusal("malformed", { field: "occurred_at", fix: "a time, in ms" });
  leafBytes(record);
}

export function sourceEventIdOf({ headers }: Inbound<unknown>): string {
  return headers["ce_id"] ?? "";
}

/** The facts of a step that have no record yet, each once, with places from `from` on. The same facts take the same places, however they were fetched. */
export function toRecords(
  facts: readonly Inbound<unknown>[],
  seen: ReadonlySet<string>,
  from: number,
): readonly Recorded[] {
  const known = new Set(seen);
  const fresh = facts.toSorted(byAppend).filter((fact) => {
    const id = sourceEventIdOf(fact);
    return !known.has(id) && known.add(id);
  });
  return fresh.map((fact, n) => ({ fact, record: recordOf(fact, from + n) }));
}

/** By when the log took them; what came in the same millisecond, and what one partition holds, by where it stands. */
function byAppend(a: Inbound<unknown>, b: Inbound<unknown>): number {
  if (a.topic.name === b.topic.name && a.partition === b.partition) return a.offset - b.offset;
  const inTime = a.timestamp - b.timestamp;
  if (inTime !== 0) return inTime;
  if (a.topic.name !== b.topic.name) return a.topic.name < b.topic.name ? -1 : 1;
  return a.partition - b.partition;
}

function recordOf(fact: Inbound<unknown>, logIndex: number): AuditRecord {
  const { topic, partition, offset, value } = fact;
  const kind = kinds.get(topic.name);
  if (kind === undefined) throw new Error("a fact of a topic that is not audited");
  return {
    ...kind.describe(value),
    eventId: stepEventId(GROUP, { topic: topic.name, partition, offset }, 0),
    logIndex,
    sourceTopic: topic.name,
    sourcePartition: partition,
    sourceOffset: offset,
    sourceEventId: sourceEventIdOf(fact),
  };
}

export function toLeaf({ fact, record }: Recorded): NewLeaf {
  return {
    leafHash: hashLeaf(nodePrimitives, leafBytes(record)),
    sourceEventId: record.sourceEventId,
    sourceAppendedAt: fact.timestamp,
  };
}

export function toEvent({ fact, record }: Recorded): Emit<AuditRecord> {
  return {
    ...{ topic: auditRecord, key: record.agentId, cause: fact, time: record.occurredAt, subject: record.sourceEventId },
    // The runner's id of it is the one that was hashed.
    value: (eventId) => ({ ...record, eventId }),
  };
}
