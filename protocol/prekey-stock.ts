/**
 * What an agent has published for those who begin a session with it: how much of it is due to be made anew, and the digest by which agent
 * and service find out that they do not hold the same.
 */
import { ByteWriter, label } from "./bytes.ts";
import type { Identity } from "./identity.ts";
import {
  ONE_TIME_PREKEYS_FULL,
  ONE_TIME_PREKEYS_LOW,
  PREKEY_AHEAD_MS_MAX,
  PREKEY_UPLOAD_MAX,
  SIGNED_PREKEY_ROTATION_MS,
} from "./limits.ts";
import {
  createKemPrekey,
  createOneTimePrekey,
  createSignedPrekey,
  type KemPrekey,
  type OneTimePrekey,
  type OwnPrekey,
  type SignedPrekey,
} from "./prekeys.ts";
import type { Primitives, Random } from "./primitives/primitives.ts";
import { UUID_BYTES, uuidToBytes } from "./uuid.ts";

const STOCK_LABEL = label("sealpost/v1/prekey-stock");

/** Ids and public keys of all that can be handed out now; one-time prekeys in the order in which they will be. */
export interface PrekeyStock {
  readonly signed: StockedPrekey | null;
  /** The KEM prekey of last resort. */
  readonly lastResort: StockedPrekey | null;
  readonly oneTime: readonly StockedPrekey[];
  readonly kem: readonly StockedPrekey[];
}

interface StockedPrekey {
  /** UUID. */
  readonly id: string;
  readonly publicKey: Uint8Array;
}

/** How much the service can still hand out. */
export interface StockCounts {
  /** When the signed prekey in force was made, milliseconds; null when there is none. */
  readonly signedCreatedAt: number | null;
  readonly oneTime: number;
  readonly kem: number;
  readonly hasLastResort: boolean;
}

/** What is to be made. */
export interface DuePrekeys {
  /** The signed prekey, and with it the KEM prekey of last resort (protocol.md §2). */
  readonly rotation: boolean;
  readonly oneTime: number;
  readonly kem: number;
}

/** Prekeys with their private halves. Signed prekey and KEM prekey of last resort: both or neither. */
export interface NewPrekeys {
  readonly signed: OwnPrekey<SignedPrekey> | null;
  readonly lastResort: OwnPrekey<KemPrekey> | null;
  readonly oneTime: readonly OwnPrekey<OneTimePrekey>[];
  readonly kem: readonly OwnPrekey<KemPrekey>[];
}

/** `newId` gives a UUID that was never used. */
export interface PrekeyBirths {
  readonly now: number;
  readonly random: Random;
  readonly newId: () => string;
}

/**
 * SHA-256(label("sealpost/v1/prekey-stock") ‖ for each prekey: u8(kind) ‖ id(16) ‖ lp(public key)), kinds in this order: 1 the signed
 * prekey, 2 the KEM prekey of last resort, 3 the X25519 one-time prekeys, 4 the KEM one-time prekeys. 32 bytes.
 */
export function prekeyStockDigest(primitives: Primitives, stock: PrekeyStock): Uint8Array {
  const kinds = [
    stock.signed === null ? [] : [stock.signed],
    stock.lastResort === null ? [] : [stock.lastResort],
    stock.oneTime,
    stock.kem,
  ];
  const size = kinds.flat().reduce((sum, { publicKey }) => sum + 1 + UUID_BYTES + 2 + publicKey.length, 0);
  const writer = new ByteWriter(STOCK_LABEL.length + size).bytes(STOCK_LABEL);
  for (const [index, prekeys] of kinds.entries()) {
    for (const { id, publicKey } of prekeys)
      writer
        .u8(index + 1)
        .bytes(uuidToBytes(id))
        .lp(publicKey);
  }
  return primitives.sha256(writer.finish());
}

/** What keeps an agent reachable (protocol.md §2): a rotation every 7 days with 100 new one-time prekeys, and 100 again when fewer than 20 are left. */
export function duePrekeys({ signedCreatedAt, oneTime, kem, hasLastResort }: StockCounts, now: number): DuePrekeys {
  const rotation = signedCreatedAt === null || !hasLastResort || isOutOfTime(signedCreatedAt, now);
  const missing = (left: number) => {
    if (rotation) return ONE_TIME_PREKEYS_FULL;
    return left < ONE_TIME_PREKEYS_LOW ? ONE_TIME_PREKEYS_FULL - left : 0;
  };
  return { rotation, oneTime: missing(oneTime), kem: missing(kem) };
}

/** Too old, or made by a clock that was ahead: the service would not take it. */
function isOutOfTime(createdAt: number, now: number): boolean {
  return now - createdAt >= SIGNED_PREKEY_ROTATION_MS || createdAt - now > PREKEY_AHEAD_MS_MAX;
}

export function makePrekeys(
  primitives: Primitives,
  me: Identity,
  due: DuePrekeys,
  { now, random, newId }: PrekeyBirths,
): NewPrekeys {
  const birth = () => ({ id: newId(), now, random });
  const many = <Prekey>(count: number, make: () => Prekey) => Array.from({ length: count }, make);
  return {
    signed: due.rotation ? createSignedPrekey(primitives, me, birth()) : null,
    lastResort: due.rotation ? createKemPrekey(primitives, me, { ...birth(), lastResort: true }) : null,
    oneTime: many(Math.min(due.oneTime, PREKEY_UPLOAD_MAX), () => createOneTimePrekey(primitives, newId(), random)),
    kem: many(Math.min(due.kem, PREKEY_UPLOAD_MAX), () =>
      createKemPrekey(primitives, me, { ...birth(), lastResort: false }),
    ),
  };
}
