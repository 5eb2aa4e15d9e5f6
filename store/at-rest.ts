/**
 * Sealing at rest: what lies in PostgreSQL and Redis of agents whose keys the service holds.
 *
 *   lasting   u8(1) ‖ nonce(12) ‖ ciphertext ‖ tag(16)              the seed of an identity: under the agent's master key
 *   of a day  u8(2) ‖ u32(day) ‖ nonce(12) ‖ ciphertext ‖ tag(16)   ratchet states, private halves of prekeys, opened content
 *
 *   key = HKDF-SHA256(ikm = master key [‖ day key], salt = empty, info = label("sealpost/v1/at-rest") ‖ u8(form) ‖ lp(agent id) [‖ u32(day)], 32)
 *   AAD = label("sealpost/v1/at-rest") ‖ u8(form) [‖ u32(day)] ‖ lp(agent id) ‖ lp(table) ‖ u64(version) ‖ u8(parts) ‖ lp(part of the row's key) …
 *
 * AES-256-GCM. Nonces are random: of the 2^32 that one key allows (NIST SP 800-38D, chance of a repeat below 2^-32) an agent that is sealed
 * for 3,000 times a second uses 2^28 in its day. The lasting key is used a few times in an agent's life.
 *
 * Promises: what was changed, cut, or lies in another row, table or version than it was sealed for does not open, and neither does anything whose day or
 * master key is destroyed. Sealed values of a day are to be sealed anew on the next, so that the day's key can go (`destroyDays`).
 */
import { createCipheriv, createDecipheriv, createSecretKey, type KeyObject } from "node:crypto";
import { ByteReader, ByteWriter, concat, EMPTY, label } from "../protocol/bytes.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import { drawAhead } from "../protocol/primitives/primitives.ts";
import { Refusal, Unavailable } from "../protocol/refusal.ts";
import { KeptKeys } from "./keyring/kept-keys.ts";
import { KEY_BYTES, type KeyCode, type Keyring } from "./keyring/keyring.ts";
import { dayOf } from "./message-days.ts";

const CIPHER = "aes-256-gcm";
const LASTING = 1;
const OF_A_DAY = 2;
const LABEL = label("sealpost/v1/at-rest");
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const DAY_BYTES = 4;
const VERSION_BYTES = 8;
const LENGTH_BYTES = 2;

/** Keys of agents and days that are kept: 20,000 agents in one minute, and some 10 MB. */
const ROW_KEYS_MAX = 20_000;
/** Yesterday's, today's, and those of rows that were not sealed anew in time. */
const DAY_KEYS_MAX = 64;

/**
 * How long after a day something that was sealed on it may still be on its way into its row. Longer than any transaction, and than
 * clocks differ; a day's key lives a day longer anyway.
 */
const SEALED_LATE_MS_MAX = 3_600_000;

/**
 * Why something does not open.
 *
 * @public
 */
export type SealedCode = KeyCode | "sealed-damaged";

/** Where a sealed value lies. All texts are ASCII. */
export interface Place {
  /** Whose it is. */
  readonly agentId: string;
  readonly table: string;
  /** The parts of the row's primary key, and the column when there is more than one. */
  readonly row: readonly string[];
  /** Of the row: it changes with the value. */
  readonly version: number;
}

/** All methods throw `Unavailable` when the keyring cannot be used, and `Refusal`s of `SealedCode`. */
export interface AtRest {
  /** Under the agent's master key and the key of today, which is made if it is the day's first. Throws `key-unknown`, `key-destroyed`; `Unavailable` for a day that was destroyed: a clock that is slow. */
  seal(place: Place, value: Uint8Array): Uint8Array;
  /** Throws `sealed-damaged`, `key-unknown`, `key-destroyed`. */
  open(place: Place, sealed: Uint8Array): Uint8Array;
  /** The same value sealed today for the row's new version; null when it was sealed today. Throws as `open` does. */
  sealAnew(place: Place, newVersion: number, sealed: Uint8Array): Uint8Array | null;
  /** Is the key under which this is sealed destroyed? Says nothing of the value. Throws `sealed-damaged`, `key-unknown`. */
  isDestroyed(agentId: string, sealed: Uint8Array): boolean;
  /** Under the agent's master key alone: the 32 bytes that its identity is made from. */
  sealIdentity(agentId: string, seed: Uint8Array): Uint8Array;
  openIdentity(agentId: string, sealed: Uint8Array): Uint8Array;
  close(): void;
}

/** `now`: milliseconds since the epoch. */
export function openAtRest(keyring: Keyring, now: () => number = Date.now): AtRest {
  const rowKeys = new KeptKeys<KeyObject>(keyring, ROW_KEYS_MAX, now);
  const dayKeys = new KeptKeys<Uint8Array>(keyring, DAY_KEYS_MAX, now);
  const random = drawAhead(nodeRandom);

  const dayKey = (day: number, make: boolean) =>
    dayKeys.get(`${day}`, () => (make ? madeDay(keyring, day) : keyring.unwrap({ kind: "day", number: day })));
  const keyOf = (agentId: string, day: number | null, make: boolean): KeyObject =>
    rowKeys.get(`${agentId} ${day}`, () => {
      const master = keyring.unwrap({ kind: "master", agentId });
      const ikm = concat(master, day === null ? EMPTY : dayKey(day, make));
      const key = derive(ikm, agentId, day);
      for (const secret of [master, ikm]) secret.fill(0);
      return key;
    });
  const seal = (place: Place, day: number | null, value: Uint8Array) =>
    sealUnder(keyOf(place.agentId, day, true), random(NONCE_BYTES), place, day, value);
  const open = (place: Place, sealed: Uint8Array, form: number) => {
    const day = sealedDay(sealed);
    if ((day === null) !== (form === LASTING)) throw damaged();
    return openUnder(keyOf(place.agentId, day, false), place, day, sealed);
  };

  return {
    seal: (place, value) => seal(place, dayOf(now()), value),
    open: (place, sealed) => open(place, sealed, OF_A_DAY),
    sealAnew: (place, newVersion, sealed) => {
      const today = dayOf(now());
      if (sealedDay(sealed) === today) return null;
      const value = open(place, sealed, OF_A_DAY);
      const anew = seal({ ...place, version: newVersion }, today, value);
      value.fill(0);
      return anew;
    },
    isDestroyed: (agentId, sealed) => {
      try {
        keyOf(agentId, sealedDay(sealed), false);
        return false;
      } catch (error) {
        if (error instanceof Refusal && error.code === "key-destroyed") return true;
        throw error;
      }
    },
    sealIdentity: (agentId, seed) => seal(identityPlace(agentId), null, seed),
    openIdentity: (agentId, sealed) => open(identityPlace(agentId), sealed, LASTING),
    close: () => {
      rowKeys.close();
      dayKeys.close();
    },
  };
}

/** Today's key is never destroyed: it is this machine's clock that is wrong, and no fault of what is to be sealed. */
function madeDay(keyring: Keyring, day: number): Uint8Array {
  try {
    keyring.create({ kind: "day", number: day });
    return keyring.unwrap({ kind: "day", number: day });
  } catch (error) {
    if (error instanceof Refusal && error.code === "key-destroyed") throw new Unavailable("keyring", error);
    throw error;
  }
}

/** The day under whose key a value is sealed; null for a lasting one. Nothing is proved by it. Throws `sealed-damaged`. */
export function sealedDay(sealed: Uint8Array): number | null {
  const form = sealed[0];
  const head = form === OF_A_DAY ? 1 + DAY_BYTES : 1;
  if ((form !== OF_A_DAY && form !== LASTING) || sealed.length < head + NONCE_BYTES + TAG_BYTES) throw damaged();
  return form === LASTING ? null : new ByteReader(sealed.subarray(1)).u32();
}

/**
 * SQL: is what this column holds sealed under a day before the one of the parameter, which is `dayBytes` of it? Such rows are to be sealed
 * anew; when there are none, in no table, the keys of those days can go. Reads the beginning of a long value only, and bears any bytes.
 */
export function isSealedBefore(column: string, parameter: string): string {
  const head = `substring(${column} FROM 1 FOR ${1 + DAY_BYTES})`;
  return `(${head} >= '\\x${Buffer.from(dayBytes(0)).toString("hex")}'::bytea AND ${head} < ${parameter}::bytea)`;
}

/** For `isSealedBefore`. */
export function dayBytes(day: number): Uint8Array {
  return new ByteWriter(1 + DAY_BYTES).u8(OF_A_DAY).u32(day).finish();
}

/** The first day whose key cannot be destroyed yet, whatever is sealed under it: something of it may still be on its way into a row. */
export function firstLastingDay(nowMs: number): number {
  return dayOf(nowMs - SEALED_LATE_MS_MAX);
}

/**
 * Destroys the keys of the days before `lowestNeeded`, the lowest under which any row is sealed, as far as nothing that was sealed on them can
 * still be on its way into a row. `nowMs` was taken before the rows were looked at.
 */
export function destroyDays(keyring: Keyring, lowestNeeded: number, nowMs: number): void {
  keyring.destroyDatedBelow("day", Math.min(lowestNeeded, firstLastingDay(nowMs)));
}

function identityPlace(agentId: string): Place {
  return { agentId, table: "messaging_agents", row: [agentId], version: 1 };
}

function derive(ikm: Uint8Array, agentId: string, day: number | null): KeyObject {
  const size = LABEL.length + 1 + LENGTH_BYTES + agentId.length + (day === null ? 0 : DAY_BYTES);
  const info = new ByteWriter(size)
    .bytes(LABEL)
    .u8(day === null ? LASTING : OF_A_DAY)
    .lpAscii(agentId);
  const raw = nodePrimitives.hkdfSha256(ikm, EMPTY, (day === null ? info : info.u32(day)).finish(), KEY_BYTES);
  const key = createSecretKey(raw);
  raw.fill(0);
  return key;
}

function sealUnder(key: KeyObject, nonce: Uint8Array, place: Place, day: number | null, value: Uint8Array): Uint8Array {
  const cipher = createCipheriv(CIPHER, key, nonce).setAAD(aadOf(place, day));
  const ciphertext = cipher.update(value);
  cipher.final();
  const writer = new ByteWriter((day === null ? 1 : 1 + DAY_BYTES) + NONCE_BYTES + ciphertext.length + TAG_BYTES);
  const head = day === null ? writer.u8(LASTING) : writer.u8(OF_A_DAY).u32(day);
  return head.bytes(nonce).bytes(ciphertext).bytes(cipher.getAuthTag()).finish();
}

function openUnder(key: KeyObject, place: Place, day: number | null, sealed: Uint8Array): Uint8Array {
  const nonceAt = day === null ? 1 : 1 + DAY_BYTES;
  const tagAt = sealed.length - TAG_BYTES;
  const nonce = sealed.subarray(nonceAt, nonceAt + NONCE_BYTES);
  const cipher = createDecipheriv(CIPHER, key, nonce, { authTagLength: TAG_BYTES }).setAAD(aadOf(place, day));
  cipher.setAuthTag(sealed.subarray(tagAt));
  const { buffer, byteOffset, length } = cipher.update(sealed.subarray(nonceAt + NONCE_BYTES, tagAt));
  const value = new Uint8Array(buffer, byteOffset, length);
  try {
    cipher.final();
  } catch {
    // OpenSSL fails here for one reason only.
    value.fill(0);
    throw damaged();
  }
  return value;
}

function aadOf({ agentId, table, row, version }: Place, day: number | null): Uint8Array {
  const texts = row.reduce((sum, part) => sum + LENGTH_BYTES + part.length, 0);
  const fixed = LABEL.length + 1 + (day === null ? 0 : DAY_BYTES) + 2 * LENGTH_BYTES + VERSION_BYTES + 1;
  const writer = new ByteWriter(fixed + agentId.length + table.length + texts).bytes(LABEL);
  if (day === null) writer.u8(LASTING);
  else writer.u8(OF_A_DAY).u32(day);
  writer.lpAscii(agentId).lpAscii(table).u64(version).u8(row.length);
  for (const part of row) writer.lpAscii(part);
  return writer.finish();
}

function damaged(): Refusal<SealedCode> {
  return new Refusal("sealed-damaged");
}
