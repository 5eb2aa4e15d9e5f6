/**
 * HPKE (RFC 9180) in base mode, one message per encapsulation: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305.
 *
 * Written over this project's primitives, so that it runs wherever the protocol does. The tests hold it against the RFC's vector and against another
 * implementation. A library's key schedule over the same primitives takes twice as long (docs/decisions/0023-cached-states.md).
 */
import { asciiBytes, concat, EMPTY } from "./bytes.ts";
import { generateX25519, type KeyPair, type Primitives, type Random } from "./primitives/primitives.ts";
import { Refusal } from "./refusal.ts";

export const ENCAPSULATED_BYTES = 32;
export const HPKE_TAG_BYTES = 16;

const KEY_BYTES = 32;
const NONCE_BYTES = 12;

/** §4: every label begins with it. */
const HPKE_V1 = asciiBytes("HPKE-v1");
/** §7.1: the KEM's name in its own derivations. */
const KEM_SUITE = concat(asciiBytes("KEM"), Uint8Array.of(0x00, 0x20));
/** §5.1: the names of KEM, KDF and AEAD. */
const HPKE_SUITE = concat(asciiBytes("HPKE"), Uint8Array.of(0x00, 0x20, 0x00, 0x01, 0x00, 0x03));
const MODE_BASE = Uint8Array.of(0);
const ONE_BLOCK = Uint8Array.of(1);

const EAE_PRK = concat(HPKE_V1, KEM_SUITE, asciiBytes("eae_prk"));
const SHARED_SECRET = expandLabel(KEY_BYTES, KEM_SUITE, "shared_secret");
const PSK_ID_HASH = concat(HPKE_V1, HPKE_SUITE, asciiBytes("psk_id_hash"));
const INFO_HASH = concat(HPKE_V1, HPKE_SUITE, asciiBytes("info_hash"));
const SECRET = concat(HPKE_V1, HPKE_SUITE, asciiBytes("secret"));
const KEY = expandLabel(KEY_BYTES, HPKE_SUITE, "key");
const BASE_NONCE = expandLabel(NONCE_BYTES, HPKE_SUITE, "base_nonce");

export interface HpkeSealed {
  /** 32 bytes. */
  readonly encapsulated: Uint8Array;
  /** With its tag of 16 bytes behind it. */
  readonly ciphertext: Uint8Array;
}

interface Bound {
  readonly info: Uint8Array;
  readonly aad: Uint8Array;
}

/** @throws Refusal `bad-key` when the recipient's public key leads nowhere (an all-zero X25519 output) */
export function hpkeSeal(
  primitives: Primitives,
  random: Random,
  recipient: Uint8Array,
  plaintext: Uint8Array,
  { info, aad }: Bound,
): HpkeSealed {
  const ephemeral = generateX25519(primitives, random);
  const context = concat(ephemeral.publicKey, recipient);
  const { key, nonce } = schedule(primitives, sharedSecret(primitives, ephemeral, recipient, context), info);
  const { ciphertext, tag } = primitives.chacha20Poly1305Seal(key, nonce, plaintext, aad);
  key.fill(0);
  return { encapsulated: ephemeral.publicKey, ciphertext: concat(ciphertext, tag) };
}

/** @throws Refusal `bad-key` as above, `auth-failed` for what was not sealed to this key with this info and aad */
export function hpkeOpen(
  primitives: Primitives,
  own: KeyPair,
  { encapsulated, ciphertext: sealed }: HpkeSealed,
  { info, aad }: Bound,
): Uint8Array {
  const tagAt = sealed.length - HPKE_TAG_BYTES;
  if (tagAt < 0) throw new Refusal("auth-failed");
  const context = concat(encapsulated, own.publicKey);
  const { key, nonce } = schedule(primitives, sharedSecret(primitives, own, encapsulated, context), info);
  const parts = { ciphertext: sealed.subarray(0, tagAt), tag: sealed.subarray(tagAt) };
  const plaintext = primitives.chacha20Poly1305Open(key, nonce, parts, aad);
  key.fill(0);
  if (plaintext === null) throw new Refusal("auth-failed");
  return plaintext;
}

/** §4.1, ExtractAndExpand of the KEM. */
function sharedSecret(primitives: Primitives, own: KeyPair, peer: Uint8Array, context: Uint8Array): Uint8Array {
  const dh = primitives.x25519(own, peer);
  if (dh === null) throw new Refusal("bad-key");
  const prk = extract(primitives, EMPTY, EAE_PRK, dh);
  dh.fill(0);
  return expand(primitives, prk, SHARED_SECRET, context, KEY_BYTES);
}

/** §5.1, KeySchedule in base mode; §5.2: the nonce of the first message is the base nonce. Wipes the secret. */
function schedule(primitives: Primitives, shared: Uint8Array, info: Uint8Array) {
  const pskIdHash = extract(primitives, EMPTY, PSK_ID_HASH, EMPTY);
  const context = concat(MODE_BASE, pskIdHash, extract(primitives, EMPTY, INFO_HASH, info));
  const secret = extract(primitives, shared, SECRET, EMPTY);
  const key = expand(primitives, secret, KEY, context, KEY_BYTES);
  const nonce = expand(primitives, secret, BASE_NONCE, context, NONCE_BYTES);
  for (const used of [shared, secret]) used.fill(0);
  return { key, nonce };
}

/** §4, LabeledExtract: `label` with all that stands before it. */
function extract(primitives: Primitives, salt: Uint8Array, label: Uint8Array, ikm: Uint8Array): Uint8Array {
  return primitives.hmacSha256(salt, concat(label, ikm));
}

/** §4, LabeledExpand. No output of this suite is longer than one block. */
function expand(
  primitives: Primitives,
  prk: Uint8Array,
  label: Uint8Array,
  info: Uint8Array,
  length: number,
): Uint8Array {
  return primitives.hmacSha256(prk, concat(label, info, ONE_BLOCK)).subarray(0, length);
}

function expandLabel(length: number, suite: Uint8Array, label: string): Uint8Array {
  return concat(Uint8Array.of(0, length), HPKE_V1, suite, asciiBytes(label));
}
