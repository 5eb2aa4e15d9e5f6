/**
 * Files that only their owner reads and writes: whether they are, and how they are replaced and overwritten.
 */

import { randomUUID } from "node:crypto";
import {
  closeSync,
  fstatSync,
  fsyncSync,
  openSync,
  renameSync,
  type Stats,
  statSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { dirname } from "node:path";
import { type KeyringCode, KeyringError } from "./keyring.ts";

export const OWNER_ONLY = 0o600;

const OTHERS = 0o077;
const OTHERS_WRITE = 0o022;
const STICKY = 0o1000;
const ZEROS = new Uint8Array(65_536);

/**
 * Facts of a file; null when there is none. Throws `exposed` when it is not a plain file of this user without rights for others, or when
 * its folder lets others put another in its place.
 */
export function ownerOnly(path: string, exposed: KeyringCode): Stats | null {
  const facts = statSync(path, { throwIfNoEntry: false });
  if (facts === undefined) return null;
  if (!facts.isFile() || isForeign(facts) || (facts.mode & OTHERS) !== 0) throw new KeyringError(exposed);
  const folder = statSync(dirname(path));
  const writable = (folder.mode & OTHERS_WRITE) !== 0 && (folder.mode & STICKY) === 0;
  if (writable || (isForeign(folder) && folder.uid !== 0)) throw new KeyringError(exposed);
  return facts;
}

/** Puts a file in the place of another, or of none: after a crash there is the one or the other. The old bytes are overwritten. */
export function replaceFile(path: string, content: string): void {
  const draft = `${path}.${randomUUID()}`;
  try {
    writeFileSync(draft, content, { flag: "wx", mode: OWNER_ONLY, flush: true });
    const old = openIfThere(path);
    renameSync(draft, path);
    syncFolder(path);
    if (old === null) return;
    try {
      overwrite(old);
    } finally {
      closeSync(old);
    }
  } catch (error) {
    removeIfThere(draft);
    throw error;
  }
}

/** Zeros over all bytes of a file that is there, on the disk when it returns. The file keeps its length. */
export function overwriteFile(path: string): void {
  const file = openIfThere(path);
  if (file === null) return;
  try {
    overwrite(file);
  } finally {
    closeSync(file);
  }
}

/** A name that was made, replaced or removed in the file's folder is on the disk when it returns. */
export function syncFolder(path: string): void {
  const folder = openSync(dirname(path), "r");
  try {
    fsyncSync(folder);
  } finally {
    closeSync(folder);
  }
}

export function removeIfThere(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if ((error as { code?: unknown }).code !== "ENOENT") throw error;
  }
}

function openIfThere(path: string): number | null {
  try {
    return openSync(path, "r+");
  } catch (error) {
    if ((error as { code?: unknown }).code === "ENOENT") return null;
    throw error;
  }
}

function overwrite(file: number): void {
  const { size } = fstatSync(file);
  for (let at = 0; at < size; ) at += writeSync(file, ZEROS, 0, Math.min(ZEROS.length, size - at), at);
  fsyncSync(file);
}

function isForeign(facts: Stats): boolean {
  return process.getuid !== undefined && facts.uid !== process.getuid();
}
