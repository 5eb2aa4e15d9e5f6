/**
 * The port to root keys: what the keys of the keyring are wrapped under. Two implementations, a file and a PKCS#11 token, hold to
 * `root-keys.test.ts`.
 *
 * Versions count from 1. Several processes use the same root keys; `create` and `destroyBelow` are called by one at a time, under the
 * keyring's lock. All methods throw `KeyringError`.
 */
export interface RootKeys {
  /** The highest version there is; 0 when there is none yet. */
  newest(): number;
  /** Wraps 32 bytes so that they open only with the same version and place. */
  wrap(version: number, key: Uint8Array, place: Uint8Array): Uint8Array;
  /** @throws KeyringError `root-missing` without that version, `root-wrong` for what was not wrapped so. */
  unwrap(version: number, wrapped: Uint8Array, place: Uint8Array): Uint8Array;
  /** Makes the next version; durable when it returns its number. */
  create(): number;
  /** Destroys the older versions. */
  destroyBelow(version: number): void;
  close(): void;
}

/** Bytes of a nonce and of a tag of AES-256-GCM; a wrapped key is nonce ‖ ciphertext ‖ tag in both implementations. */
export const WRAP_NONCE_BYTES = 12;
export const WRAP_TAG_BYTES = 16;
