/**
 * What proves the audit to whoever doubts it: signed checkpoints, and proofs that lead from a record or from an older checkpoint to one.
 *
 * Proofs are made of stored hashes alone. Whoever asks checks them against a checkpoint of his own; nothing here is to be believed.
 */
import { consistencySpans, inclusionSpans, type Span } from "../../protocol/audit/proofs.ts";
import type { StoredCheckpoint } from "../../store/audit-checkpoints.ts";
import { ApiRefusal } from "../problem.ts";

export interface AuditDeps {
  /** The newest, or the one of this size. Throws `Unavailable`, as the others do. */
  readonly findCheckpoint: (size: number | null) => Promise<StoredCheckpoint | null>;
  /** The first one that has so many records. */
  readonly findCheckpointCovering: (size: number) => Promise<StoredCheckpoint | null>;
  /** Records in the log. */
  readonly auditSize: () => Promise<number>;
  /** The hashes of spans of records that are in the log. */
  readonly auditHashes: (spans: readonly Span[]) => Promise<readonly Uint8Array[]>;
}

/** Throws an `ApiRefusal`: `checkpoint-unknown`. */
export async function checkpointOf(deps: AuditDeps, size: number | null): Promise<StoredCheckpoint> {
  const checkpoint = await deps.findCheckpoint(size);
  if (checkpoint === null) throw new ApiRefusal("checkpoint-unknown", { field: "size" });
  return checkpoint;
}

/** The first one that has so many records. Throws an `ApiRefusal`: `checkpoint-unknown`. */
export async function checkpointCovering(deps: AuditDeps, size: number): Promise<StoredCheckpoint> {
  const checkpoint = await deps.findCheckpointCovering(size);
  if (checkpoint === null) throw new ApiRefusal("checkpoint-unknown", { field: "at_least" });
  return checkpoint;
}

export interface InclusionAnswer {
  readonly index: number;
  readonly size: number;
  readonly leafHash: Uint8Array;
  readonly proof: readonly Uint8Array[];
}

/** @param size null: of the newest checkpoint. Throws an `ApiRefusal`: `checkpoint-unknown`, `not-in-log`. */
export async function proveInclusion(deps: AuditDeps, index: number, size: number | null): Promise<InclusionAnswer> {
  const of = await sizeOf(deps, "size", size);
  if (index >= of) throw new ApiRefusal("not-in-log", { field: "index" });
  const leaf = { start: index, end: index + 1 };
  const [leafHash, ...proof] = await deps.auditHashes([leaf, ...inclusionSpans(index, of)]);
  if (leafHash === undefined) throw new Error("a record in the log has no hash");
  return { index, size: of, leafHash, proof };
}

export interface ConsistencyAnswer {
  readonly from: number;
  readonly to: number;
  readonly proof: readonly Uint8Array[];
}

/** @param to null: the newest checkpoint. Throws an `ApiRefusal`: `checkpoint-unknown`, `not-in-log`. */
export async function proveConsistency(deps: AuditDeps, from: number, to: number | null): Promise<ConsistencyAnswer> {
  const until = await sizeOf(deps, "to", to);
  if (from > until) throw new ApiRefusal("not-in-log", { field: "from" });
  return { from, to: until, proof: await deps.auditHashes(consistencySpans(from, until)) };
}

async function sizeOf(deps: AuditDeps, field: string, size: number | null): Promise<number> {
  if (size === null) return (await checkpointOf(deps, null)).size;
  if (size > (await deps.auditSize())) throw new ApiRefusal("not-in-log", { field });
  return size;
}
