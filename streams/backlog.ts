/**
 * What waits to be sent: one line per partition, first in, first out, and the next batch out of all of them. Pure: no clock, no I/O.
 *
 * Promise: records of one partition leave in the order they came, also after `putBack`.
 */

/** What the backlog must know of a record. */
export interface Waiting {
  readonly topic: string;
  readonly partition: number;
  readonly bytes: number;
}

/** Per partition and request. The broker's limit is 1 MiB a batch; the rest is room for its headers. */
export const batchBytesMax = 900_000;
/** kafkajs copies a partition's list once per record: a thousand would cost more than a second request. */
export const batchRecordsMax = 500;
/** Over all partitions: a request of this size is on its way for a moment only, and what waits behind it may be urgent. */
const requestBytesMax = 8 * 1024 * 1024;

export interface Backlog<Item extends Waiting> {
  readonly records: number;
  readonly bytes: number;
  add(item: Item): void;
  /** Takes the next batch out, in order for each partition; empty when nothing waits. */
  take(): Item[];
  /** Puts a batch that was taken last back to the front. */
  putBack(batch: readonly Item[]): void;
  /** Removes what nobody waits for any more. */
  discard(isDead: (item: Item) => boolean): void;
}

export function createBacklog<Item extends Waiting>(): Backlog<Item> {
  /** In the order in which they get their turn. */
  const lines = new Map<string, Item[]>();
  let records = 0;
  let bytes = 0;

  function count(items: readonly Item[], sign: 1 | -1): void {
    records += sign * items.length;
    for (const item of items) bytes += sign * item.bytes;
  }

  return {
    get records() {
      return records;
    },
    get bytes() {
      return bytes;
    },

    add(item) {
      count([item], 1);
      const line = lines.get(lineOf(item));
      if (line === undefined) lines.set(lineOf(item), [item]);
      else line.push(item);
    },

    take() {
      const batch: Item[] = [];
      let room = requestBytesMax;
      // A copy: a line that is put at the end again has had its turn.
      for (const [name, line] of [...lines]) {
        const taken = headOf(line, Math.min(room, batchBytesMax), batch.length === 0);
        if (taken.length === 0) break;
        for (const item of taken) room -= item.bytes;
        batch.push(...taken);
        lines.delete(name);
        // What is left of a line gets its next turn after the others.
        if (taken.length < line.length) lines.set(name, line.slice(taken.length));
        if (room <= 0) break;
      }
      count(batch, -1);
      return batch;
    },

    putBack(batch) {
      count(batch, 1);
      const returned = Map.groupBy<string, Item>(batch, lineOf);
      const others = [...lines].filter(([name]) => !returned.has(name));
      const first = Array.from(returned, ([name, items]): [string, Item[]] => [
        name,
        items.concat(lines.get(name) ?? []),
      ]);
      lines.clear();
      for (const [name, line] of first.concat(others)) lines.set(name, line);
    },

    discard(isDead) {
      for (const [name, line] of lines) {
        const dead = line.filter(isDead);
        if (dead.length === 0) continue;
        count(dead, -1);
        const alive = line.filter((item) => !isDead(item));
        if (alive.length === 0) lines.delete(name);
        else lines.set(name, alive);
      }
    },
  };
}

function lineOf({ topic, partition }: Waiting): string {
  return `${topic} ${partition}`;
}

/** The longest beginning of a line within the limits; a single record that is larger goes alone. */
function headOf<Item extends Waiting>(line: readonly Item[], bytesMax: number, mayExceed: boolean): Item[] {
  let bytes = 0;
  let length = 0;
  for (const item of line) {
    bytes += item.bytes;
    const fits = bytes <= bytesMax || (length === 0 && mayExceed);
    if (!fits || length === batchRecordsMax) break;
    length++;
  }
  return line.slice(0, length);
}
