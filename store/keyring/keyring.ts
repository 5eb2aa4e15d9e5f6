/**
 * The keyring: the keys that everything of server custody is sealed under, outside PostgreSQL and its backups.
 *
 * master   one per agent, from its registration until it is destroyed; with it goes everything the agent has.
 * day      one per day for the whole service, made by whoever seals first; destroyed when nothing is sealed under it any more.
 * epoch    one per day for the whole service: the private half (X25519) of what content is sealed to on its way in.
 *
 * Promise: a key that was handed out once is there until it is destroyed, and is the same for every process with the same keyring, also for
 * those that made it in the same moment. What was destroyed is never made again under its name. A keyring is never made silently.
 */

export const KEY_BYTES = 32;

export type DatedKind = "day" | "epoch";

/** A day or an epoch is the number of days since 1970-01-01 (UTC), a u32. */
export type KeyName =
  | { readonly kind: "master"; readonly agentId: string }
  | { readonly kind: DatedKind; readonly number: number };

/** Whose fault: the one of whoever asked for that key. `Refusal`s. */
export type KeyCode = "key-unknown" | "key-destroyed";

/**
 * All methods throw `Unavailable` ("keyring", with a `KeyringError` or what the file system said as its cause) when the keyring cannot be
 * used now: nothing was done, the same may be tried again.
 */
export interface Keyring {
  /** Given at random when the keyring was made, the same in every copy of it. */
  readonly id: string;
  /**
   * Makes a key if there is none of this name; durable when it returns.
   *
   * @throws Refusal `key-destroyed`
   */
  create(name: KeyName): void;
  /**
   * The key's 32 bytes, in an array that is the caller's to wipe.
   *
   * @throws Refusal `key-unknown`, `key-destroyed`
   */
  unwrap(name: KeyName): Uint8Array;
  /** Destroys an agent's master key, or sees to it that the agent never gets one. Durable when it returns; again is harmless. */
  destroyMaster(agentId: string): void;
  /** Destroys every key of this kind below `number`, made or not yet made. Durable when it returns; the bound never goes down. */
  destroyDatedBelow(kind: DatedKind, number: number): void;
  /** The lowest number of a key of this kind that is there; null when there is none. Nothing is unwrapped. */
  oldest(kind: DatedKind): number | null;
  /** The highest. */
  newest(kind: DatedKind): number | null;
  /** How many calls have destroyed something: who keeps unwrapped keys drops them when it changes. */
  destructions(): number;
  /**
   * Wraps all keys anew under a fresh root key and destroys the old ones, so that no copy of the keyring made before opens any
   * more. Others work on meanwhile. After a crash it is called again.
   */
  rotate(): void;
  close(): void;
}

/** The keyring cannot be used, and why. An operator's matter: no message is at fault. */
export type KeyringCode =
  | "keyring-missing"
  | "keyring-exists"
  | "keyring-exposed"
  | "keyring-damaged"
  | "keyring-newer"
  | "keyring-replaced"
  | "keyring-foreign"
  | "keyring-older"
  | "root-missing"
  | "root-exposed"
  | "root-damaged"
  | "root-wrong"
  | "module-missing"
  | "token-missing"
  | "token-fault"
  | "pin-wrong"
  | "pin-locked";

const WHY: Record<KeyringCode, string> = {
  "keyring-missing": "there is no keyring at this path: make one, or bring back the one that belongs here",
  "keyring-exists": "there is a keyring at this path already",
  "keyring-exposed":
    "the keyring, or its folder, can be written or read by others: it has to be its owner's alone (0600)",
  "keyring-damaged": "the keyring was changed or cut: bring back a copy",
  "keyring-newer": "the keyring was written by a newer version",
  "keyring-replaced": "another file lies where the keyring was opened: start again",
  "keyring-foreign":
    "this is not the keyring that this database was filled with: configure that one or, when it is lost for good, accept this one (npm run keyring -- accept)",
  "keyring-older":
    "the keyring is a copy from before keys were made or destroyed: bring back the newest or, when there is no newer one, accept this one (npm run keyring -- accept)",
  "root-missing": "the root key that the keyring is wrapped under is not there",
  "root-exposed": "the root key can be read by others, or leave its token",
  "root-damaged": "the file of the root keys was changed or cut: bring back a copy",
  "root-wrong": "this root key is not the one that the keyring is wrapped under",
  "module-missing": "the PKCS#11 module cannot be loaded",
  "token-missing": "there is no token of this label",
  "token-fault": "the token did not do what it was asked",
  "pin-wrong": "the token refuses the PIN",
  "pin-locked": "the PIN is locked, expired or was never set",
};

export class KeyringError extends Error {
  override readonly name = "KeyringError";
  readonly code: KeyringCode;

  constructor(code: KeyringCode, cause?: unknown) {
    super(WHY[code], cause === undefined ? undefined : { cause });
    this.code = code;
  }
}
