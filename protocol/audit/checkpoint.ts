/**
 * Checkpoints (C2SP tlog-checkpoint, https://c2sp.org/tlog-checkpoint): how large a log was and what its root was, in a signed note.
 *
 *     text = origin newline ‖ decimal size newline ‖ base64(root) newline ‖ lines of extensions
 */
import type { KeyPair, Primitives } from "../primitives/primitives.ts";
import { Refusal } from "../refusal.ts";
import { HASH_BYTES } from "./merkle.ts";
import { decodeBase64, encodeBase64, openNote, signNote, type Verifier } from "./note.ts";

export interface Checkpoint {
  /** Which log it is; the name of its key. */
  readonly origin: string;
  /** Leaves. */
  readonly size: number;
  readonly root: Uint8Array;
}

export function formatCheckpoint({ origin, size, root }: Checkpoint): string {
  return `${origin}\n${size}\n${encodeBase64(root)}\n`;
}

/** The text of a checkpoint without its signatures; extensions are passed over. Throws a `Refusal` (`malformed`). */
export function parseCheckpoint(text: string): Checkpoint {
  const [origin = "", digits = "", base64 = "", ...rest] = text.split("\n");
  const root = decodeBase64(base64);
  const size = /^(0|[1-9]\d*)$/.test(digits) ? Number(digits) : Number.NaN;
  if (origin === "") throw malformed("origin", "the name of the log, on the first line");
  if (!Number.isSafeInteger(size)) throw malformed("size", "the number of records, on the second line");
  if (root?.length !== HASH_BYTES) throw malformed("root", "32 bytes in base64, on the third line");
  if (rest.pop() !== "" || rest.includes(""))
    throw malformed("checkpoint", "lines that are not empty, each with its newline");
  return { origin, size, root };
}

/** By the log's own key, whose name is the log's origin. */
export function signCheckpoint(
  primitives: Pick<Primitives, "sha256" | "ed25519Sign">,
  key: KeyPair,
  checkpoint: Checkpoint,
): string {
  return signNote(primitives, { name: checkpoint.origin, key }, formatCheckpoint(checkpoint));
}

/** The checkpoint that this log's key has signed. Throws a `Refusal`: `malformed`, or `signature-invalid`, also for that of another log. */
export function openCheckpoint(
  primitives: Pick<Primitives, "sha256" | "ed25519Verify">,
  verifier: Verifier,
  note: string,
): Checkpoint {
  const checkpoint = parseCheckpoint(openNote(primitives, verifier, note));
  if (checkpoint.origin === verifier.name) return checkpoint;
  throw new Refusal("signature-invalid", { field: "origin", fix: "a checkpoint of the log whose key is given" });
}

function malformed(field: string, fix: string): Refusal {
  return new Refusal("malformed", { field, fix });
}
