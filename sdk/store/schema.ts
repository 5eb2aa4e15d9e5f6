/**
 * The tables of an agent's store, in their versions.
 *
 * BLOBs named `sealed_*` are sealed (seal.ts) for the place `table.column:row`. Times are milliseconds since the epoch. What is not
 * sealed is known to the service as well: ids, states, envelopes, public keys.
 */

import type { DatabaseSync } from "node:sqlite";
import { StoreError } from "../errors.ts";

/** Each entry makes the next version of the one before. An entry that was released is never changed. */
const VERSIONS: readonly string[] = [
  `
  CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
  CREATE TABLE identity (
    id INTEGER PRIMARY KEY CHECK (id = 1), agent_id TEXT NOT NULL, sealed_seed BLOB NOT NULL, created_at INTEGER NOT NULL
  ) STRICT;
  CREATE TABLE prekeys (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL CHECK (kind IN ('signed', 'one-time')),
    public_key BLOB NOT NULL, sealed_private_key BLOB NOT NULL, signature BLOB,
    created_at INTEGER NOT NULL, uploaded INTEGER NOT NULL DEFAULT 0, deprecated_at INTEGER
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE peers (peer_id TEXT PRIMARY KEY, sealed_state BLOB NOT NULL) STRICT;
  CREATE TABLE claims (peer_id TEXT PRIMARY KEY, request_id TEXT NOT NULL, created_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
  CREATE TABLE outbox (
    n INTEGER PRIMARY KEY AUTOINCREMENT, message_id TEXT NOT NULL UNIQUE, recipient_id TEXT NOT NULL,
    envelope BLOB, sealed_content BLOB, is_control INTEGER NOT NULL, state INTEGER NOT NULL, code TEXT,
    created_at INTEGER NOT NULL, changed_at INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX outbox_pending ON outbox (n) WHERE state = 0;
  CREATE INDEX outbox_unanswered ON outbox (n) WHERE state IN (1, 2);
  CREATE TABLE inbox (
    n INTEGER PRIMARY KEY AUTOINCREMENT, sender_id TEXT NOT NULL, message_id TEXT NOT NULL, seq INTEGER NOT NULL,
    sent_at INTEGER NOT NULL, sealed_content BLOB NOT NULL
  ) STRICT;
  CREATE TABLE received (
    sender_id TEXT NOT NULL, message_id TEXT NOT NULL, outcome TEXT NOT NULL, forget_at INTEGER NOT NULL,
    PRIMARY KEY (sender_id, message_id)
  ) STRICT, WITHOUT ROWID;
  CREATE UNIQUE INDEX inbox_id ON inbox (sender_id, message_id);
  CREATE INDEX received_forget ON received (forget_at);
  `,
  // place: the order in which one-time prekeys are uploaded, and handed out. uploaded: when, 0 for not yet.
  `
  CREATE TABLE prekeys_2 (
    place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL CHECK (kind IN ('signed', 'kem-last-resort', 'one-time', 'kem')),
    public_key BLOB NOT NULL, sealed_private_key BLOB NOT NULL, signature BLOB,
    created_at INTEGER NOT NULL, uploaded INTEGER NOT NULL DEFAULT 0, deprecated_at INTEGER
  ) STRICT;
  INSERT INTO prekeys_2 (id, kind, public_key, sealed_private_key, signature, created_at, uploaded, deprecated_at)
    SELECT id, kind, public_key, sealed_private_key, signature, created_at, uploaded * created_at, deprecated_at FROM prekeys ORDER BY created_at, id;
  DROP TABLE prekeys;
  ALTER TABLE prekeys_2 RENAME TO prekeys;
  ALTER TABLE outbox ADD COLUMN first_id TEXT;
  ALTER TABLE outbox ADD COLUMN repairs INTEGER NOT NULL DEFAULT 0;
  ALTER TABLE outbox ADD COLUMN successor TEXT;
  ALTER TABLE outbox ADD COLUMN repair_until INTEGER;
  ALTER TABLE outbox ADD COLUMN held INTEGER NOT NULL DEFAULT 0;
  DROP INDEX outbox_pending;
  CREATE INDEX outbox_pending ON outbox (held, n) WHERE state = 0;
  CREATE INDEX outbox_repair ON outbox (repair_until) WHERE repair_until IS NOT NULL;
  CREATE TABLE failed (
    sender_id TEXT NOT NULL, item_id TEXT NOT NULL, code TEXT NOT NULL, request_id TEXT NOT NULL, request TEXT,
    forget_at INTEGER NOT NULL, PRIMARY KEY (sender_id, item_id)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX failed_asking ON failed (sender_id, request_id) WHERE request IS NOT NULL;
  CREATE INDEX failed_forget ON failed (forget_at);
  CREATE TABLE requests (
    peer_id TEXT NOT NULL, message_id TEXT NOT NULL, request TEXT NOT NULL, due_at INTEGER NOT NULL, PRIMARY KEY (peer_id, message_id)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX requests_due ON requests (peer_id, due_at);
  `,
];

/** Brings a store to the newest version; throws `store-newer` for one that a newer SDK has written. */
export function migrate(database: DatabaseSync): void {
  const { user_version: found } = database.prepare("PRAGMA user_version").get() as { user_version: number };
  if (found > VERSIONS.length) {
    throw new StoreError("store-newer", "the store was written by a newer version of this library");
  }
  for (let version = found; version < VERSIONS.length; version++) {
    database.exec(`BEGIN IMMEDIATE; ${VERSIONS[version]} PRAGMA user_version = ${version + 1}; COMMIT`);
  }
}
