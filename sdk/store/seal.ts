/**
 * Sealing of the store's secret values: ChaCha20-Poly1305, bound to the place of the value.
 *
 *   sealed = u8(1) ‖ salt(16) ‖ nonce(12) ‖ ciphertext ‖ tag(16)
 *   key    = HKDF-SHA256(ikm = store key, salt, info = "sealpost/store/v1", 32)
 *   AAD    = label("sealpost/store/v1") ‖ place
 *
 * Each opening of a store has a fresh salt, so that random nonces of 96 bits only have to differ within it. A value moved to
 * another row, column or table does not open.
 */
import { asciiBytes, concat, EMPTY, label } from "../../protocol/bytes.ts";
import { nodePrimitives, nodeRandom } from "../../protocol/primitives/node.ts";
import { StoreError } from "../errors.ts";

export const STORE_KEY_BYTES = 32;

const FORM = 1;
const SALT_BYTES = 16;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const HEAD_BYTES = 1 + SALT_BYTES + NONCE_BYTES;
const INFO = asciiBytes("sealpost/store/v1");
const AAD_LABEL = label("sealpost/store/v1");

const NONCES_DRAWN = 256;

/** Derived keys kept in memory: one for each opening whose values still lie in the store. More is only slower. */
const DERIVED_KEYS_MAX = 64;

export class Sealer {
  readonly #storeKey: Uint8Array;
  readonly #salt: Uint8Array;
  readonly #key: Uint8Array;
  #nonces: Uint8Array = EMPTY;
  readonly #derived = new Map<string, Uint8Array>();

  /** `storeKey`: 32 bytes. */
  constructor(storeKey: Uint8Array) {
    this.#storeKey = storeKey;
    this.#salt = nodeRandom(SALT_BYTES);
    this.#key = this.#keyOf(this.#salt);
  }

  /** `place` is ASCII: table, column and row. */
  seal(place: string, value: Uint8Array): Uint8Array {
    const nonce = this.#nextNonce();
    const { ciphertext, tag } = nodePrimitives.chacha20Poly1305Seal(this.#key, nonce, value, aad(place));
    return concat(Uint8Array.of(FORM), this.#salt, nonce, ciphertext, tag);
  }

  /** Throws `store-damaged` for what was not sealed for this place under this key. */
  open(place: string, sealed: Uint8Array): Uint8Array {
    const tagAt = sealed.length - TAG_BYTES;
    if (sealed[0] !== FORM || tagAt < HEAD_BYTES) throw damaged();
    const key = this.#keyOf(sealed.slice(1, 1 + SALT_BYTES));
    const nonce = sealed.subarray(1 + SALT_BYTES, HEAD_BYTES);
    const parts = { ciphertext: sealed.subarray(HEAD_BYTES, tagAt), tag: sealed.subarray(tagAt) };
    const value = nodePrimitives.chacha20Poly1305Open(key, nonce, parts, aad(place));
    if (value === null) throw damaged();
    return value;
  }

  /** Random, drawn for many values at once: nonces are no secret, and each draw costs as much as the sealing. */
  #nextNonce(): Uint8Array {
    if (this.#nonces.length === 0) this.#nonces = nodeRandom(NONCES_DRAWN * NONCE_BYTES);
    const nonce = this.#nonces.subarray(0, NONCE_BYTES);
    this.#nonces = this.#nonces.subarray(NONCE_BYTES);
    return nonce;
  }

  #keyOf(salt: Uint8Array): Uint8Array {
    const name = String.fromCharCode(...salt);
    const known = this.#derived.get(name);
    if (known !== undefined) return known;
    const key = nodePrimitives.hkdfSha256(this.#storeKey, salt, INFO, STORE_KEY_BYTES);
    if (this.#derived.size === DERIVED_KEYS_MAX) this.#derived.clear();
    this.#derived.set(name, key);
    return key;
  }
}

function aad(place: string): Uint8Array {
  return concat(AAD_LABEL, asciiBytes(place));
}

function damaged(): StoreError {
  return new StoreError(
    "store-damaged",
    "a value of the store does not open: it was changed, or sealed under another key",
  );
}
