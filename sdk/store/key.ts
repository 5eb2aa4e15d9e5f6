/**
 * The store's key: 32 bytes given by the caller, or kept in a file that is made, readable by its owner only, on first use.
 *
 * A key file is on the disk, with its name in the folder, before anything is sealed under it.
 */
import { randomUUID } from "node:crypto";
import { closeSync, fsyncSync, linkSync, openSync, readFileSync, unlinkSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { decodeBase64Url, encodeBase64Url } from "../../protocol/base64url.ts";
import { nodeRandom } from "../../protocol/primitives/node.ts";
import { StoreError } from "../errors.ts";
import { STORE_KEY_BYTES } from "./seal.ts";

/** 32 bytes; the same as base64url text (for a value from the environment); or the path of a file that holds this text. */
export type StoreKey = Uint8Array | string | { readonly file: string };

/** The 32 bytes. A file that is missing is made, unless the store exists already: then `store-key-missing`. Throws `store-key-malformed`. */
export function loadStoreKey(key: StoreKey, storeExists: boolean): Uint8Array {
  if (key instanceof Uint8Array) return checked(key.slice());
  if (typeof key === "string") return checked(decodeBase64Url(key.trim()));
  const text = readText(key.file);
  if (text !== null) return checked(decodeBase64Url(text.trim()));
  if (storeExists) {
    throw new StoreError(
      "store-key-missing",
      "the store exists and its key file does not: give the key it was made with",
    );
  }
  return createKeyFile(key.file);
}

/** Complete or not there: it is written under another name first. Of two processes that start at once, one makes the key. */
function createKeyFile(path: string): Uint8Array {
  const bytes = nodeRandom(STORE_KEY_BYTES);
  const draft = `${path}.${randomUUID()}`;
  writeFileSync(draft, `${encodeBase64Url(bytes)}\n`, { flag: "wx", mode: 0o600, flush: true });
  try {
    linkSync(draft, path);
  } finally {
    unlinkSync(draft);
  }
  const folder = openSync(dirname(path), "r");
  try {
    fsyncSync(folder);
  } finally {
    closeSync(folder);
  }
  return bytes;
}

function readText(path: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if ((error as { code?: unknown }).code === "ENOENT") return null;
    throw error;
  }
}

function checked(bytes: Uint8Array | null): Uint8Array {
  if (bytes?.length !== STORE_KEY_BYTES) {
    throw new StoreError("store-key-malformed", "the store's key is not 32 bytes, or not their base64url text");
  }
  return bytes;
}
