/**
 * The key that signs the audit's checkpoints: one line in a file of its own, readable by its owner only. Only the process that signs has it.
 *
 * The line is a signer key in the form of golang.org/x/mod/sumdb/note, so that other tools of transparency logs read it; the log's name is in it.
 */
import { randomBytes } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { formatSignerKey, parseSignerKey, type Signer, verifierOf } from "../protocol/audit/note.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import { Refusal } from "../protocol/refusal.ts";
import { KeyringError } from "./keyring/keyring.ts";
import { ownerOnly, replaceFile } from "./keyring/owner-only.ts";

const FIELD = "SEALPOST_AUDIT_KEY_FILE";
const SEED_BYTES = 32;

/** Throws a `Refusal` naming the variable: `key-missing`, `key-exposed`, or `malformed`. */
export function readAuditKey(path: string): Signer {
  if (!isThere(path)) {
    throw new Refusal("key-missing", { field: FIELD, fix: "make it: npm run audit-key -- create NAME" });
  }
  try {
    return parseSignerKey(nodePrimitives, readFileSync(path, "utf8").trimEnd());
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    throw new Refusal("malformed", { field: FIELD, fix: error.fix ?? "" });
  }
}

/** A new key for the log of this name, in a file that is not there yet. Throws a `Refusal`: `key-there`, `key-exposed`, or `malformed` for the name. */
export function createAuditKey(path: string, name: string): Signer {
  if (existsSync(path))
    throw new Refusal("key-there", { field: FIELD, fix: "name another file: a key is never written over" });
  const privateKey = new Uint8Array(randomBytes(SEED_BYTES));
  const key = { privateKey, publicKey: nodePrimitives.ed25519PublicKey(privateKey) };
  verifierOf(nodePrimitives, name, key.publicKey);
  replaceFile(path, `${formatSignerKey(nodePrimitives, { name, key })}\n`);
  isThere(path);
  return { name, key };
}

function isThere(path: string): boolean {
  try {
    return ownerOnly(path, "root-exposed") !== null;
  } catch (error) {
    if (!(error instanceof KeyringError)) throw error;
    throw new Refusal("key-exposed", { field: FIELD, fix: "chmod 600, and a folder that only its owner writes to" });
  }
}
