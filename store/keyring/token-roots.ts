/**
 * Root keys that never leave a PKCS#11 token: AES-256, non-extractable, one object per version, labelled `<label>/<version>`.
 *
 * The token wraps and unwraps each key of the keyring (AES-256-GCM, nonce from the operating system), so that the keyring's file is
 * worthless without it, and destroying the object destroys everything. Of a session that was lost (a restarted HSM, a logout) another is opened, once.
 */
import { randomBytes } from "node:crypto";
import { concat } from "../../protocol/bytes.ts";
import { type Cryptoki, type KeyHandle, loadCryptoki, StaleHandle, type TokenSession } from "./cryptoki.ts";
import { KEY_BYTES, KeyringError } from "./keyring.ts";
import { type RootKeys, WRAP_NONCE_BYTES, WRAP_TAG_BYTES } from "./root-keys.ts";

export interface TokenOptions {
  /** Path of the vendor's shared library. */
  readonly modulePath: string;
  readonly tokenLabel: string;
  readonly pin: string;
  /** What the keys' labels begin with: keyrings that share a token differ in it. */
  readonly keyLabel: string;
}

interface Root {
  readonly handle: KeyHandle;
  readonly inside: boolean;
}

/** @throws KeyringError `module-missing`, `token-missing`, `pin-wrong`, `pin-locked`, `token-fault` */
export function openTokenRoots(options: TokenOptions): RootKeys {
  return new TokenRoots(loadCryptoki(options.modulePath), options);
}

class TokenRoots implements RootKeys {
  readonly #cryptoki: Cryptoki;
  readonly #options: TokenOptions;
  #session: TokenSession;
  #roots: ReadonlyMap<number, Root>;

  constructor(cryptoki: Cryptoki, options: TokenOptions) {
    this.#cryptoki = cryptoki;
    this.#options = options;
    this.#session = cryptoki.open(options.tokenLabel, options.pin);
    this.#roots = this.#find();
  }

  newest(): number {
    return this.#inSession(() => {
      this.#roots = this.#find();
      return Math.max(0, ...this.#roots.keys());
    });
  }

  wrap(version: number, key: Uint8Array, place: Uint8Array): Uint8Array {
    const nonce = Uint8Array.from(randomBytes(WRAP_NONCE_BYTES));
    return this.#withRoot(version, (handle) => concat(nonce, this.#session.encrypt(handle, nonce, place, key)));
  }

  unwrap(version: number, wrapped: Uint8Array, place: Uint8Array): Uint8Array {
    if (wrapped.length !== WRAP_NONCE_BYTES + KEY_BYTES + WRAP_TAG_BYTES) throw new KeyringError("root-wrong");
    const [nonce, sealed] = [wrapped.slice(0, WRAP_NONCE_BYTES), wrapped.slice(WRAP_NONCE_BYTES)];
    const attempt = () => this.#withRoot(version, (handle) => this.#session.decrypt(handle, nonce, place, sealed));
    let key = attempt();
    if (key === null) {
      // Not every token tells a ciphertext that does not verify from a session that is broken.
      this.#reopen();
      key = attempt();
    }
    if (key === null) throw new KeyringError("root-wrong");
    return key;
  }

  create(): number {
    return this.#inSession(() => {
      const version = Math.max(0, ...this.#find().keys()) + 1;
      this.#session.generateKey(`${this.#options.keyLabel}/${version}`);
      this.#roots = this.#find();
      return version;
    });
  }

  destroyBelow(version: number): void {
    this.#inSession(() => {
      for (const [each, { handle }] of this.#find()) if (each < version) this.#session.destroyKey(handle);
      this.#roots = this.#find();
    });
  }

  close(): void {
    this.#session.close();
  }

  /** Looks again when the key is not known, or not there any more: another process rotated. */
  #withRoot<Result>(version: number, work: (handle: KeyHandle) => Result): Result {
    return this.#inSession(() => {
      if (!this.#roots.has(version)) this.#roots = this.#find();
      try {
        return work(this.#usable(version));
      } catch (error) {
        if (!(error instanceof StaleHandle)) throw error;
        this.#roots = this.#find();
        return work(this.#usable(version));
      }
    });
  }

  #usable(version: number): KeyHandle {
    const root = this.#roots.get(version);
    if (root === undefined) throw new KeyringError("root-missing");
    if (!root.inside) throw new KeyringError("root-exposed");
    return root.handle;
  }

  #find(): Map<number, Root> {
    const prefix = `${this.#options.keyLabel}/`;
    const roots = new Map<number, Root>();
    for (const { label, handle, inside } of this.#session.keys()) {
      const version = label.startsWith(prefix) ? label.slice(prefix.length) : "";
      if (/^[1-9][0-9]{0,8}$/.test(version)) roots.set(Number(version), { handle, inside });
    }
    return roots;
  }

  #inSession<Result>(work: () => Result): Result {
    try {
      return work();
    } catch (error) {
      if (!(error instanceof KeyringError) || error.code !== "token-fault") throw error;
      this.#reopen();
      return work();
    }
  }

  #reopen(): void {
    this.#session.close();
    this.#session = this.#cryptoki.open(this.#options.tokenLabel, this.#options.pin);
    this.#roots = this.#find();
  }
}
