/**
 * Which records go into the next step: what lies ready on several partitions, merged, within the limits. Pure.
 */

/** What the plan must know of a record. */
export interface Weighed {
  readonly bytes: number;
  /** What a record stands for: one receipt record may report 256 items. */
  readonly items: number;
}

export interface StepLimits {
  readonly records: number;
  readonly items: number;
  readonly bytes: number;
}

/**
 * One transaction holds its locks for about as long as its largest part takes: with these it stays in the tens of milliseconds, and
 * PostgreSQL is already near its best rate (notes on Kafka: `unnest` gains little beyond some hundred rows).
 */
export const stepLimits: StepLimits = { records: 500, items: 2_000, bytes: 1024 * 1024 };

/**
 * How many records to take from the front of each queue, in the order given; at least one record in all.
 *
 * Each count is a beginning of its queue, and all of them together a beginning of the queues laid end to end: so whatever is left out
 * comes after what is taken, in every partition.
 */
export function planStep(queues: readonly (readonly Weighed[])[], limits: StepLimits): number[] {
  const left = { ...limits };
  let full = false;
  let empty = true;
  return queues.map((queue) => {
    let count = 0;
    for (const { bytes, items } of queue) {
      const fits = left.records >= 1 && left.items >= items && left.bytes >= bytes;
      full ||= !fits && !empty;
      if (full) break;
      left.records -= 1;
      left.items -= items;
      left.bytes -= bytes;
      empty = false;
      count++;
    }
    return count;
  });
}
