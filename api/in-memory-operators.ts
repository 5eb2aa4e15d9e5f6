/**
 * The ports of operators' calls in memory, for tests: what is stuck, dead letters, and what was done about them.
 */
import { hashesOf } from "../protocol/audit/proofs.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import type { StoredCheckpoint } from "../store/audit-checkpoints.ts";
import type { ItemName, StuckFilter, StuckItem, StuckPlace, StuckState } from "../store/stuck.ts";
import type { Outgoing } from "../streams/consumer.ts";
import type { DeadLetter, LetterPlace } from "../streams/dead-letters.ts";
import type { AuditDeps } from "./operations/audit.ts";
import type { DeadLettersDeps } from "./operations/dead-letters.ts";
import type { OperatorAct, StuckDeps } from "./operations/stuck.ts";

export interface InMemoryOperators {
  /** By how long they are, the longest first. */
  readonly stuck: (StuckItem & { readonly state: StuckState })[];
  /** Of all topics, each by partition and offset. */
  readonly letters: (DeadLetter & { readonly topic: string })[];
  readonly acts: OperatorAct[];
  /** What went back to its topic. */
  readonly putBack: Outgoing[];
  /** The hashes of the audit's records, in order. */
  readonly leafHashes: Uint8Array[];
  /** The newest first. */
  readonly checkpoints: StoredCheckpoint[];
}

type Ports = Omit<StuckDeps & DeadLettersDeps & AuditDeps, "limits" | "receipts" | "now">;

export function inMemoryOperators(
  { stuck, letters, acts, putBack, leafHashes, checkpoints }: InMemoryOperators,
  need: (door: "kafka" | "postgres") => void,
): Ports {
  const matching = ({ state, recipientId, senderId }: StuckFilter) =>
    stuck.filter(
      (item) =>
        item.state === state &&
        (recipientId === undefined || item.recipientId === recipientId) &&
        (senderId === undefined || item.senderId === senderId),
    );
  return {
    findStuck: async (filter, after, limit) => {
      need("postgres");
      const all = matching(filter);
      const start = after === null ? 0 : all.findIndex((item) => isSamePlace(item, after)) + 1;
      const items = all.slice(start, start + limit);
      return { items, next: start + limit < all.length ? (items.at(-1) ?? null) : null };
    },
    countStuck: async (filter, countMax) => {
      need("postgres");
      const all = matching(filter).slice(0, countMax);
      return { count: all.length, oldest: all[0]?.since ?? null };
    },
    whichStuck: async (items) => {
      need("postgres");
      return items.filter((item) => stuck.some((one) => isSameItem(one, item)));
    },
    onAct: (act) => void acts.push(act),
    countDeadLetters: async (topic) => {
      need("kafka");
      return letters.filter((letter) => letter.topic === topic).length;
    },
    readDeadLetters: async (topic, { from, limit }, handle) => {
      need("kafka");
      const all = letters.filter((letter) => letter.topic === topic && !isBefore(letter, from));
      await handle(all.slice(0, limit));
      const next = all[limit];
      return next === undefined ? null : { partition: next.partition, offset: next.offset };
    },
    findCheckpoint: async (size) => {
      need("postgres");
      return checkpoints.find((one) => size === null || one.size === size) ?? null;
    },
    findCheckpointCovering: async (size) => {
      need("postgres");
      const covering = checkpoints.filter((one) => one.size >= size);
      return covering.sort((a, b) => a.size - b.size)[0] ?? null;
    },
    auditSize: async () => {
      need("postgres");
      return leafHashes.length;
    },
    auditHashes: async (spans) => {
      need("postgres");
      return hashesOf(nodePrimitives, leafHashes, spans);
    },
    appendAsIs: async (records) => {
      need("kafka");
      putBack.push(...records);
    },
  };
}

function isSameItem(one: ItemName, other: ItemName): boolean {
  return one.recipientId === other.recipientId && one.senderId === other.senderId && one.itemId === other.itemId;
}

function isSamePlace(one: StuckItem, other: StuckPlace): boolean {
  return isSameItem(one, other) && one.since === other.since;
}

function isBefore(one: LetterPlace, other: LetterPlace | null): boolean {
  if (other === null) return false;
  return one.partition < other.partition || (one.partition === other.partition && one.offset < other.offset);
}
