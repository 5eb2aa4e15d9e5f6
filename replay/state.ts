/** How far a replay came, beside its files while it is under way: what `sealpost audit replay` goes on from after it was interrupted. */
import { readFile, rename, writeFile } from "node:fs/promises";
import path from "node:path";
import { z } from "zod";
import { InTheWay } from "./finding.ts";
import { writtenFile } from "./manifest.ts";
import { replayRequest } from "./request.ts";

const count = z.int().nonnegative();
const numbered = z.array(z.tuple([count, count]));

const replayState = z.strictObject({
  version: z.literal(2),
  request: replayRequest,
  /** Records of the newest checkpoint when it began: what claims a later place is not looked at. Null without one. */
  size_max: count.nullable(),
  /** What is read of each partition, and from where on it is still to be read. */
  spans: z.array(z.strictObject({ partition: count, next: count, end: count })),
  trimmed: z.array(count),
  /** Places of the last record before the window and of the first behind it, which are read with it. Null without one. */
  before: count.nullable(),
  behind: count.nullable(),
  /** Bytes of the spool by bucket. */
  spooled: numbered,
  /** Of all that were read and are signed. */
  lowest: count.nullable(),
  /** Of the records that were chosen. */
  first: count.nullable(),
  last: count.nullable(),
  /** Chosen, and newer than the checkpoint. */
  unsigned: count,
  /** The same, chosen or not. */
  newer: count,
  /** Places in Kafka of what is no record. */
  unreadable: numbered,
  /** Files that are whole, in their order. */
  files: z.array(writtenFile),
});
export type ReplayState = z.infer<typeof replayState>;

export const STATE_NAME = "replay-state.json";

/** Null where there is none. @throws InTheWay: it is not one that can be gone on from */
export async function readState(folder: string): Promise<ReplayState | null> {
  const file = path.join(folder, STATE_NAME);
  const text = await readFile(file, "utf8").catch((error: { readonly code?: unknown }) => {
    if (error.code === "ENOENT") return null;
    throw error;
  });
  if (text === null) return null;
  try {
    return replayState.parse(JSON.parse(text));
  } catch (error) {
    throw new InTheWay(`${file} is no state of this version: begin anew with --force`, { cause: error });
  }
}

/** Whole or not at all. */
export async function writeState(folder: string, state: ReplayState): Promise<void> {
  await writeWhole(path.join(folder, STATE_NAME), `${JSON.stringify(state)}\n`);
}

export async function writeWhole(file: string, text: string): Promise<void> {
  await writeFile(`${file}.part`, text);
  await rename(`${file}.part`, file);
}
