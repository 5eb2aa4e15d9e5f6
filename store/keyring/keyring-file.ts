/**
 * The keyring in a file: one SQLite database, readable by its owner only, shared by all processes of one machine (or of one volume, as far
 * as its locks go). The keys in it are wrapped by root keys that lie elsewhere, so that the file alone is worthless.
 *
 * Promises: what was made or destroyed is on the disk when the call returns, whatever happens to the process; of several
 * that make a key of one name at once, one does and the others get its key. Every reading sees the latest state: nothing is cached here.
 *
 * A destroyed key is overwritten with zeros in the database (`secure_delete`) and in its rollback journal, which is kept and overwritten
 * rather than deleted. File systems that write elsewhere (copy on write, snapshots, journalled data) and flash memory keep
 * old blocks all the same, and so does every copy: against those helps `rotate`, which destroys the root key that they are wrapped under.
 *
 *   wrapped by version v: place = label("sealpost/v1/keyring") ‖ keyring id(16) ‖ u32(v) ‖ lp(kind) ‖ lp(name)
 */
import { randomBytes, randomUUID } from "node:crypto";
import { linkSync, writeFileSync } from "node:fs";
import { DatabaseSync, type SQLInputValue, type StatementSync } from "node:sqlite";
import { asciiBytes, ByteWriter, label } from "../../protocol/bytes.ts";
import { Refusal, Unavailable } from "../../protocol/refusal.ts";
import { UUID_BYTES, uuidToBytes } from "../../protocol/uuid.ts";
import { type DatedKind, KEY_BYTES, type KeyCode, type KeyName, type Keyring, KeyringError } from "./keyring.ts";
import { OWNER_ONLY, overwriteFile, ownerOnly, removeIfThere, syncFolder } from "./owner-only.ts";
import type { RootKeys } from "./root-keys.ts";

const APPLICATION_ID = 0x5e_a1_4b_52;
const SCHEMA_VERSION = 1;

/** A key is written in a few milliseconds, and a thousand are wrapped anew in less than a second: who waits longer waits for a process that hangs. */
const LOCK_WAIT_MS_MAX = 5_000;

/** Keys wrapped anew in one transaction: others that make a key wait for one. */
const ROTATED_AT_ONCE = 500;

const SQLITE_CORRUPT = 11;
const SQLITE_NOTADB = 26;
const PRIMARY_CODE = 0xff;

const PLACE_LABEL = label("sealpost/v1/keyring");
const VERSION_BYTES = 4;
const LENGTH_BYTES = 2;
const NUMBER_DIGITS = 10;
const NUMBER_END = 0x1_0000_0000;

/** Wrapped by each root key that is in use, to know at once whether a root key is the right one. */
const PROBE = "root";
const PROBE_NAME = "probe";

// A destroyed master key leaves its row, without a key; destroyed days and epochs leave their bound.
const SCHEMA = `
  CREATE TABLE keyring (one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL, root INTEGER NOT NULL, destructions INTEGER NOT NULL) STRICT;
  CREATE TABLE keys (kind TEXT NOT NULL, name TEXT NOT NULL, root INTEGER NOT NULL, wrapped BLOB, PRIMARY KEY (kind, name)) STRICT, WITHOUT ROWID;
  CREATE INDEX keys_root ON keys (root);
  CREATE TABLE bounds (kind TEXT PRIMARY KEY, below INTEGER NOT NULL) STRICT;
`;

/**
 * Makes an empty keyring, and the first root key unless there is one. An operator's doing, by one process: two first root keys that are made at
 * once are two, and one of them is lost.
 *
 * @throws KeyringError `keyring-exists`, and what root keys throw
 */
export function createKeyring(path: string, roots: RootKeys): void {
  if (ownerOnly(path, "keyring-exposed") !== null) throw new KeyringError("keyring-exists");
  const root = roots.newest() === 0 ? roots.create() : roots.newest();
  const draft = `${path}.${randomUUID()}`;
  const id = randomUUID();
  try {
    writeFileSync(draft, "", { flag: "wx", mode: OWNER_ONLY });
    const database = new DatabaseSync(draft);
    try {
      database.exec(`PRAGMA synchronous = EXTRA; PRAGMA application_id = ${APPLICATION_ID}; ${SCHEMA}`);
      database.exec(`PRAGMA user_version = ${SCHEMA_VERSION}`);
      database.prepare("INSERT INTO keyring VALUES (1, ?, ?, 0)").run(id, root);
      const wrapped = roots.wrap(root, new Uint8Array(KEY_BYTES), placeOf(uuidToBytes(id), root, PROBE, PROBE_NAME));
      database.prepare("INSERT INTO keys VALUES (?, ?, ?, ?)").run(PROBE, PROBE_NAME, root, wrapped);
    } finally {
      database.close();
    }
    link(draft, path);
  } finally {
    removeIfThere(draft);
  }
  syncFolder(path);
}

/**
 * Opens a keyring that is there. The root keys stay the caller's to close.
 *
 * @throws KeyringError `keyring-missing`, `-exposed`, `-damaged`, `-newer`; `root-missing`, `root-wrong`, and what root keys throw;
 * Unavailable when it is locked for too long
 */
export function openKeyring(path: string, roots: RootKeys): Keyring {
  const facts = ownerOnly(path, "keyring-exposed");
  if (facts === null) throw new KeyringError("keyring-missing");
  let database: DatabaseSync | undefined;
  try {
    database = new DatabaseSync(path, { timeout: LOCK_WAIT_MS_MAX });
    checkDatabase(database);
    return new KeyringFile(path, facts.ino, database, roots);
  } catch (error) {
    database?.close();
    if (isDamage(error)) throw new KeyringError("keyring-damaged", error);
    throw isSystemError(error) ? new Unavailable("keyring", error) : error;
  }
}

class KeyringFile implements Keyring {
  readonly id: string;
  readonly #idBytes: Uint8Array;
  readonly #path: string;
  readonly #inode: number;
  readonly #database: DatabaseSync;
  readonly #roots: RootKeys;
  readonly #find: StatementSync;
  readonly #insert: StatementSync;
  readonly #head: StatementSync;
  readonly #bound: StatementSync;

  constructor(path: string, inode: number, database: DatabaseSync, roots: RootKeys) {
    this.#path = path;
    this.#inode = inode;
    this.#database = database;
    this.#roots = roots;
    // The journal is kept, so that it can be overwritten.
    database.exec("PRAGMA journal_mode = PERSIST; PRAGMA synchronous = EXTRA; PRAGMA secure_delete = ON");
    this.#head = database.prepare("SELECT id, root, destructions FROM keyring");
    this.#find = database.prepare("SELECT root, wrapped FROM keys WHERE kind = ? AND name = ?");
    this.#insert = database.prepare("INSERT INTO keys VALUES (?, ?, ?, ?)");
    this.#bound = database.prepare("SELECT below FROM bounds WHERE kind = ?");
    this.id = this.#head.get()?.["id"] as string;
    this.#idBytes = uuidToBytes(this.id);
    this.#open(PROBE, PROBE_NAME).fill(0);
    // Whoever was killed between destroying a key and overwriting the journal left it there.
    this.#overwriteJournal();
  }

  create(name: KeyName): void {
    const { kind, text } = columnsOf(name);
    this.#write(() => {
      this.#refuseDestroyed(name);
      const row = this.#find.get(kind, text);
      if (row !== undefined) return;
      const key = Uint8Array.from(randomBytes(KEY_BYTES));
      const root = this.#head.get()?.["root"] as number;
      this.#insert.run(kind, text, root, this.#roots.wrap(root, key, this.#place(root, kind, text)));
      key.fill(0);
    });
  }

  unwrap(name: KeyName): Uint8Array {
    const { kind, text } = columnsOf(name);
    return atTheDoor(() => {
      this.#refuseDestroyed(name);
      return this.#open(kind, text);
    });
  }

  destroyMaster(agentId: string): void {
    const { kind, text } = columnsOf({ kind: "master", agentId });
    this.#destroy(
      "INSERT INTO keys VALUES (?, ?, 0, NULL) ON CONFLICT DO UPDATE SET root = 0, wrapped = NULL WHERE wrapped IS NOT NULL",
      kind,
      text,
    );
  }

  destroyDatedBelow(kind: DatedKind, number: number): void {
    const { text } = columnsOf({ kind, number });
    this.#destroy(
      "INSERT INTO bounds VALUES (?, ?) ON CONFLICT DO UPDATE SET below = excluded.below WHERE below < excluded.below",
      kind,
      number,
      () => this.#database.prepare("DELETE FROM keys WHERE kind = ? AND name < ?").run(kind, text),
    );
  }

  oldest(kind: DatedKind): number | null {
    return this.#extreme("min", kind);
  }

  newest(kind: DatedKind): number | null {
    return this.#extreme("max", kind);
  }

  destructions(): number {
    return atTheDoor(() => this.#head.get()?.["destructions"] as number);
  }

  rotate(): void {
    // What is made from here on is wrapped under the new root key: the rest becomes less with every round.
    const root = this.#write(() => {
      // Without the root key there is nothing to wrap anew, and what is made in its place would stand in the way of a copy of it.
      this.#open(PROBE, PROBE_NAME).fill(0);
      const made = this.#roots.create();
      this.#database.prepare("UPDATE keyring SET root = ?").run(made);
      return made;
    });
    while (this.#rewrapSome(root));
    // Under the lock: whoever else rotates is either done with these versions or has made a newer one.
    this.#write(() => this.#roots.destroyBelow(root));
    this.#overwriteJournal();
  }

  close(): void {
    if (this.#database.isOpen) this.#database.close();
  }

  /** Wraps some of what is under older root keys; false when there is nothing of the kind. */
  #rewrapSome(root: number): boolean {
    return this.#write(() => {
      const rows = this.#database
        .prepare("SELECT kind, name, root, wrapped FROM keys WHERE root < ? AND wrapped IS NOT NULL LIMIT ?")
        .all(root, ROTATED_AT_ONCE);
      const update = this.#database.prepare("UPDATE keys SET root = ?, wrapped = ? WHERE kind = ? AND name = ?");
      for (const row of rows) {
        const [kind, name] = [row["kind"] as string, row["name"] as string];
        const key = this.#unwrapRow(kind, name, row as unknown as Row);
        update.run(root, this.#roots.wrap(root, key, this.#place(root, kind, name)), kind, name);
        key.fill(0);
      }
      return rows.length > 0;
    });
  }

  #extreme(which: "min" | "max", kind: DatedKind): number | null {
    return atTheDoor(() => {
      const row = this.#database.prepare(`SELECT ${which}(name) AS name FROM keys WHERE kind = ?`).get(kind);
      return typeof row?.["name"] === "string" ? Number(row["name"]) : null;
    });
  }

  #open(kind: string, text: string): Uint8Array {
    for (;;) {
      const row = this.#find.get(kind, text) as Row | undefined;
      if (row === undefined) throw new Refusal<KeyCode>("key-unknown");
      try {
        return this.#unwrapRow(kind, text, row);
      } catch (error) {
        // Between the reading and the unwrapping a rotation may have ended: then the row is under a newer root key.
        const moved = error instanceof KeyringError && error.code === "root-missing";
        if (!moved || this.#find.get(kind, text)?.["root"] === row.root) throw error;
      }
    }
  }

  #unwrapRow(kind: string, text: string, row: Row): Uint8Array {
    if (row.wrapped === null) throw new Refusal<KeyCode>("key-destroyed");
    return this.#roots.unwrap(row.root, row.wrapped, this.#place(row.root, kind, text));
  }

  #refuseDestroyed(name: KeyName): void {
    if (name.kind === "master") {
      const row = this.#find.get("master", name.agentId);
      if (row !== undefined && row["wrapped"] === null) throw new Refusal<KeyCode>("key-destroyed");
      return;
    }
    const below = this.#bound.get(name.kind)?.["below"] as number | undefined;
    if (below !== undefined && name.number < below) throw new Refusal<KeyCode>("key-destroyed");
  }

  #destroy(sql: string, first: SQLInputValue, second: SQLInputValue, then?: () => void): void {
    this.#write(() => {
      const { changes } = this.#database.prepare(sql).run(first, second);
      if (changes === 0) return;
      then?.();
      this.#database.exec("UPDATE keyring SET destructions = destructions + 1");
    });
    this.#overwriteJournal();
  }

  /** One writer at a time, on the file that was opened: on one that lies there no more, a key would be made for nobody. */
  #write<Result>(work: () => Result): Result {
    return atTheDoor(() => {
      if (ownerOnly(this.#path, "keyring-exposed")?.ino !== this.#inode) throw new KeyringError("keyring-replaced");
      this.#database.exec("BEGIN IMMEDIATE");
      try {
        const result = work();
        this.#database.exec("COMMIT");
        return result;
      } catch (error) {
        if (this.#database.isTransaction) this.#database.exec("ROLLBACK");
        throw error;
      }
    });
  }

  /** In a transaction that writes nothing: nobody else's journal can be there, and none of its own is opened. */
  #overwriteJournal(): void {
    this.#write(() => overwriteFile(`${this.#path}-journal`));
  }

  #place(root: number, kind: string, name: string): Uint8Array {
    return placeOf(this.#idBytes, root, kind, name);
  }
}

interface Row {
  readonly root: number;
  readonly wrapped: Uint8Array | null;
}

function placeOf(id: Uint8Array, root: number, kind: string, name: string): Uint8Array {
  const size =
    PLACE_LABEL.length + UUID_BYTES + VERSION_BYTES + LENGTH_BYTES + kind.length + LENGTH_BYTES + name.length;
  return new ByteWriter(size).bytes(PLACE_LABEL).bytes(id).u32(root).lp(asciiBytes(kind)).lp(asciiBytes(name)).finish();
}

/** Numbers as text of one length: their order is that of the texts. */
function columnsOf(name: KeyName): { kind: string; text: string } {
  if (name.kind === "master") return { kind: name.kind, text: name.agentId };
  if (!Number.isInteger(name.number) || name.number < 0 || name.number >= NUMBER_END) {
    throw new Error("a day or an epoch is a u32");
  }
  return { kind: name.kind, text: `${name.number}`.padStart(NUMBER_DIGITS, "0") };
}

function checkDatabase(database: DatabaseSync): void {
  const pragma = (name: string) => Object.values(database.prepare(`PRAGMA ${name}`).get() ?? {})[0];
  if (pragma("application_id") !== APPLICATION_ID) throw new KeyringError("keyring-damaged");
  if (pragma("user_version") !== SCHEMA_VERSION) throw new KeyringError("keyring-newer");
  if (pragma("quick_check(1)") !== "ok") throw new KeyringError("keyring-damaged");
}

/** What the file system, SQLite or the root keys have against it is the keyring's fault, and nobody's who asked for a key. */
function atTheDoor<Result>(work: () => Result): Result {
  try {
    return work();
  } catch (error) {
    if (isDamage(error)) throw new Unavailable("keyring", new KeyringError("keyring-damaged", error));
    if (error instanceof KeyringError || isSystemError(error)) throw new Unavailable("keyring", error);
    throw error;
  }
}

function isDamage(error: unknown): boolean {
  const primary = Number((error as { errcode?: unknown }).errcode) & PRIMARY_CODE;
  return primary === SQLITE_CORRUPT || primary === SQLITE_NOTADB;
}

function isSystemError(error: unknown): boolean {
  const { code, errno } = error as { code?: unknown; errno?: unknown };
  return code === "ERR_SQLITE_ERROR" || typeof errno === "number";
}

/** Never in the place of a file that came there in the meantime. */
function link(draft: string, path: string): void {
  try {
    linkSync(draft, path);
  } catch (error) {
    throw (error as { code?: unknown }).code === "EEXIST" ? new KeyringError("keyring-exists") : error;
  }
}
