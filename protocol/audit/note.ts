/**
 * Signed notes (C2SP signed-note, https://c2sp.org/signed-note) with Ed25519: a text that people can read, and lines that vouch for it.
 *
 *     note           = text ending in a newline ‖ newline ‖ one or more of: "— " name " " base64(key id(4) ‖ signature(64)) newline
 *     key id         = SHA-256(name ‖ 0x0A ‖ 0x01 ‖ public key), its first 4 bytes
 *     verifier key   = name "+" hex(key id) "+" base64(0x01 ‖ public key)
 *     signer key     = "PRIVATE+KEY+" name "+" hex(key id) "+" base64(0x01 ‖ seed)
 *
 * What is signed is the text with its last newline. Lines of keys that one does not know are passed over.
 */
import { decodeBase64Url, encodeBase64Url } from "../base64url.ts";
import { ByteReader, concat, equalBytes } from "../bytes.ts";
import { checkIdentityKey } from "../identity.ts";
import type { KeyPair, Primitives } from "../primitives/primitives.ts";
import { Refusal } from "../refusal.ts";
import { encodeUtf8 } from "../utf8.ts";

/** The algorithm's number in a key: Ed25519. */
const ED25519 = 1;
const KEY_ID_BYTES = 4;
const PUBLIC_KEY_BYTES = 32;
const SEED_BYTES = 32;
const SIGNER_PREFIX = "PRIVATE+KEY+";
/** As many as the reference implementation reads: a note is not a place for others to write into. */
const SIGNATURES_MAX = 100;

/** No space of Unicode, no plus, no control character. */
const KEY_NAME = /^[^\s+\p{Cc}]+$/u;
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for.
const CONTROL = /[\u0000-\u0009\u000b-\u001f]/;
const KEY_LINE = /^([^+]+)\+([0-9a-f]{8})\+(.+)$/su;
const SIGNATURE_LINE = /^\u2014 ([^\s+]+) ([A-Za-z0-9+/]+={0,2})$/u;

type NotePrimitives = Pick<Primitives, "sha256" | "ed25519Verify">;

export interface Verifier {
  readonly name: string;
  readonly keyId: Uint8Array;
  /** Ed25519. */
  readonly publicKey: Uint8Array;
}

/** Throws a `Refusal` (`malformed`) for a name that no line of a note can carry. */
export function verifierOf(primitives: Pick<Primitives, "sha256">, name: string, publicKey: Uint8Array): Verifier {
  if (!isKeyName(name)) throw malformed("key name", "a name without spaces and plus signs");
  const bytes = concat(utf8(name), Uint8Array.of(0x0a, ED25519), publicKey);
  return { name, publicKey, keyId: primitives.sha256(bytes).slice(0, KEY_ID_BYTES) };
}

function isKeyName(name: string): boolean {
  return KEY_NAME.test(name) && encodeUtf8(name) !== null;
}

export function formatVerifierKey({ name, keyId, publicKey }: Verifier): string {
  return `${name}+${hexOf(keyId)}+${encodeBase64(concat(Uint8Array.of(ED25519), publicKey))}`;
}

/** Throws a `Refusal`: `malformed`, or `identity-key-invalid` for a key that is no point of prime order. */
export function parseVerifierKey(primitives: Pick<Primitives, "sha256">, text: string): Verifier {
  const fix = "the line of GET /ops/audit/key: name+8 hexadecimal digits+base64";
  const [, name, keyId, base64] = KEY_LINE.exec(text) ?? [];
  const key = base64 === undefined ? null : decodeBase64(base64);
  if (name === undefined || key === null || key[0] !== ED25519 || key.length !== 1 + PUBLIC_KEY_BYTES)
    throw malformed("verifier key", fix);
  const verifier = verifierOf(primitives, name, key.subarray(1));
  if (hexOf(verifier.keyId) !== keyId) throw malformed("verifier key", fix);
  checkIdentityKey(verifier.publicKey);
  return verifier;
}

export interface Signer {
  readonly name: string;
  /** Ed25519; the private key is the seed. */
  readonly key: KeyPair;
}

/** A secret: whoever has it signs for the log. */
export function formatSignerKey(primitives: Pick<Primitives, "sha256">, { name, key }: Signer): string {
  const { keyId } = verifierOf(primitives, name, key.publicKey);
  return `${SIGNER_PREFIX}${name}+${hexOf(keyId)}+${encodeBase64(concat(Uint8Array.of(ED25519), key.privateKey))}`;
}

/** Throws a `Refusal` (`malformed`). */
export function parseSignerKey(primitives: Pick<Primitives, "sha256" | "ed25519PublicKey">, text: string): Signer {
  const fix = "the line that `npm run audit-key -- create NAME` has made";
  const rest = text.startsWith(SIGNER_PREFIX) ? text.slice(SIGNER_PREFIX.length) : "";
  const [, name, keyId, base64] = KEY_LINE.exec(rest) ?? [];
  const seed = base64 === undefined ? null : decodeBase64(base64);
  if (name === undefined || seed === null || seed[0] !== ED25519 || seed.length !== 1 + SEED_BYTES)
    throw malformed("signer key", fix);
  const privateKey = seed.slice(1);
  const key = { privateKey, publicKey: primitives.ed25519PublicKey(privateKey) };
  if (hexOf(verifierOf(primitives, name, key.publicKey).keyId) !== keyId) throw malformed("signer key", fix);
  return { name, key };
}

/** The note of one signer. `text` ends in a newline and has no control characters but newlines; else it throws a `Refusal` (`malformed`). */
export function signNote(
  primitives: Pick<Primitives, "sha256" | "ed25519Sign">,
  { name, key }: Signer,
  text: string,
): string {
  if (!isNoteText(text)) throw malformed("text", "lines of text, each with its newline");
  const { keyId } = verifierOf(primitives, name, key.publicKey);
  const signature = primitives.ed25519Sign(key, utf8(text));
  return `${text}\n\u2014 ${name} ${encodeBase64(concat(keyId, signature))}\n`;
}

/**
 * The text of a note that this key has signed. Throws a `Refusal`: `malformed` for what is no note, `signature-invalid` when there is no line of this key,
 * or one that does not verify.
 */
export function openNote(primitives: NotePrimitives, verifier: Verifier, note: string): string {
  const split = note.lastIndexOf("\n\n");
  const text = note.slice(0, split + 1);
  const lines = note.slice(split + 2).split("\n");
  const isNote =
    split >= 0 && isNoteText(text) && !CONTROL.test(note) && encodeUtf8(note) !== null && lines.pop() === "";
  if (!isNote || lines.length === 0 || lines.length > SIGNATURES_MAX) throw malformed("note", NOTE_FIX);
  const own = lines.map(parseSignature).filter(({ name, keyId }) => {
    return name === verifier.name && equalBytes(keyId, verifier.keyId);
  });
  const message = utf8(text);
  const isSigned = own.length > 0 && own.every(({ signature }) => verifies(primitives, verifier, message, signature));
  if (isSigned) return text;
  throw new Refusal("signature-invalid", { field: "note", fix: "a note that is signed by the key given" });
}

const NOTE_FIX = "the text of a checkpoint, an empty line, and its signature lines, unchanged";

function verifies(primitives: NotePrimitives, { publicKey }: Verifier, message: Uint8Array, signature: Uint8Array) {
  return primitives.ed25519Verify(publicKey, message, signature);
}

function parseSignature(line: string): { readonly name: string; keyId: Uint8Array; signature: Uint8Array } {
  const [, name, base64] = SIGNATURE_LINE.exec(line) ?? [];
  const bytes = base64 === undefined ? null : decodeBase64(base64);
  if (name === undefined || bytes === null || bytes.length <= KEY_ID_BYTES) throw malformed("note", NOTE_FIX);
  return { name, keyId: new ByteReader(bytes).bytes(KEY_ID_BYTES), signature: bytes.subarray(KEY_ID_BYTES) };
}

function isNoteText(text: string): boolean {
  return text.endsWith("\n") && text.length > 1 && !CONTROL.test(text) && encodeUtf8(text) !== null;
}

/** RFC 4648 §4, with padding. */
export function encodeBase64(bytes: Uint8Array): string {
  const text = encodeBase64Url(bytes).replaceAll("-", "+").replaceAll("_", "/");
  return text.padEnd(Math.ceil(text.length / 4) * 4, "=");
}

/** Null when the text is not the one right spelling of any bytes. */
export function decodeBase64(text: string): Uint8Array | null {
  if (text.length % 4 !== 0 || /[-_]/.test(text)) return null;
  const bytes = decodeBase64Url(
    text
      .replace(/={1,2}$/, "")
      .replaceAll("+", "-")
      .replaceAll("/", "_"),
  );
  return bytes !== null && encodeBase64(bytes) === text ? bytes : null;
}

function utf8(text: string): Uint8Array {
  const bytes = encodeUtf8(text);
  if (bytes === null) throw malformed("text", "text without lone surrogates");
  return bytes;
}

function hexOf(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function malformed(field: string, fix: string): Refusal {
  return new Refusal("malformed", { field, fix });
}
