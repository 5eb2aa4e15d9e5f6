/** The log's own word about itself, as `replay/` needs it: checkpoints that it signed, and proofs. Over HTTP in `bin/`, in memory in tests. */
import { type Checkpoint, openCheckpoint } from "../protocol/audit/checkpoint.ts";
import { parseVerifierKey } from "../protocol/audit/note.ts";
import type { Primitives } from "../protocol/primitives/primitives.ts";
import { Refusal } from "../protocol/refusal.ts";
import { Found, finding } from "./finding.ts";
import { type Sides, sidesOf } from "./range-check.ts";

/** A checkpoint, and the key that it holds under. */
export type Signed = Checkpoint & { readonly verifierKey: string };

export type Proving = Pick<Primitives, "sha256" | "ed25519Verify">;

/** All reject with what ends the command when the service does not answer. */
export interface AuditLog {
  /**
   * `name+hash+base64`, those that are trusted for the checkpoint that `checkpoint` gives: pinned by who asks, or what the service says it was signed with. More
   * than one where the log's key was changed.
   */
  readonly keysFor: (sizeMin?: number) => Promise<readonly string[]>;
  /** The newest checkpoint, or the first one with at least so many records. Null where there is none. */
  readonly checkpoint: (sizeMin?: number) => Promise<string | null>;
  /** Of a leaf in the tree of a checkpoint. Null where the service has none. */
  readonly inclusion: (index: number, size: number) => Promise<readonly Uint8Array[] | null>;
}

/** @throws Found: the checkpoint is signed by none of these keys */
export function openSigned(proving: Proving, verifierKeys: readonly string[], note: string): Signed {
  let refusal: Refusal | null = null;
  for (const verifierKey of verifierKeys) {
    try {
      return { ...openCheckpoint(proving, parseVerifierKey(proving, verifierKey), note), verifierKey };
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      refusal ??= error;
    }
  }
  const what = `the checkpoint does not hold (${refusal?.field ?? "signature"})`;
  const older = verifierKeys.length > 0 ? "; if the log's key was changed, give the older one as well (--key)" : "";
  throw new Found(finding("unproven", null, `${what}: it needs ${refusal?.fix ?? "a key"}${older}`));
}

/** @throws Found: there is no proof, or one of another length */
export async function sidesIn(log: AuditLog, index: number, size: number): Promise<Sides> {
  const proof = await log.inclusion(index, size);
  const sides = proof === null ? null : sidesOf(index, size, proof);
  if (sides !== null) return sides;
  throw new Found(finding("unproven", index, `the log gives no proof of it in its checkpoint of ${size} records`));
}
