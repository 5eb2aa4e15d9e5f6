/**
 * Seals anew, under today's key, what was sealed before today, and destroys the keys of the days that nothing is sealed under any more: from then on
 * no older image of a row opens, in a backup, in the WAL or in a page that was not overwritten.
 *
 * Reads   every sealed column (store/custody/sealed-columns.ts), in pages, in the order of its key. What was done by a run that was ended is passed over
 *         by the next.
 * Writes  the same values, sealed today; a ratchet state with its next version.
 * Keeps   a day's key while anything is sealed under it, and for an hour after the day. A value that does not open keeps nobody's from being sealed; it
 *         holds its day's key for a week, in which somebody can look.
 */
import { ByteReader } from "../protocol/bytes.ts";
import { DAY_MS } from "../protocol/limits.ts";
import { Refusal } from "../protocol/refusal.ts";
import { type AtRest, destroyDays, firstLastingDay, openAtRest, type SealedCode } from "../store/at-rest.ts";
import {
  type NewValue,
  noteUnopened,
  type OldValue,
  readSealedPage,
  replaceSealed,
  type SealedColumn,
  sealedColumns,
} from "../store/custody/sealed-columns.ts";
import type { Keyring } from "../store/keyring/keyring.ts";
import type { Postgres } from "../store/postgres.ts";

/** After the first hour of the day (store/at-rest.ts), and three times more, for a run that failed. Without an old key there is nothing to do. */
export const resealingCron = "11 1,7,13,19 * * *";

/** Some 10 ms of sealing between two statements, and 1 MB. */
const PAGE_MAX = 200;

/** Looks at one page. A row that is locked is being written, and is free in a moment. */
const LOOKS_MAX = 20;
const LOOK_AGAIN_MS = 100;

/**
 * How long a value that does not open holds the key of its day: counted from that day, and from when it was first found that some do not open. Long enough to
 * notice that it is a fault of ours, or that a better copy of the keyring exists; not longer, because a damaged row will never open, and everybody's old
 * rows open for as long.
 */
const HELD_DAYS_MAX = 7;

export interface ResealingDeps {
  readonly postgres: Postgres;
  readonly keyring: Keyring;
  /** `column`: "table.column". */
  readonly onSealed: (column: string, rows: number) => void;
  /** Values that did not open in this run, and stay as they are. */
  readonly onUnopened: (column: string, code: SealedCode, rows: number) => void;
}

/**
 * @param now ms since the epoch
 * @param signal ends it between two pages; then nothing is destroyed
 * @throws Unavailable; what was sealed until then stays sealed
 */
export async function sealAnew(deps: ResealingDeps, now: number, signal: AbortSignal): Promise<void> {
  const { keyring } = deps;
  const day = firstLastingDay(now);
  const oldest = keyring.oldest("day");
  if (oldest === null || oldest >= day) return;
  const begunAt = performance.now();
  const atRest = openAtRest(keyring, () => now + (performance.now() - begunAt));
  try {
    const lowest: Lowest = { locked: day, unopened: day, unopenedLately: day };
    for (const column of sealedColumns) if (!(await sealColumn(deps, atRest, column, lowest, { day, signal }))) return;
    const since = await noteUnopened(deps.postgres, now, lowest.unopened < day);
    const isLongKnown = now - since >= HELD_DAYS_MAX * DAY_MS;
    const held = isLongKnown ? lowest.unopenedLately : lowest.unopened;
    destroyDays(keyring, Math.min(lowest.locked, held), now);
  } finally {
    atRest.close();
  }
}

/** The lowest days of values that are as they were: because their rows stayed locked, because they do not open, and that of the last week among those. */
interface Lowest {
  locked: number;
  unopened: number;
  unopenedLately: number;
}

/** False when the signal ended it. */
async function sealColumn(
  deps: ResealingDeps,
  atRest: AtRest,
  column: SealedColumn,
  lowest: Lowest,
  { day, signal }: { readonly day: number; readonly signal: AbortSignal },
): Promise<boolean> {
  const name = `${column.table}.${column.column}`;
  const unopened = new Map<SealedCode, number>();
  let after: readonly string[] | null = null;
  do {
    if (signal.aborted) return false;
    const page: DonePage = await sealPage(deps, atRest, column, { day, after });
    deps.onSealed(name, page.sealed);
    for (const { code, sealedOn } of page.left) {
      if (code !== null) unopened.set(code, (unopened.get(code) ?? 0) + 1);
      if (code === null) lowest.locked = Math.min(lowest.locked, sealedOn);
      // What is destroyed comes back by nothing, and holds nothing.
      if (code === null || code === "key-destroyed") continue;
      lowest.unopened = Math.min(lowest.unopened, sealedOn);
      if (sealedOn >= day - HELD_DAYS_MAX) lowest.unopenedLately = Math.min(lowest.unopenedLately, sealedOn);
    }
    after = page.last;
  } while (after !== null);
  for (const [code, rows] of unopened) deps.onUnopened(name, code, rows);
  return true;
}

interface DonePage {
  readonly sealed: number;
  readonly left: readonly Left[];
  readonly last: readonly string[] | null;
}

/** A value that is as it was. */
interface Left {
  /** Why it does not open; null when its row was locked all the time. */
  readonly code: SealedCode | null;
  readonly sealedOn: number;
}

async function sealPage(
  { postgres }: ResealingDeps,
  atRest: AtRest,
  column: SealedColumn,
  { day, after }: { readonly day: number; readonly after: readonly string[] | null },
): Promise<DonePage> {
  let sealed = 0;
  for (let look = 1; ; look++) {
    const { old, last } = await readSealedPage(postgres, column, { day, after, limit: PAGE_MAX });
    const values: NewValue[] = [];
    const left: Left[] = [];
    for (const row of old) {
      const outcome = sealedAnew(atRest, column, row);
      if (outcome instanceof Uint8Array) values.push({ ...row, anew: outcome });
      else left.push(outcome);
    }
    if (look > LOOKS_MAX) left.push(...values.map((row) => ({ code: null, sealedOn: dayOfValue(row.sealed) })));
    if (look > LOOKS_MAX) return { sealed, left, last };
    const replaced = await replaceSealed(postgres, column, values);
    sealed += replaced;
    // The others have changed, and so were sealed today, or are locked: the next look tells.
    if (replaced === values.length) return { sealed, left, last };
    await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_MS));
  }
}

function sealedAnew(
  atRest: AtRest,
  { placeOf, version: versioned }: SealedColumn,
  { key, version, sealed }: OldValue,
): Uint8Array | Left {
  try {
    const anew = atRest.sealAnew(placeOf(key, version), versioned === null ? version : version + 1, sealed);
    if (anew === null) throw new Error("a value of before today was sealed today");
    return anew;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    return { code: error.code as SealedCode, sealedOn: dayOfValue(sealed) };
  }
}

/** It was found by its day; what comes after that may be missing. */
function dayOfValue(sealed: Uint8Array): number {
  return new ByteReader(sealed.subarray(1)).u32();
}
