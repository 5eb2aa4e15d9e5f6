/**
 * Signs the head of the audit log, so that nobody can change what is below it unnoticed (docs/audit.md).
 *
 * Reads   the head, the newest checkpoint, and the hashes between the two.
 * Writes  a checkpoint where the log has grown: only when all its records are in Kafka, from which a database that was put back learns them again.
 * Keeps   nothing.
 * Refuses to sign when the log is not the continuation of what was signed before: it went back, or was changed. Says so each time; an operator must look.
 */
import { signCheckpoint } from "../protocol/audit/checkpoint.ts";
import { formatVerifierKey, type Signer, verifierOf } from "../protocol/audit/note.ts";
import { equalBytes } from "../protocol/bytes.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import {
  addCheckpoint,
  findCheckpoint,
  findUnpublished,
  type StoredCheckpoint,
  waitsStill,
} from "../store/audit-checkpoints.ts";
import { findHead, hashesOfSpans, type LogHead } from "../store/audit-log.ts";
import type { Postgres, Queryable } from "../store/postgres.ts";
import { pause } from "../streams/backoff.ts";

/** Each minute. */
export const checkpointsCron = "* * * * *";

export interface CheckpointsDeps {
  readonly postgres: Postgres;
  readonly signer: Signer;
  /** The consumer whose records are in the log. */
  readonly group: string;
  readonly onSigned: (checkpoint: StoredCheckpoint) => void;
  /** Told at each look, whether the log continues what was signed before. */
  readonly onCompared: (isContinued: boolean) => void;
}

/** Steps are published within a second, unless Kafka is away; then the next minute sees to it. */
const PUBLISHED_MS_MAX = 20_000;
const LOOK_EVERY_MS = 250;

/**
 * @param now ms since the epoch
 * @throws Unavailable
 */
export async function signHead(deps: CheckpointsDeps, now: number, signal: AbortSignal): Promise<void> {
  const { postgres, signer, group } = deps;
  const head = await findHead(postgres);
  // What is below the head was committed before it was read: what of it is not published waits now.
  const unpublished = await findUnpublished(postgres, group);
  const last = await findCheckpoint(postgres);
  const isContinued = last === null || (await continues(postgres, last, head));
  deps.onCompared(isContinued);
  if (!isContinued || head.size === (last?.size ?? 0)) return;
  const until = performance.now() + PUBLISHED_MS_MAX;
  while (await waitsStill(postgres, group, unpublished)) {
    if (signal.aborted || performance.now() > until) return;
    await pause(LOOK_EVERY_MS, signal);
  }
  const { size, root } = head;
  const note = signCheckpoint(nodePrimitives, signer.key, { origin: signer.name, size, root });
  const verifierKey = formatVerifierKey(verifierOf(nodePrimitives, signer.name, signer.key.publicKey));
  const checkpoint = { size, root, note, verifierKey, signedAt: now };
  await addCheckpoint(postgres, checkpoint);
  deps.onSigned(checkpoint);
}

/** Do the hashes that are stored give the root that was signed, and the head's? They are the same hashes for both: so the one tree begins the other. */
async function continues(db: Queryable, last: StoredCheckpoint, head: LogHead): Promise<boolean> {
  if (head.size < last.size) return false;
  const trees = [last.size, head.size].map((end) => ({ start: 0, end }));
  const [lastRoot, headRoot] = await hashesOfSpans(db, trees);
  return isSame(lastRoot, last.root) && isSame(headRoot, head.root);
}

function isSame(found: Uint8Array | undefined, expected: Uint8Array): boolean {
  return found !== undefined && equalBytes(found, expected);
}
