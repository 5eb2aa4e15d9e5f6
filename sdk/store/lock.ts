/**
 * One process at a time: a lock that the operating system releases when its holder dies, however it dies.
 *
 * It is an exclusive SQLite transaction, never ended, on an empty file beside the store (POSIX advisory locks underneath). Nobody else
 * opens that file: a process loses such a lock when it closes any handle of the same file. Two agents in one process
 * exclude each other as well. On network file systems it is as good as their locks.
 */

import { DatabaseSync } from "node:sqlite";
import { StoreError } from "../errors.ts";
import { createPrivately } from "./private-file.ts";

const SQLITE_BUSY = 5;

export interface Lock {
  release(): void;
}

/** Throws `store-locked` at once when another holds it. */
export function takeLock(path: string): Lock {
  createPrivately(path);
  const database = new DatabaseSync(path, { timeout: 0 });
  try {
    database.exec("PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE");
  } catch (error) {
    database.close();
    if ((error as { errcode?: unknown }).errcode !== SQLITE_BUSY) throw error;
    throw new StoreError(
      "store-locked",
      "another agent uses this store: each store serves one agent, one process at a time",
      {
        retryable: true,
      },
    );
  }
  return { release: () => database.close() };
}
