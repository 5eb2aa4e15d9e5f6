/**
 * Keeps the audit: every fact once, in one form, in a log that cannot be changed unnoticed (docs/audit.md).
 *
 * Reads   every topic of facts (facts.ts), at least once; message.queued.v1 is the record of what was accepted.
 * Writes  audit.v1: one record for each fact, however often the fact comes; keyed by whose fact it is.
 * Keeps   the Merkle log over the records: places without a gap over all partitions and processes, given under the lock of its head; which facts have theirs.
 * Refuses what cannot be decoded or has no id, for it is no fact: a dead letter where nobody else reads the topic, else passed over, for its other reader makes one of what it cannot
 *         decode.
 */
import type { Tx } from "../../store/tx.ts";
import {
  messageSetAside,
  prekeyClaimed,
  prekeyPublished,
  prekeyRotated,
  prekeyRotationFailed,
  sessionInitialized,
} from "../../streams/catalogue.ts";
import type { StepConsumer } from "../../streams/consumer.ts";
import { factKinds } from "./facts.ts";
import { checkFact, GROUP, sourceEventIdOf, toEvent, toLeaf, toRecords } from "./records.ts";

export const audit: StepConsumer<unknown, Tx> = {
  name: GROUP,
  reads: factKinds.map(({ topic }) => topic),
  // Nobody waits for it, and its steps wait for each other.
  pace: { bytesMin: 256 * 1024, waitMsMax: 500 },
  // Of what nobody else reads; of the others their readers make them.
  deadLettersOf: [
    messageSetAside,
    prekeyPublished,
    prekeyClaimed,
    prekeyRotated,
    prekeyRotationFailed,
    sessionInitialized,
  ],
  // Records that were given out keep their places: they are learned from audit.v1 first (jobs/audit-recovery.ts).
  // Its head is one for all partitions: where one of them is behind, none may give out places.
  afterRestore: "stand-together",
  check: checkFact,
  step: async (batch, tx) => {
    const head = await tx.audit.lockHead();
    const recorded = toRecords(batch, await tx.audit.findSeen(batch.map(sourceEventIdOf)), head.size);
    await tx.audit.append(head, recorded.map(toLeaf));
    return recorded.map(toEvent);
  },
};
