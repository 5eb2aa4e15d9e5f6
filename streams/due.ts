/**
 * Records that wait for their time: how many of a run may be applied now. Pure.
 *
 * What is not due holds up what is behind it in its partition, as long as it waits; nobody sleeps, the partition is just not fetched.
 */
import type { StepConsumer } from "./consumer.ts";
import type { Received } from "./emission.ts";

/**
 * A record that claims to be due later than this after its append is read then: a mistake of whoever wrote it must not stop a partition for
 * good. Above the longest wait of any topic, 90 s and its jitter.
 */
export const dueWaitMsMax = 120_000;

export interface Due {
  /** From the front. */
  readonly count: number;
  /** When the next one may be applied, ms since the epoch; null when all may. */
  readonly nextAt: number | null;
}

/** A record that cannot be used is due at once. */
export function splitDue<In>(
  { dueAt }: Pick<StepConsumer<In, never>, "dueAt">,
  records: readonly Received<In>[],
  now: number,
): Due {
  if (dueAt === undefined) return { count: records.length, nextAt: null };
  for (const [count, { outcome }] of records.entries()) {
    if ("code" in outcome) continue;
    const at = Math.min(dueAt(outcome.inbound), outcome.inbound.timestamp + dueWaitMsMax);
    if (at > now) return { count, nextAt: at };
  }
  return { count: records.length, nextAt: null };
}
