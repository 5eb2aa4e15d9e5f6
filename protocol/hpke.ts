/**
 * HPKE (RFC 9180) in base mode, one message per encapsulation: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305.
 *
 * The key schedule and the modes are the library's; the algorithms below it are this project's primitives, so that it runs wherever the
 * protocol does and costs what its hashing costs: WebCrypto takes a thread's wake-up for each of a dozen small steps (docs/decisions/0020-ingress-sealing.md).
 */
import { type AEAD, CipherSuite, type KDF, type KEM, type Key, LabeledExpand, LabeledExtract } from "hpke";
import { asciiBytes, concat, EMPTY } from "./bytes.ts";
import { generateX25519, type KeyPair, type Primitives, type Random } from "./primitives/primitives.ts";
import { Refusal } from "./refusal.ts";

export const ENCAPSULATED_BYTES = 32;
export const HPKE_TAG_BYTES = 16;

const HASH_BYTES = 32;
const KEY_BYTES = 32;
const NONCE_BYTES = 12;

/** §7.1: the KEM's own name for itself in its key derivation. */
const KEM_ID = 0x0020;
const KEM_SUITE = concat(asciiBytes("KEM"), Uint8Array.of(0, KEM_ID));
const EAE_PRK = asciiBytes("eae_prk");
const SHARED_SECRET = asciiBytes("shared_secret");
const ONE_BLOCK = Uint8Array.of(1);

export interface HpkeSealed {
  /** 32 bytes. */
  readonly encapsulated: Uint8Array;
  /** With its tag of 16 bytes behind it. */
  readonly ciphertext: Uint8Array;
}

/** A raw key as the library wants keys to look. */
interface RawKey extends Key {
  readonly pair: Pick<KeyPair, "publicKey"> & Partial<KeyPair>;
}

/** @throws Refusal `bad-key` when the recipient's public key leads nowhere (an all-zero X25519 output) */
export async function hpkeSeal(
  primitives: Primitives,
  random: Random,
  recipient: Uint8Array,
  plaintext: Uint8Array,
  { info, aad }: { info: Uint8Array; aad: Uint8Array },
): Promise<HpkeSealed> {
  const suite = suiteOver(primitives, random);
  const { encapsulatedSecret, ciphertext } = await suite
    .Seal(rawKey("public", { publicKey: recipient }), plaintext, { info, aad })
    .catch(unwrapped);
  return { encapsulated: encapsulatedSecret, ciphertext };
}

/** @throws Refusal `bad-key` as above, `auth-failed` for what was not sealed to this key with this info and aad */
export async function hpkeOpen(
  primitives: Primitives,
  own: KeyPair,
  { encapsulated, ciphertext }: HpkeSealed,
  { info, aad }: { info: Uint8Array; aad: Uint8Array },
): Promise<Uint8Array> {
  const suite = suiteOver(primitives, neverRandom);
  return suite.Open(rawKey("private", own), encapsulated, ciphertext, { info, aad }).catch(unwrapped);
}

/** The library wraps what the algorithms throw. */
function unwrapped(error: { cause?: unknown }): never {
  throw error.cause instanceof Refusal ? error.cause : error;
}

function neverRandom(): never {
  throw new Error("opening draws nothing at random");
}

function suiteOver(primitives: Primitives, random: Random): CipherSuite<RawKey> {
  const kdf = kdfOver(primitives);
  return new CipherSuite<RawKey>(
    () => kemOver(primitives, kdf, random),
    () => kdf,
    () => aeadOver(primitives),
  );
}

function rawKey(type: "public" | "private", pair: RawKey["pair"]): RawKey {
  return { algorithm: { name: "X25519" }, extractable: true, type, pair };
}

/** §7.2. No output of this suite is longer than one block. */
function kdfOver(primitives: Primitives): KDF {
  return {
    id: 0x0001,
    type: "KDF",
    name: "HKDF-SHA256",
    Nh: HASH_BYTES,
    stages: 2,
    Extract: async (salt, ikm) => primitives.hmacSha256(salt, ikm),
    Expand: async (prk, info, length) => {
      if (length > HASH_BYTES) throw new Error("more than one block");
      return primitives.hmacSha256(prk, concat(info, ONE_BLOCK)).slice(0, length);
    },
    Derive: unused,
  };
}

/** §4.1, §7.1.1 */
function kemOver(primitives: Primitives, kdf: KDF, random: Random): KEM<RawKey> {
  const sharedSecret = async (own: KeyPair, peer: Uint8Array, kemContext: Uint8Array): Promise<Uint8Array> => {
    const dh = primitives.x25519(own, peer);
    if (dh === null) throw new Refusal("bad-key");
    const prk = await LabeledExtract(kdf, KEM_SUITE, EMPTY, EAE_PRK, dh);
    return LabeledExpand(kdf, KEM_SUITE, prk, SHARED_SECRET, kemContext, KEY_BYTES);
  };
  return {
    id: KEM_ID,
    type: "KEM",
    name: "DHKEM(X25519, HKDF-SHA256)",
    Nsecret: KEY_BYTES,
    Nenc: ENCAPSULATED_BYTES,
    Npk: KEY_BYTES,
    Nsk: KEY_BYTES,
    Encap: async (recipient) => {
      const ephemeral = generateX25519(primitives, random);
      const { publicKey } = recipient.pair;
      const context = concat(ephemeral.publicKey, publicKey);
      return { shared_secret: await sharedSecret(ephemeral, publicKey, context), enc: ephemeral.publicKey };
    },
    Decap: async (encapsulated, { pair: { publicKey, privateKey } }) => {
      if (privateKey === undefined) throw new Error("a private key is needed to open");
      return sharedSecret({ publicKey, privateKey }, encapsulated, concat(encapsulated, publicKey));
    },
    GenerateKeyPair: unused,
    DeriveKeyPair: unused,
    SerializePublicKey: unused,
    DeserializePublicKey: unused,
    SerializePrivateKey: unused,
    DeserializePrivateKey: unused,
  };
}

/** §7.3 */
function aeadOver(primitives: Primitives): AEAD {
  return {
    id: 0x0003,
    type: "AEAD",
    name: "ChaCha20Poly1305",
    Nk: KEY_BYTES,
    Nn: NONCE_BYTES,
    Nt: HPKE_TAG_BYTES,
    Seal: async (key, nonce, aad, plaintext) => {
      const { ciphertext, tag } = primitives.chacha20Poly1305Seal(key, nonce, plaintext, aad);
      return concat(ciphertext, tag);
    },
    Open: async (key, nonce, aad, sealed) => {
      const tagAt = sealed.length - HPKE_TAG_BYTES;
      const parts = { ciphertext: sealed.subarray(0, tagAt), tag: sealed.subarray(tagAt) };
      const plaintext = tagAt < 0 ? null : primitives.chacha20Poly1305Open(key, nonce, parts, aad);
      if (plaintext === null) throw new Refusal("auth-failed");
      return plaintext;
    },
  };
}

async function unused(): Promise<never> {
  throw new Error("keys are made and kept elsewhere");
}
