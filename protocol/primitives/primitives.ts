/**
 * The cryptography the protocol stands on, as one small interface with two implementations that must agree:
 * `noble.ts` runs anywhere, `node.ts` is the fast one.
 *
 * Keys are raw bytes. Callers have checked lengths; a wrong length is a bug and throws. An array that holds a private key
 * is never changed while it is in use: implementations may remember what they derived from it.
 */

/**
 * An X25519 pair, an Ed25519 pair whose private key is the 32-byte seed, or an ML-KEM-768 pair whose private key is the 64-byte
 * seed d ‖ z (FIPS 203 §7.1), from which the decapsulation key of 2,400 bytes can be made at any time.
 */
export interface KeyPair {
  readonly publicKey: Uint8Array;
  readonly privateKey: Uint8Array;
}

export interface Sealed {
  readonly ciphertext: Uint8Array;
  readonly tag: Uint8Array;
}

/** A shared secret (32 bytes) and what the other side finds it with (1,088 bytes). */
export interface Encapsulated {
  readonly sharedSecret: Uint8Array;
  readonly ciphertext: Uint8Array;
}

/** Gives `length` fresh, secret, uniform bytes. */
export type Random = (length: number) => Uint8Array;

/** Nonces: they are no secret. What is longer may be a key, and lies nowhere before it is needed. */
const SHORT_BYTES_MAX = 16;
const AHEAD_BYTES = 3_072;

/** The same source, asked for many nonces at once: each draw costs about as much as sealing under the nonce. Nothing is given out twice. */
export function drawAhead(random: Random): Random {
  let ahead: Uint8Array = new Uint8Array(0);
  return (length) => {
    if (length > SHORT_BYTES_MAX) return random(length);
    if (ahead.length < length) ahead = random(AHEAD_BYTES);
    const value = ahead.subarray(0, length);
    ahead = ahead.subarray(length);
    return value;
  };
}

export interface Primitives {
  sha256(data: Uint8Array): Uint8Array;
  sha512(data: Uint8Array): Uint8Array;
  hmacSha256(key: Uint8Array, data: Uint8Array): Uint8Array;
  /** RFC 5869, extract and expand. */
  hkdfSha256(ikm: Uint8Array, salt: Uint8Array, info: Uint8Array, length: number): Uint8Array;

  x25519PublicKey(privateKey: Uint8Array): Uint8Array;
  /** RFC 7748; null when the output is all-zero. */
  x25519(own: KeyPair, publicKey: Uint8Array): Uint8Array | null;

  ed25519PublicKey(seed: Uint8Array): Uint8Array;
  ed25519Sign(own: KeyPair, message: Uint8Array): Uint8Array;
  /** RFC 8032 with canonical S and without cofactor; any length of signature. `publicKey` is a checked identity key. */
  ed25519Verify(publicKey: Uint8Array, message: Uint8Array, signature: Uint8Array): boolean;

  /** RFC 8439. */
  chacha20Poly1305Seal(key: Uint8Array, nonce: Uint8Array, plaintext: Uint8Array, aad: Uint8Array): Sealed;
  /** Null when the tag does not verify. */
  chacha20Poly1305Open(key: Uint8Array, nonce: Uint8Array, sealed: Sealed, aad: Uint8Array): Uint8Array | null;

  /** The encapsulation key (1,184 bytes) of a 64-byte seed d ‖ z (FIPS 203, ML-KEM-768). */
  mlKem768PublicKey(seed: Uint8Array): Uint8Array;
  /** `publicKey` has been checked (`isKemKey`); `randomness` is m, 32 fresh and secret bytes: the shared secret follows from them. */
  mlKem768Encapsulate(publicKey: Uint8Array, randomness: Uint8Array): Encapsulated;
  /** Never refuses: a ciphertext that was not made for this key gives a secret that nobody else has (implicit rejection). */
  mlKem768Decapsulate(own: KeyPair, ciphertext: Uint8Array): Uint8Array;
}

const ML_KEM_SEED_BYTES = 64;

/** A fresh X25519 pair. */
export function generateX25519(primitives: Primitives, random: Random): KeyPair {
  return x25519PairFrom(primitives, random(32));
}

/** The X25519 pair of a raw private key. */
export function x25519PairFrom(primitives: Primitives, privateKey: Uint8Array): KeyPair {
  return { publicKey: primitives.x25519PublicKey(privateKey), privateKey };
}

/** A fresh ML-KEM-768 pair. */
export function generateMlKem768(primitives: Primitives, random: Random): KeyPair {
  return mlKem768PairFrom(primitives, random(ML_KEM_SEED_BYTES));
}

/** The ML-KEM-768 pair of a 64-byte seed. */
export function mlKem768PairFrom(primitives: Primitives, seed: Uint8Array): KeyPair {
  return { publicKey: primitives.mlKem768PublicKey(seed), privateKey: seed };
}
