/**
 * The primitives by node:crypto (OpenSSL).
 *
 * Importing a raw key costs as much as using it. A key object of a private key is therefore kept for as long as the array it was made
 * from lives; so an identity key and the ratchet pair of a session in memory are imported once. With the public half at
 * hand a JWK is the fastest way in (DER takes ten times as long on Node 22).
 *
 * ML-KEM encapsulates with noble: node:crypto draws the randomness itself, and here it is given. What uses a long-lived private key,
 * decapsulation, is OpenSSL's, which is written to take the same time for every key (docs/decisions/0012-ml-kem.md).
 */
import crypto, {
  createCipheriv,
  createDecipheriv,
  createHmac,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  hash,
  hkdfSync,
  type KeyObject,
  randomBytes,
  sign,
  verify,
} from "node:crypto";
import { encodeBase64Url } from "../base64url.ts";
import { concat } from "../bytes.ts";
import { noblePrimitives } from "./noble.ts";
import type { KeyPair, Primitives, Random } from "./primitives.ts";

const AEAD = "chacha20-poly1305";
const TAG_BYTES = 16;

type Curve = "Ed25519" | "X25519";

/** The PKCS #8 wrapping of a raw private key (RFC 8410 §7). */
const PKCS8_PREFIX: Record<Curve, Uint8Array> = {
  Ed25519: Uint8Array.from([48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32]),
  X25519: Uint8Array.from([48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 110, 4, 34, 4, 32]),
};

/** The PKCS #8 wrapping of an ML-KEM-768 seed, without the decapsulation key that could stand beside it. */
const ML_KEM_PKCS8_PREFIX = Uint8Array.from([
  48, 84, 2, 1, 0, 48, 11, 6, 9, 96, 134, 72, 1, 101, 3, 4, 4, 2, 4, 66, 128, 64,
]);
const ML_KEM_SEED_BYTES = 64;
const ML_KEM_KEY_BYTES = 1_184;

const privateKeys: Record<Curve, WeakMap<Uint8Array, KeyObject>> = { Ed25519: new WeakMap(), X25519: new WeakMap() };

type MlKem = Pick<Primitives, "mlKem768PublicKey" | "mlKem768Decapsulate">;

const openSslMlKem: MlKem = {
  mlKem768PublicKey: (seed) => {
    const spki = createPublicKey(mlKemKeyObject(seed)).export({ format: "der", type: "spki" });
    return plain(spki).slice(-ML_KEM_KEY_BYTES);
  },
  mlKem768Decapsulate: (own, ciphertext) => plain(crypto.decapsulate(mlKemKeyObject(own.privateKey), ciphertext)),
};

const { mlKem768PublicKey, mlKem768Decapsulate }: MlKem = hasMlKem() ? openSslMlKem : noblePrimitives;

export const nodePrimitives: Primitives = {
  sha256: (data) => plain(hash("sha256", data, "buffer")),
  sha512: (data) => plain(hash("sha512", data, "buffer")),
  hmacSha256: (key, data) => plain(createHmac("sha256", key).update(data).digest()),
  hkdfSha256: (ikm, salt, info, length) => new Uint8Array(hkdfSync("sha256", ikm, salt, info, length)),

  x25519PublicKey: (privateKey) => publicKeyOf("X25519", privateKey),
  x25519: (own, publicKey) => {
    const keys = { privateKey: privateKeyObject("X25519", own), publicKey: publicKeyObject("X25519", publicKey) };
    try {
      return plain(diffieHellman(keys));
    } catch (error) {
      // Both keys are imported: OpenSSL fails to derive for one reason only, the all-zero output (RFC 7748 §6.1).
      if ((error as { code?: unknown }).code === "ERR_OSSL_FAILED_DURING_DERIVATION") return null;
      throw error;
    }
  },

  ed25519PublicKey: (seed) => publicKeyOf("Ed25519", seed),
  ed25519Sign: (own, message) => plain(sign(null, message, privateKeyObject("Ed25519", own))),
  ed25519Verify: (publicKey, message, signature) =>
    verify(null, message, publicKeyObject("Ed25519", publicKey), signature),

  chacha20Poly1305Seal: (key, nonce, plaintext, aad) => {
    const cipher = createCipheriv(AEAD, key, nonce, { authTagLength: TAG_BYTES });
    cipher.setAAD(aad, { plaintextLength: plaintext.length });
    const ciphertext = plain(cipher.update(plaintext));
    cipher.final();
    return { ciphertext, tag: plain(cipher.getAuthTag()) };
  },
  chacha20Poly1305Open: (key, nonce, { ciphertext, tag }, aad) => {
    if (tag.length !== TAG_BYTES) return null;
    const decipher = createDecipheriv(AEAD, key, nonce, { authTagLength: TAG_BYTES });
    decipher.setAAD(aad, { plaintextLength: ciphertext.length });
    decipher.setAuthTag(tag);
    const plaintext = plain(decipher.update(ciphertext));
    try {
      decipher.final();
    } catch {
      plaintext.fill(0);
      return null;
    }
    return plaintext;
  },

  mlKem768PublicKey,
  mlKem768Encapsulate: noblePrimitives.mlKem768Encapsulate,
  mlKem768Decapsulate,
};

/** The operating system's random source. */
export const nodeRandom: Random = (length) => plain(randomBytes(length));

function privateKeyObject(curve: Curve, own: KeyPair): KeyObject {
  const known = privateKeys[curve].get(own.privateKey);
  if (known !== undefined) return known;
  const d = encodeBase64Url(own.privateKey);
  const x = encodeBase64Url(own.publicKey);
  const key = createPrivateKey({ key: { kty: "OKP", crv: curve, d, x }, format: "jwk" });
  privateKeys[curve].set(own.privateKey, key);
  return key;
}

function publicKeyObject(curve: Curve, publicKey: Uint8Array): KeyObject {
  return createPublicKey({ key: { kty: "OKP", crv: curve, x: encodeBase64Url(publicKey) }, format: "jwk" });
}

function publicKeyOf(curve: Curve, privateKey: Uint8Array): Uint8Array {
  const pkcs8 = concat(PKCS8_PREFIX[curve], privateKey) as Buffer;
  const key = createPrivateKey({ key: pkcs8, format: "der", type: "pkcs8" });
  privateKeys[curve].set(privateKey, key);
  const { x } = createPublicKey(key).export({ format: "jwk" });
  return plain(Buffer.from(x as string, "base64url")).slice();
}

function mlKemKeyObject(seed: Uint8Array): KeyObject {
  const pkcs8 = concat(ML_KEM_PKCS8_PREFIX, seed) as Buffer;
  const key = createPrivateKey({ key: pkcs8, format: "der", type: "pkcs8" });
  pkcs8.fill(0);
  return key;
}

/** Node before 24.7, or over an OpenSSL before 3.5, has none. */
function hasMlKem(): boolean {
  if (typeof crypto.decapsulate !== "function") return false;
  try {
    return mlKemKeyObject(new Uint8Array(ML_KEM_SEED_BYTES)).type === "private";
  } catch {
    // The one key imported here is well-formed: what is missing is the algorithm.
    return false;
  }
}

/** A Buffer as the plain array it is: a Buffer is not equal to one in tests, and its `slice` does not copy. */
function plain(buffer: Buffer): Uint8Array {
  return new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength);
}
