/** Files that only their owner reads and writes. */
import { chmodSync, closeSync, openSync } from "node:fs";

const OWNER_ONLY = 0o600;

/**
 * Makes an empty file if there is none, and takes other people's rights from one that exists; true when it was made. SQLite gives its -wal and -shm files
 * the mode of the database.
 */
export function createPrivately(path: string): boolean {
  try {
    closeSync(openSync(path, "wx", OWNER_ONLY));
    return true;
  } catch (error) {
    if ((error as { code?: unknown }).code !== "EEXIST") throw error;
    chmodSync(path, OWNER_ONLY);
    return false;
  }
}
