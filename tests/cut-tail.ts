/** What a power cut does to a broker that answers before its disk has the record: the end of a log is not there any more. */
import { open, readdir, readFile, rm } from "node:fs/promises";
import path from "node:path";

/** Before the length of a batch: its offset. Neither is counted in the length (https://kafka.apache.org/documentation/#recordbatch). */
const LENGTH_AT = 8;
const UNCOUNTED_BYTES = 12;
/** Of the first batch that is lost the disk has the beginning. */
const TORN_BYTES = 30;

/**
 * Cuts the last batches off a partition, in the files of a broker that was killed; so many, or all there are. What is derived of the log is removed as well, so
 * that the broker looks at what there is.
 *
 * @param logDir the broker's `log.dirs`
 * @throws Error when there are fewer.
 */
export async function cutTail(logDir: string, topic: string, partition: number, batches: number): Promise<void> {
  const folder = path.join(logDir, `${topic}-${partition}`);
  const files = await readdir(folder);
  const last = files
    .filter((file) => file.endsWith(".log"))
    .sort()
    .at(-1);
  if (last === undefined) throw new Error("the partition has no segment");
  const bytes = await readFile(path.join(folder, last));
  const starts: number[] = [];
  for (let at = 0; at + UNCOUNTED_BYTES <= bytes.length && bytes.readInt32BE(at + LENGTH_AT) > 0; ) {
    starts.push(at);
    at += UNCOUNTED_BYTES + bytes.readInt32BE(at + LENGTH_AT);
  }
  const end = starts.at(-batches);
  if (end === undefined) throw new Error(`the partition has ${starts.length} batches`);
  const file = await open(path.join(folder, last), "r+");
  await file.truncate(end + TORN_BYTES);
  await file.close();
  for (const derived of files.filter((name) => /\.(index|timeindex|snapshot)$/.test(name))) {
    await rm(path.join(folder, derived));
  }
  await rm(path.join(logDir, "recovery-point-offset-checkpoint"), { force: true });
}
