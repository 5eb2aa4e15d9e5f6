/**
 * The agent's own prekeys, private halves sealed.
 *
 * A prekey is stored before it is uploaded. One-time prekeys are uploaded, and handed out, in the order in which they were stored. The
 * private half of one is deleted in the transaction of the message that used it.
 */

import type { DatabaseSync } from "node:sqlite";
import { DEPRECATED_PREKEY_KEPT_MS, ONE_TIME_PREKEY_KEPT_MS, PREKEY_UPLOAD_MAX } from "../../protocol/limits.ts";
import type { OwnKemPrekey } from "../../protocol/peer.ts";
import type { NewPrekeys, PrekeyStock } from "../../protocol/prekey-stock.ts";
import type { KemPrekey, OneTimePrekey, SignedPrekey } from "../../protocol/prekeys.ts";
import type { KeyPair } from "../../protocol/primitives/primitives.ts";
import type { Sealer } from "./seal.ts";

type PrekeyKind = "signed" | "kem-last-resort" | "one-time" | "kem";

/** What is handed out of the newest rotation, and the one-time prekeys of which the service may not know yet, oldest first. */
interface Uploadable {
  readonly signedPrekey: SignedPrekey;
  readonly lastResortKemPrekey: KemPrekey;
  /** At most 200 of each kind. */
  readonly oneTimePrekeys: readonly OneTimePrekey[];
  readonly kemPrekeys: readonly KemPrekey[];
  /** Does the service know all of it? */
  readonly isUploaded: boolean;
}

export class Prekeys {
  readonly #sealer: Sealer;
  readonly #statements: ReturnType<typeof prepare>;

  constructor(database: DatabaseSync, sealer: Sealer) {
    this.#sealer = sealer;
    this.#statements = prepare(database);
  }

  /** A new signed prekey takes the place of the older one; so does a KEM prekey of last resort. */
  add({ signed, lastResort, oneTime, kem }: NewPrekeys, now: number): void {
    if (signed !== null) this.#add("signed", signed.prekey, signed.pair);
    if (lastResort !== null) this.#add("kem-last-resort", lastResort.prekey, lastResort.pair);
    for (const { prekey, pair } of oneTime) this.#add("one-time", { ...prekey, createdAt: now, signature: null }, pair);
    for (const { prekey, pair } of kem) this.#add("kem", prekey, pair);
  }

  /** Null when it is not there (any more). */
  find(kind: "signed" | "one-time", id: string): KeyPair | null {
    const row = this.#statements.find.get(id) as unknown as PrivateRow | undefined;
    return row?.kind === kind ? this.#open(id, row) : null;
  }

  /** Null when it is not there (any more). */
  findKem(id: string): OwnKemPrekey | null {
    const row = this.#statements.find.get(id) as unknown as PrivateRow | undefined;
    if (row?.kind !== "kem" && row?.kind !== "kem-last-resort") return null;
    return { pair: this.#open(id, row), lastResort: row.kind === "kem-last-resort" };
  }

  /** Has this agent ever published a KEM prekey? One of last resort is always there from then on. */
  kemPublished(): boolean {
    return this.#statements.anyKem.get() !== undefined;
  }

  remove(id: string): void {
    this.#statements.remove.run(id);
  }

  /** Null before the first rotation. */
  uploadable(): Uploadable | null {
    const [signed] = this.#rows("signed", this.#statements.current);
    const [lastResort] = this.#rows("kem-last-resort", this.#statements.current);
    if (signed === undefined || lastResort === undefined) return null;
    const oneTime = this.#rows("one-time", this.#statements.notUploaded);
    const kem = this.#rows("kem", this.#statements.notUploaded);
    return {
      signedPrekey: signedOf(signed),
      lastResortKemPrekey: { ...signedOf(lastResort), lastResort: true },
      oneTimePrekeys: oneTime.map(({ id, public_key }) => ({ id, publicKey: public_key })),
      kemPrekeys: kem.map((row) => ({ ...signedOf(row), lastResort: false })),
      isUploaded: signed.uploaded > 0 && lastResort.uploaded > 0 && oneTime.length + kem.length === 0,
    };
  }

  /**
   * What the service holds if it can hand out so many one-time prekeys: they are handed out oldest first, so those that are left are the
   * ones uploaded last.
   */
  stock({ oneTime, kem }: { readonly oneTime: number; readonly kem: number }): PrekeyStock {
    const [signed] = this.#rows("signed", this.#statements.current);
    const [lastResort] = this.#rows("kem-last-resort", this.#statements.current);
    const newest = (kind: PrekeyKind, count: number) =>
      (this.#statements.newest.all(kind, count) as unknown as PublicRow[]).reverse().map(stocked);
    return {
      signed: signed === undefined ? null : stocked(signed),
      lastResort: lastResort === undefined ? null : stocked(lastResort),
      oneTime: newest("one-time", oneTime),
      kem: newest("kem", kem),
    };
  }

  /** When the signed prekey in force was made, milliseconds; null before the first. */
  signedCreatedAt(): number | null {
    return this.#rows("signed", this.#statements.current)[0]?.created_at ?? null;
  }

  /** From now on the older signed prekey, and that of last resort, are deprecated: until now the service has handed them out. */
  markUploaded(ids: readonly string[], now: number): void {
    for (const id of ids) this.#statements.markUploaded.run(now, id);
    this.#statements.deprecate.run(now);
  }

  /** For a service that knows none of them; one-time prekeys that it may have handed out before it forgot them stay back. */
  uploadCurrentAgain(): void {
    this.#statements.uploadCurrentAgain.run();
  }

  /** True when a signed prekey went. */
  forgetOld(now: number): boolean {
    this.#statements.forgetOneTime.run(now - ONE_TIME_PREKEY_KEPT_MS);
    return Number(this.#statements.forgetDeprecated.run(now - DEPRECATED_PREKEY_KEPT_MS).changes) > 0;
  }

  #add(
    kind: PrekeyKind,
    prekey: Omit<SignedPrekey, "signature"> & { readonly signature: Uint8Array | null },
    { privateKey }: KeyPair,
  ): void {
    const { id, publicKey, signature, createdAt } = prekey;
    this.#statements.add.run(id, kind, publicKey, this.#sealer.seal(place(id), privateKey), signature, createdAt);
  }

  #open(id: string, row: PrivateRow): KeyPair {
    return { publicKey: row.public_key, privateKey: this.#sealer.open(place(id), row.sealed_private_key) };
  }

  #rows(kind: PrekeyKind, statement: { all(kind: string): unknown }): PublicRow[] {
    return statement.all(kind) as PublicRow[];
  }
}

interface PrivateRow {
  kind: PrekeyKind;
  public_key: Uint8Array;
  sealed_private_key: Uint8Array;
}

interface PublicRow {
  id: string;
  public_key: Uint8Array;
  signature: Uint8Array;
  created_at: number;
  uploaded: number;
}

function signedOf({ id, public_key, signature, created_at }: PublicRow): SignedPrekey {
  return { id, publicKey: public_key, signature, createdAt: created_at };
}

function stocked({ id, public_key }: PublicRow): { id: string; publicKey: Uint8Array } {
  return { id, publicKey: public_key };
}

function place(id: string): string {
  return `prekeys.private_key:${id}`;
}

function prepare(database: DatabaseSync) {
  const columns = "id, public_key, signature, created_at, uploaded";
  return {
    add: database.prepare(
      `INSERT INTO prekeys (id, kind, public_key, sealed_private_key, signature, created_at) VALUES (?, ?, ?, ?, ?, ?)`,
    ),
    deprecate: database.prepare(
      `UPDATE prekeys SET deprecated_at = ? WHERE kind IN ('signed', 'kem-last-resort') AND deprecated_at IS NULL AND EXISTS (
         SELECT 1 FROM prekeys AS newer WHERE newer.kind = prekeys.kind AND newer.place > prekeys.place AND newer.uploaded > 0)`,
    ),
    find: database.prepare("SELECT kind, public_key, sealed_private_key FROM prekeys WHERE id = ?"),
    anyKem: database.prepare("SELECT 1 FROM prekeys WHERE kind IN ('kem', 'kem-last-resort') LIMIT 1"),
    remove: database.prepare("DELETE FROM prekeys WHERE id = ?"),
    current: database.prepare(`SELECT ${columns} FROM prekeys WHERE kind = ? ORDER BY place DESC LIMIT 1`),
    notUploaded: database.prepare(
      `SELECT ${columns} FROM prekeys WHERE kind = ? AND uploaded = 0 ORDER BY place LIMIT ${PREKEY_UPLOAD_MAX}`,
    ),
    newest: database.prepare(
      `SELECT ${columns} FROM prekeys WHERE kind = ? AND uploaded > 0 ORDER BY place DESC LIMIT ?`,
    ),
    markUploaded: database.prepare("UPDATE prekeys SET uploaded = ? WHERE id = ? AND uploaded = 0"),
    uploadCurrentAgain: database.prepare(
      "UPDATE prekeys SET uploaded = 0 WHERE kind IN ('signed', 'kem-last-resort') AND deprecated_at IS NULL",
    ),
    forgetDeprecated: database.prepare("DELETE FROM prekeys WHERE deprecated_at < ?"),
    forgetOneTime: database.prepare(
      "DELETE FROM prekeys WHERE kind IN ('one-time', 'kem') AND uploaded BETWEEN 1 AND ?",
    ),
  };
}
