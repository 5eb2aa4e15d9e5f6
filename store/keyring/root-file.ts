/**
 * Root keys in a file of their own, readable by its owner only. The default where there is no HSM.
 *
 *   sealpost-root-keys 1
 *   <version> <key, 32 bytes as base64url> <first 8 bytes of SHA-256(label ‖ u32(version) ‖ key), base64url>
 *
 * The file belongs on another volume than the keyring, and into no backup that also holds the keyring: the two together open everything.
 * It is replaced as a whole, and read again when a version is asked for that it did not have: another process rotated.
 */
import { createCipheriv, createDecipheriv, createHash, randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { decodeBase64Url, encodeBase64Url } from "../../protocol/base64url.ts";
import { ByteWriter, concat, equalBytes, label } from "../../protocol/bytes.ts";
import { KEY_BYTES, KeyringError } from "./keyring.ts";
import { ownerOnly, replaceFile } from "./owner-only.ts";
import { type RootKeys, WRAP_NONCE_BYTES, WRAP_TAG_BYTES } from "./root-keys.ts";

const HEAD = "sealpost-root-keys 1";
const LINE = /^([1-9][0-9]{0,8}) ([\w-]+) ([\w-]+)$/;
const CHECK_LABEL = label("sealpost/v1/root-key-check");
const CHECK_BYTES = 8;
const CIPHER = "aes-256-gcm";

/** Opens the root keys at this path, which need not be there yet: then `newest` is 0 and `create` makes the file. */
export function openRootFile(path: string): RootKeys {
  let keys: ReadonlyMap<number, Uint8Array> = readRoots(path);
  const replace = (by: ReadonlyMap<number, Uint8Array>): void => {
    for (const [version, key] of keys) if (by.get(version) !== key) key.fill(0);
    keys = by;
  };
  const keyOf = (version: number): Uint8Array => {
    if (!keys.has(version)) replace(readRoots(path));
    const key = keys.get(version);
    if (key === undefined) throw new KeyringError("root-missing");
    return key;
  };
  return {
    newest: () => {
      replace(readRoots(path));
      return Math.max(0, ...keys.keys());
    },
    wrap: (version, key, place) => {
      const nonce = randomBytes(WRAP_NONCE_BYTES);
      const cipher = createCipheriv(CIPHER, keyOf(version), nonce).setAAD(place);
      return concat(nonce, cipher.update(key), cipher.final(), cipher.getAuthTag());
    },
    unwrap: (version, wrapped, place) => {
      const tagAt = wrapped.length - WRAP_TAG_BYTES;
      if (tagAt !== WRAP_NONCE_BYTES + KEY_BYTES) throw new KeyringError("root-wrong");
      const cipher = createDecipheriv(CIPHER, keyOf(version), wrapped.subarray(0, WRAP_NONCE_BYTES), {
        authTagLength: WRAP_TAG_BYTES,
      });
      cipher.setAAD(place).setAuthTag(wrapped.subarray(tagAt));
      const key = Uint8Array.from(cipher.update(wrapped.subarray(WRAP_NONCE_BYTES, tagAt)));
      try {
        cipher.final();
      } catch (error) {
        key.fill(0);
        throw new KeyringError("root-wrong", error);
      }
      return key;
    },
    create: () => {
      const old = readRoots(path);
      const version = Math.max(0, ...old.keys()) + 1;
      const next = new Map([...old, [version, Uint8Array.from(randomBytes(KEY_BYTES))]]);
      writeRoots(path, next);
      replace(next);
      return version;
    },
    destroyBelow: (version) => {
      const old = readRoots(path);
      const kept = new Map([...old].filter(([each]) => each >= version));
      if (kept.size < old.size) writeRoots(path, kept);
      replace(kept);
    },
    close: () => replace(new Map()),
  };
}

/** What is read between the replacing of a file and the overwriting of the old one may be zeros: then the new one is there. */
function readRoots(path: string): Map<number, Uint8Array> {
  for (;;) {
    const facts = ownerOnly(path, "root-exposed");
    if (facts === null) return new Map();
    const keys = parseRoots(readFileSync(path, "utf8"));
    if (keys !== null) return keys;
    if (ownerOnly(path, "root-exposed")?.ino === facts.ino) throw new KeyringError("root-damaged");
  }
}

function parseRoots(text: string): Map<number, Uint8Array> | null {
  const lines = text.split("\n");
  if (lines.shift() !== HEAD || lines.pop() !== "" || lines.length === 0) return null;
  const keys = new Map<number, Uint8Array>();
  for (const line of lines) {
    const [, version, key, check] = LINE.exec(line) ?? [];
    const bytes = decodeBase64Url(key ?? "");
    if (bytes?.length !== KEY_BYTES) return null;
    if (!equalBytes(checkOf(Number(version), bytes), decodeBase64Url(check ?? "") ?? bytes)) return null;
    keys.set(Number(version), bytes);
  }
  return keys.size === lines.length ? keys : null;
}

function writeRoots(path: string, keys: ReadonlyMap<number, Uint8Array>): void {
  const lines = [...keys].map(
    ([version, key]) => `${version} ${encodeBase64Url(key)} ${encodeBase64Url(checkOf(version, key))}`,
  );
  replaceFile(path, `${[HEAD, ...lines].join("\n")}\n`);
}

/** Tells a damaged key from a keyring that belongs to another one. */
function checkOf(version: number, key: Uint8Array): Uint8Array {
  const number = new ByteWriter(4).u32(version).finish();
  return Uint8Array.from(createHash("sha256").update(CHECK_LABEL).update(number).update(key).digest()).slice(
    0,
    CHECK_BYTES,
  );
}
