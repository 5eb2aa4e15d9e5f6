/**
 * The agent's own prekeys, private halves sealed.
 *
 * A prekey is stored before it is uploaded. The private half of a one-time prekey is deleted in the transaction of the message that used it.
 */

import type { DatabaseSync } from "node:sqlite";
import { DEPRECATED_PREKEY_KEPT_MS, ONE_TIME_PREKEY_KEPT_MS } from "../../protocol/limits.ts";
import type { OneTimePrekey, OwnPrekey, SignedPrekey } from "../../protocol/prekeys.ts";
import type { KeyPair } from "../../protocol/primitives/primitives.ts";
import type { Sealer } from "./seal.ts";

type PrekeyKind = "signed" | "one-time";

export class Prekeys {
  readonly #sealer: Sealer;
  readonly #statements: ReturnType<typeof prepare>;

  constructor(database: DatabaseSync, sealer: Sealer) {
    this.#sealer = sealer;
    this.#statements = prepare(database);
  }

  /** The new signed prekey; older ones become deprecated. */
  addSigned({ prekey, pair }: OwnPrekey<SignedPrekey>): void {
    this.#statements.deprecate.run(prekey.createdAt);
    const sealed = this.#sealer.seal(place(prekey.id), pair.privateKey);
    this.#statements.add.run(prekey.id, "signed", prekey.publicKey, sealed, prekey.signature, prekey.createdAt);
  }

  addOneTime({ prekey, pair }: OwnPrekey<OneTimePrekey>, now: number): void {
    const sealed = this.#sealer.seal(place(prekey.id), pair.privateKey);
    this.#statements.add.run(prekey.id, "one-time", prekey.publicKey, sealed, null, now);
  }

  /** Null when it is not there (any more). */
  find(kind: PrekeyKind, id: string): KeyPair | null {
    const row = this.#statements.find.get(id, kind) as
      | { public_key: Uint8Array; sealed_private_key: Uint8Array }
      | undefined;
    if (row === undefined) return null;
    return { publicKey: row.public_key, privateKey: this.#sealer.open(place(id), row.sealed_private_key) };
  }

  remove(id: string): void {
    this.#statements.remove.run(id);
  }

  /** The signed prekey that is to be handed out; null before the first. */
  currentSigned(): SignedPrekey | null {
    const row = this.#statements.currentSigned.get() as unknown as SignedRow | undefined;
    if (row === undefined) return null;
    const { id, public_key, signature, created_at } = row;
    return { id, publicKey: public_key, signature, createdAt: created_at };
  }

  /** One-time prekeys of which the service may not know yet. */
  oneTimeNotUploaded(countMax: number): OneTimePrekey[] {
    const rows = this.#statements.notUploaded.all(countMax) as unknown as { id: string; public_key: Uint8Array }[];
    return rows.map(({ id, public_key }) => ({ id, publicKey: public_key }));
  }

  markUploaded(ids: readonly string[]): void {
    for (const id of ids) this.#statements.markUploaded.run(id);
  }

  /** For a service that knows none of them. */
  markAllNotUploaded(): void {
    this.#statements.markAllNotUploaded.run();
  }

  /** True when a signed prekey went. */
  forgetOld(now: number): boolean {
    this.#statements.forgetOneTime.run(now - ONE_TIME_PREKEY_KEPT_MS);
    return Number(this.#statements.forgetSigned.run(now - DEPRECATED_PREKEY_KEPT_MS).changes) > 0;
  }
}

interface SignedRow {
  id: string;
  public_key: Uint8Array;
  signature: Uint8Array;
  created_at: number;
}

function place(id: string): string {
  return `prekeys.private_key:${id}`;
}

function prepare(database: DatabaseSync) {
  return {
    add: database.prepare(
      `INSERT INTO prekeys (id, kind, public_key, sealed_private_key, signature, created_at) VALUES (?, ?, ?, ?, ?, ?)`,
    ),
    deprecate: database.prepare("UPDATE prekeys SET deprecated_at = ? WHERE kind = 'signed' AND deprecated_at IS NULL"),
    find: database.prepare("SELECT public_key, sealed_private_key FROM prekeys WHERE id = ? AND kind = ?"),
    remove: database.prepare("DELETE FROM prekeys WHERE id = ?"),
    currentSigned: database.prepare(
      `SELECT id, public_key, signature, created_at FROM prekeys WHERE kind = 'signed' AND deprecated_at IS NULL`,
    ),
    notUploaded: database.prepare(
      "SELECT id, public_key FROM prekeys WHERE kind = 'one-time' AND uploaded = 0 ORDER BY id LIMIT ?",
    ),
    markUploaded: database.prepare("UPDATE prekeys SET uploaded = 1 WHERE id = ?"),
    markAllNotUploaded: database.prepare("UPDATE prekeys SET uploaded = 0"),
    forgetSigned: database.prepare("DELETE FROM prekeys WHERE kind = 'signed' AND deprecated_at < ?"),
    forgetOneTime: database.prepare("DELETE FROM prekeys WHERE kind = 'one-time' AND created_at < ?"),
  };
}
