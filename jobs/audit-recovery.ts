/**
 * After the database was put back from a backup: the audit log learns again what it gave out since (docs/restore.md).
 *
 * Reads   audit.v1, from a little before the log last grew or was signed by the database's account; all of it where nothing was signed.
 * Writes  the places, hashes and memory of the records found there, as they were given out: every proof and checkpoint of before holds. Where a place was given
 *         out and its record never left, a record that says so (`audit.place-lost`), so that the log has no gap; its fact is read again and gets another place.
 * Keeps   the head for itself until it is done: nobody else appends meanwhile.
 * Refuses a topic that holds two records for one place, another one than the database for a place below its head, or one far beyond all others: somebody
 *         else writes there, or the database went on after it had gone back.
 */
import { leafBytes } from "../protocol/audit/leaf.ts";
import { hashLeaf } from "../protocol/audit/merkle.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import { Refusal } from "../protocol/refusal.ts";
import type { AuditRecord } from "../schemas/values.ts";
import {
  appendAgain,
  areStored,
  beginAgain,
  type GatheredLeaf,
  gatherAgain,
  missingPlaces,
} from "../store/audit-again.ts";
import { findCheckpoint } from "../store/audit-checkpoints.ts";
import type { AuditWeeks } from "../store/audit-weeks.ts";
import { inTransaction, type Postgres } from "../store/postgres.ts";
import { auditRecord } from "../streams/catalogue.ts";
import type { Codec } from "../streams/codec.ts";
import { type NewEvent, stepEventId } from "../streams/headers.ts";
import type { KafkaDoor } from "../streams/kafka.ts";
import { type ReadRecord, readRange } from "../streams/read-topic.ts";

export interface AuditRecoveryDeps {
  readonly kafka: KafkaDoor;
  readonly codec: Codec;
  readonly postgres: Postgres;
  /** On a connection of its own. */
  readonly weeks: AuditWeeks;
  /** Resolves when Kafka has them. Throws `Unavailable`. */
  readonly append: (events: readonly NewEvent<AuditRecord>[]) => Promise<void>;
}

/** `forked`: nothing was changed; the topic holds what this service did not write. */
export type AuditRecovered = { readonly learned: number; readonly lost: number } | "forked";

/** Brokers' clocks and the database's differ. More costs a second of reading. */
const CLOCKS_MS = 10 * 60 * 1_000;

/** What was committed and had not left: a thousand records for each process that ran `audit`. */
const LOST_MAX = 50_000;

const SERVICE = "service";
const SOURCE = "/sealpost/after-restore";

/** Ended at any moment it may be begun again. Throws `Unavailable`. */
export async function relearnAudit(deps: AuditRecoveryDeps): Promise<AuditRecovered> {
  const { postgres, weeks, append } = deps;
  return inTransaction(postgres, async (client) => {
    const head = await beginAgain(client);
    const gather = async (leaves: readonly GatheredLeaf[]) => {
      const { below = [], beyond = [] } = Object.groupBy(leaves, ({ logIndex }) =>
        logIndex < head.size ? "below" : "beyond",
      );
      return (await areStored(client, below)) && gatherAgain(client, beyond);
    };
    // What went on in a database that had gone back made its log grow; a signature is of before.
    const since = Math.min(head.grownAt, (await findCheckpoint(client))?.signedAt ?? 0);
    if (!(await gatherSince(deps, since - CLOCKS_MS, gather))) return "forked";
    const places = await missingPlaces(client, head.size, LOST_MAX + 1);
    if (places.length > LOST_MAX) return "forked";
    const records = places.map((place) => lostRecord(place, head.grownAt));
    await append(records.map(eventOf));
    await gather(records.map((record) => leafOf(record, head.grownAt)));
    return { learned: await appendAgain(client, weeks), lost: records.length };
  });
}

/** False when two records contradict each other. */
async function gatherSince(
  { kafka, codec }: AuditRecoveryDeps,
  since: number,
  gather: (leaves: readonly GatheredLeaf[]) => Promise<boolean>,
): Promise<boolean> {
  const offsets = await kafka.ask((admin) => admin.fetchTopicOffsetsByTimestamp(auditRecord.name, Math.max(0, since)));
  const starts = new Map(offsets.map(({ partition, offset }) => [partition, Number(offset)]));
  let isOne = true;
  await readRange(kafka, auditRecord.name, starts, async (records) => {
    await codec.learn(records.map(({ value }) => value));
    isOne = (await gather(records.flatMap((record) => leavesOf(codec, record)))) && isOne;
  });
  return isOne;
}

/** None for what cannot be decoded: it is no record of ours. */
function leavesOf(codec: Codec, { value, timestamp }: ReadRecord): readonly GatheredLeaf[] {
  try {
    return [leafOf(codec.decode(auditRecord, value), Number(timestamp))];
  } catch (error) {
    if (error instanceof Refusal) return [];
    throw error;
  }
}

function leafOf(record: AuditRecord, appendedAt: number): GatheredLeaf {
  const { logIndex, sourceEventId } = record;
  return { logIndex, sourceEventId, appendedAt, leafHash: hashLeaf(nodePrimitives, leafBytes(record)) };
}

/**
 * There is no fact behind it: it names itself. Its time is when the restored log had last grown: an append that was answered too late is followed by the
 * same bytes again, not by others for the same place.
 */
function lostRecord(place: number, grownAt: number): AuditRecord {
  const { name: topic } = auditRecord;
  const eventId = stepEventId("audit", { topic, partition: 0, offset: place }, 0);
  return {
    ...{ eventId, logIndex: place, agentId: SERVICE, actor: SERVICE, delegation: [], action: "audit.place-lost" },
    ...{ senderId: null, recipientId: null, messageId: null, size: null, occurredAt: grownAt, outcome: "restored" },
    ...{ subject: null, reason: null },
    ...{ sourceTopic: topic, sourcePartition: 0, sourceOffset: place, sourceEventId: eventId },
  };
}

function eventOf(value: AuditRecord): NewEvent<AuditRecord> {
  const { eventId: id, agentId: key, occurredAt: time } = value;
  return { topic: auditRecord, key, id, source: SOURCE, time, subject: id, value };
}
