/**
 * A history: everything that was seen of one run, by its clients, in its log and in its databases. Plain data, so that it can be written down, read back,
 * judged again, and changed on purpose (mutants.ts).
 *
 * Times are milliseconds of one monotonic clock. Digests are SHA-256, 32 hexadecimal digits of it.
 */

import type { UsageCounts } from "../../../schemas/values.ts";

export type Outcome = "ok" | "fail" | "unknown";

/** What a client did, or saw. A try that is repeated is one more operation about the same message. */
export interface Operation {
  readonly kind: "send" | "receive" | "acknowledge";
  /** By what: the SDK answers a message once for good; a plain client sees it until its answer has reached the mailbox. */
  readonly by: "sdk" | "http";
  readonly senderId: string;
  readonly recipientId: string;
  /** Null where the client never learned it. */
  readonly messageId: string | null;
  /** Its place among what this sender says to this recipient: 1, 2, 3. Null where the reader cannot read it. */
  readonly n: number | null;
  /** Of the content; null where the reader cannot read it. */
  readonly digest: string | null;
  readonly outcome: Outcome;
  readonly startMs: number;
  readonly endMs: number;
  /** A code, where it did not go well. */
  readonly code: string | null;
}

/** A fault that was carried out. */
export interface Injected {
  readonly fault: string;
  readonly target: string;
  readonly startMs: number;
  readonly endMs: number;
  /** Null: it was done and healed. Else why not. */
  readonly failure: string | null;
  /** `ce_id`s of the records that it put into topics and that nobody can read. */
  readonly poison: readonly string[];
}

/** A record of a topic, as it stands in the broker's files. */
export interface LogRecord {
  readonly topic: string;
  readonly partition: number;
  readonly offset: number;
  readonly key: string;
  /** `ce_id`; null where there is none. */
  readonly eventId: string | null;
  /** Of the value. */
  readonly digest: string;
  /** Null: the value is none of this topic's. */
  readonly item: LogItem | null;
  /** In `audit.v1`; null in every other topic. */
  readonly audit: AuditEntry | null;
}

/** Of which fact a record of the audit is. */
export interface AuditEntry {
  readonly logIndex: number;
  readonly action: string;
  readonly sourceEventId: string;
  readonly sourceTopic: string;
  readonly sourcePartition: number;
  readonly sourceOffset: number;
}

/** What a record says of one message; of `message.receipt.v1` and of facts about agents nothing is looked at but the bytes. */
export interface LogItem {
  /** `message`, `retry`, `rekey`, `repair`; a message where the topic knows no other. */
  readonly kind: string;
  /** Of the sender, where the topic tells it: `agent`, `server`. Histories that were kept before it was read have none. */
  readonly custody?: string | null;
  readonly messageId: string;
  readonly senderId: string;
  readonly recipientId: string;
  readonly sessionId: string | null;
  readonly seq: number | null;
  readonly code: string | null;
  /** By the service's clock, milliseconds; in the two public topics. */
  readonly deliveredAt: number | null;
  readonly acknowledgedAt: number | null;
  /** The same, in the topics of which metering reads it. */
  readonly queuedAt: number | null;
  readonly discardedAt: number | null;
  /** Of the ciphertext, bytes. */
  readonly size: number | null;
  /** Of the envelope's bytes; of a command: of what identifies its content, which is sealed anew each time it is sent. */
  readonly bodyDigest: string | null;
  /** The envelope's bytes themselves, base64, in `message.encrypted.v1` alone. */
  readonly body: string | null;
}

export interface PartitionOffset {
  readonly topic: string;
  readonly partition: number;
  readonly offset: number;
}

export type GroupOffset = PartitionOffset & { readonly group: string };

/** A row of what became of a message. */
export interface MessageRow {
  readonly senderId: string;
  readonly messageId: string;
  readonly recipientId: string;
  readonly seq: number;
  readonly isDelivered: boolean;
  /** Null: it waits. */
  readonly outcome: string | null;
}

/** What was counted of an agent in an hour. */
export interface UsageRow extends UsageCounts {
  readonly agentId: string;
  /** When the hour began, ms since the epoch. */
  readonly hour: number;
}

/** What metering says waits in a mailbox. */
export interface MeterRow {
  readonly agentId: string;
  readonly waitingMessages: number;
  readonly waitingBytes: number;
}

/** A table, compared with what the log folds to (docs/rebuild.md). */
export interface ComparedTable {
  readonly table: string;
  /** How many rows were compared. */
  readonly rows: number;
  /** A line for each row that is not what the log says. */
  readonly differences: readonly string[];
}

/** The databases when all was quiet. */
export interface Snapshot {
  /** Where each group with state stands, as PostgreSQL has it. */
  readonly positions: readonly GroupOffset[];
  /** What Kafka was told by every group. */
  readonly committed: readonly GroupOffset[];
  /** Where each partition ends, as the broker says. */
  readonly ends: readonly PartitionOffset[];
  readonly messages: readonly MessageRow[];
  readonly usage: readonly UsageRow[];
  readonly meters: readonly MeterRow[];
  /** Whose mailboxes hold something, an entry for each item. */
  readonly waiting: readonly string[];
  readonly outboxRows: number;
  readonly unpublishedFacts: number;
  readonly tables: readonly ComparedTable[];
  /** Why the tables were not compared; null: they were. */
  readonly uncompared: string | null;
}

/** A group, and what it must have read to its end. */
export interface GroupReads {
  readonly group: string;
  readonly topics: readonly string[];
  readonly hasState: boolean;
}

export interface History {
  readonly seed: number;
  readonly operations: readonly Operation[];
  /** How many faults the schedule had. */
  readonly planned: number;
  readonly injected: readonly Injected[];
  readonly log: readonly LogRecord[];
  readonly snapshot: Snapshot;
  readonly groups: readonly GroupReads[];
  /** Agents that read their mail. What is said to others waits for them. */
  readonly readers: readonly string[];
  /** When the last fault was healed. */
  readonly healedMs: number;
  /** When nothing was left to do; null: there always was, and `unquiet` says what. */
  readonly quietMs: number | null;
  readonly unquiet: readonly string[];
}
