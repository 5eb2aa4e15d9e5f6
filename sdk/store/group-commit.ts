/**
 * Many small transactions for the price of one: whatever is asked for in one turn of the event loop is committed together.
 *
 * Promises of `run`: its promise settles after the commit; a work that throws changes nothing and takes no other along; when the commit
 * itself fails, all works of the group have changed nothing. Works run in the order in which they were asked for.
 */

import type { DatabaseSync } from "node:sqlite";
import { StoreError } from "../errors.ts";

/** Works of one commit. Fewer, and the fsync shows; more, and one commit keeps the event loop for longer than some 50 ms. */
const GROUP_MAX = 500;

/** What is held in memory in front of the tables, and must follow what the database does. */
export interface Held {
  /** A work begins; the next `undo` goes back to here. */
  mark(): void;
  undo(): void;
  /** Writes what changed in the group into its transaction. */
  flush(): void;
  /** The group is committed. */
  settle(): void;
  /** The group is rolled back: forget all that is not in the tables. */
  drop(): void;
}

interface Waiting {
  readonly work: () => unknown;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
}

export class GroupCommit {
  readonly #database: DatabaseSync;
  readonly #held: Held;
  readonly #statements: Record<"begin" | "commit" | "rollback" | "save" | "release" | "undo", () => void>;
  #waiting: Waiting[] = [];
  #scheduled: NodeJS.Immediate | null = null;

  constructor(database: DatabaseSync, held: Held) {
    this.#database = database;
    this.#held = held;
    const prepared = (sql: string) => {
      const statement = database.prepare(sql);
      return () => void statement.run();
    };
    this.#statements = {
      begin: prepared("BEGIN IMMEDIATE"),
      commit: prepared("COMMIT"),
      rollback: prepared("ROLLBACK"),
      save: prepared("SAVEPOINT work"),
      release: prepared("RELEASE work"),
      undo: prepared("ROLLBACK TO work"),
    };
  }

  /** `work` is synchronous and does nothing but read and write the store; what it returns is what was committed. */
  run<T>(work: () => T): Promise<T> {
    return new Promise<unknown>((resolve, reject) => {
      this.#waiting.push({ work, resolve, reject });
      this.#scheduled ??= setImmediate(() => this.commitNow());
    }) as Promise<T>;
  }

  /** Commits what waits, at most one group, without waiting for the event loop. */
  commitNow(): void {
    if (this.#scheduled !== null) clearImmediate(this.#scheduled);
    this.#scheduled = null;
    const group = this.#waiting.splice(0, GROUP_MAX);
    if (group.length === 0) return;
    if (this.#waiting.length > 0) this.#scheduled = setImmediate(() => this.commitNow());
    try {
      this.#commit(group);
    } catch (error) {
      if (this.#database.isTransaction) this.#statements.rollback();
      this.#held.drop();
      const fault = storeFault(error);
      for (const { reject } of group) reject(fault);
    }
  }

  get isEmpty(): boolean {
    return this.#waiting.length === 0;
  }

  #commit(group: readonly Waiting[]): void {
    const settled: (() => void)[] = [];
    this.#statements.begin();
    for (const { work, resolve, reject } of group) {
      this.#statements.save();
      this.#held.mark();
      try {
        const value = work();
        settled.push(() => resolve(value));
      } catch (error) {
        this.#statements.undo();
        this.#held.undo();
        settled.push(() => reject(error));
      }
      this.#statements.release();
    }
    this.#held.flush();
    this.#statements.commit();
    this.#held.settle();
    for (const settle of settled) settle();
  }
}

/** It may be tried again. */
export function storeFault(cause: unknown): StoreError {
  return new StoreError("store-fault", "the local store could not be written", { retryable: true, cause });
}
