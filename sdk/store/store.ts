/**
 * The agent's local store: identity, keys, ratchets, what was sent and what was received, in one SQLite file.
 *
 * It promises: what `commit` has resolved survives a crash of the process and of the machine (WAL, synchronous FULL); one process at
 * a time has it open; secrets and content lie in it only sealed, deleted values are overwritten (secure_delete); files are
 * their owner's alone. A store that is copied back from a
 * backup has ratchets that were moved on elsewhere: rollback.ts finds out.
 */

import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { AgentError, AgentStopped, StoreError } from "../errors.ts";
import { Accounts } from "./accounts.ts";
import { Failed } from "./failed.ts";
import { GroupCommit, storeFault } from "./group-commit.ts";
import { Inbox } from "./inbox.ts";
import { loadStoreKey, type StoreKey } from "./key.ts";
import { type Lock, takeLock } from "./lock.ts";
import { Outbox } from "./outbox.ts";
import { Peers } from "./peers.ts";
import { Prekeys } from "./prekeys.ts";
import { createPrivately } from "./private-file.ts";
import { Requests } from "./requests.ts";
import { migrate } from "./schema.ts";
import { Sealer } from "./seal.ts";

export interface StoreOptions {
  /** The database file; `<path>.lock`, `-wal` and `-shm` lie beside it. Its folder is made if there is none. */
  readonly path: string;
  /** Default: the file `<path>.key`, made on first use. */
  readonly key?: StoreKey;
}

interface MemoryStoreOptions {
  /** 32 bytes. */
  readonly key: Uint8Array;
  /** What `contents` gave; null: an empty store. */
  readonly contents: Uint8Array | null;
}

/** Nobody else can open what has no name. */
const NOT_LOCKED: Lock = { release: () => {} };

export class Store {
  readonly accounts: Accounts;
  readonly prekeys: Prekeys;
  readonly peers: Peers;
  readonly outbox: Outbox;
  readonly inbox: Inbox;
  readonly failed: Failed;
  readonly requests: Requests;
  readonly #database: DatabaseSync;
  readonly #groups: GroupCommit;
  readonly #lock: Lock;

  private constructor(database: DatabaseSync, sealer: Sealer, lock: Lock) {
    this.#database = database;
    this.#lock = lock;
    this.accounts = new Accounts(database, sealer);
    this.prekeys = new Prekeys(database, sealer);
    this.peers = new Peers(database, sealer);
    this.outbox = new Outbox(database, sealer);
    this.inbox = new Inbox(database, sealer);
    this.failed = new Failed(database);
    this.requests = new Requests(database);
    this.#groups = new GroupCommit(database, this.peers);
  }

  /** Throws a `StoreError`. */
  static open({ path, key = { file: `${path}.key` } }: StoreOptions): Store {
    try {
      mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
      const lock = takeLock(`${path}.lock`);
      try {
        return Store.#openLocked(path, key, lock);
      } catch (error) {
        lock.release();
        throw error;
      }
    } catch (error) {
      if (error instanceof AgentError) throw error;
      throw new StoreError("store-fault", "the local store cannot be opened", { cause: error });
    }
  }

  /**
   * A store without a file, which begins with the contents of another: for simulations, where a thousand restarts and years of messages
   * must not pay for the disk. It is gone with its close, and with the process.
   * @internal
   */
  static inMemory({ key, contents }: MemoryStoreOptions): Store {
    const database = new DatabaseSync(":memory:");
    if (contents !== null) database.deserialize(contents);
    database.exec("PRAGMA secure_delete = ON");
    migrate(database);
    const store = new Store(database, new Sealer(loadStoreKey(key, contents !== null)), NOT_LOCKED);
    store.#checkKey();
    return store;
  }

  static #openLocked(path: string, key: StoreKey, lock: Lock): Store {
    const isNew = createPrivately(path);
    const database = new DatabaseSync(path);
    try {
      database.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON");
      migrate(database);
      const sealer = new Sealer(loadStoreKey(key, !isNew && hasIdentity(database)));
      const store = new Store(database, sealer, lock);
      store.#checkKey();
      return store;
    } catch (error) {
      database.close();
      throw error;
    }
  }

  /** Runs `work` in the next group (group-commit.ts) and resolves after its commit. Throws what `work` throws, `store-fault`, and `closed`. */
  commit<T>(work: () => T): Promise<T> {
    if (!this.#database.isOpen) return Promise.reject(new AgentStopped("closed"));
    return this.#groups.run(work);
  }

  /** Deletes what has passed its time, and empties the write-ahead log of what was deleted. True when a signed prekey went. Throws as `commit` does. */
  async tidy(now: number): Promise<boolean> {
    const isSignedGone = await this.commit(() => {
      this.outbox.forgetOld(now);
      this.inbox.forgetOld(now);
      this.failed.forgetOld(now);
      return this.prekeys.forgetOld(now);
    });
    // A close that came with the commit has emptied it.
    if (this.#database.isOpen) this.#emptyLog();
    return isSignedGone;
  }

  /**
   * Everything that has been committed, and nothing else: what a process that dies now leaves behind.
   * @internal
   */
  contents(): Uint8Array {
    return this.#database.serialize();
  }

  /** Commits what waits and lets the next process in. Harmless when repeated. Throws `store-fault` when the write-ahead log was not emptied: the next one in does it. */
  close(): void {
    if (!this.#database.isOpen) return;
    try {
      while (!this.#groups.isEmpty) this.#groups.commitNow();
      this.#emptyLog();
    } finally {
      try {
        this.#database.close();
      } finally {
        this.#lock.release();
      }
    }
  }

  #emptyLog(): void {
    try {
      this.#database.exec("PRAGMA wal_checkpoint(TRUNCATE)");
    } catch (error) {
      throw storeFault(error);
    }
  }

  #checkKey(): void {
    try {
      this.accounts.identity();
    } catch (error) {
      throw new StoreError("store-key-wrong", "the store was made with another key", { cause: error });
    }
  }
}

function hasIdentity(database: DatabaseSync): boolean {
  return database.prepare("SELECT 1 FROM identity").get() !== undefined;
}
