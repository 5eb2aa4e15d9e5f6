/**
 * The producer: records go out in batches, one request outstanding at a time.
 *
 * Promises: what `append` resolved is on every replica, and the records of one key are in the log in the order of the calls, through
 * retries, lost answers and new connections. A record may be in the log twice (under the same `ce_id`) when an answer was lost.
 *
 * kafkajs 2.2.4 loses acknowledged records when several idempotent sends run at once and one answer is lost: the next send reuses the
 * sequence number, and the broker takes it for a repeat (`producer.server.test.ts` shows it). So there is never more than one send, its
 * retries included, and what waits meanwhile goes out in the next.
 */
import type pino from "pino";
import { Unavailable } from "../protocol/refusal.ts";
import { createBacklog, type Waiting } from "./backlog.ts";
import { backoffMs, pause } from "./backoff.ts";
import type { Appender, Outgoing } from "./consumer.ts";
import type { KafkaDoor } from "./kafka.ts";
import { placeIn, recordBytesMax, toMessage } from "./outgoing.ts";
import { openProducerSession, type Placed, type ProducerSession } from "./producer-session.ts";

export interface ProducerOptions {
  readonly kafka: KafkaDoor;
  readonly log: pino.Logger;
  /** How long the first record of a batch waits for company. 0 for what a client waits for, a few ms for receipts. */
  readonly lingerMs?: number;
  /** For calls that name no deadline of their own. */
  readonly deadlineMs?: number;
  /** Kafka has taken nothing for so long while something waited: then further calls fail at once, and what waits tries on. Never without it. */
  readonly failFastMs?: number;
  readonly backlogBytesMax?: number;
  readonly backlogRecordsMax?: number;
}

export interface Producer extends Appender {
  /** What waits or is on its way. */
  backlog(): { readonly records: number; readonly bytes: number };
  /** Takes nothing more, sends what waits for at most `drainMs`, disconnects; calls that are open then reject. */
  close(drainMs?: number): Promise<void>;
}

/** Too much waits already: nothing was taken, and it may be tried again after `retryAfterS` seconds. */
export class Overloaded extends Unavailable {
  readonly retryAfterS = 1;

  constructor() {
    super("service");
  }
}

const defaults = {
  lingerMs: 0,
  // Below the ten seconds after which most HTTP clients give up: they shall see 503 and Retry-After.
  deadlineMs: 8_000,
  failFastMs: Number.POSITIVE_INFINITY,
  // Some seconds of Kafka's absence at full load; more would only be answered after its client has gone.
  backlogBytesMax: 64 * 1024 * 1024,
  backlogRecordsMax: 50_000,
};

const deadlineCheckMs = 100;

interface Call {
  readonly deadlineAt: number;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
  unconfirmed: number;
  over: boolean;
}

interface Entry extends Waiting, Placed {
  readonly call: Call;
}

type Uncounted = Omit<Entry, "partition">;

/** Connects at the first append. */
export function openProducer(options: ProducerOptions): Producer {
  const { kafka, log, lingerMs, deadlineMs, failFastMs, backlogBytesMax, backlogRecordsMax } = {
    ...defaults,
    ...options,
  };
  const calls = new Set<Call>();
  const partitionCounts = new Map<string, number>();
  /** Records of topics whose partitions are still being counted, in order. */
  const uncounted = new Map<string, Uncounted[]>();
  const backlog = createBacklog<Entry>();
  let onTheWay = { records: 0, bytes: 0 };
  let session: ProducerSession | null = null;
  let sending: Promise<void> | null = null;
  const closing = new AbortController();
  const ended = new AbortController();
  let lastError: unknown;
  /** Since when Kafka owes an answer; null when it owes none. */
  let owedSince: number | null = null;
  let deadlineTimer: NodeJS.Timeout | null = null;

  function size(): { records: number; bytes: number } {
    const others = Array.from(uncounted.values()).flat();
    return {
      records: backlog.records + onTheWay.records + others.length,
      bytes: others.reduce((sum, { bytes }) => sum + bytes, backlog.bytes + onTheWay.bytes),
    };
  }

  async function append(
    records: readonly Outgoing[],
    { deadlineMs: own = deadlineMs }: { readonly deadlineMs?: number | "never" } = {},
  ): Promise<void> {
    if (records.length === 0) return;
    if (closing.signal.aborted) throw new Unavailable("service");
    const placeable = records.map(toMessage);
    const bytes = placeable.reduce((sum, record) => sum + record.bytes, 0);
    if (placeable.some((record) => record.bytes > recordBytesMax))
      throw new Error("a record is larger than any topic takes");
    // The first after those who waited have given up is taken: it finds out whether Kafka is back.
    const isAway = owedSince !== null && calls.size > 0 && Date.now() - owedSince >= failFastMs;
    if (isAway && own !== "never") throw new Unavailable("kafka", lastError);
    const held = size();
    const full = held.records + records.length > backlogRecordsMax || held.bytes + bytes > backlogBytesMax;
    // Who waits for ever bounds itself: a runner has at most two steps unpublished.
    if (full && held.records > 0 && own !== "never") throw new Overloaded();

    return new Promise((resolve, reject) => {
      const deadlineAt = own === "never" ? Number.POSITIVE_INFINITY : Date.now() + own;
      const call: Call = { deadlineAt, resolve, reject, unconfirmed: records.length, over: false };
      calls.add(call);
      owedSince ??= Date.now();
      deadlineTimer ??= setInterval(rejectOverdue, deadlineCheckMs);
      for (const record of placeable) place({ ...record, call });
      startSending();
    });
  }

  function place(record: Uncounted): void {
    const held = uncounted.get(record.topic);
    const partitions = partitionCounts.get(record.topic);
    if (held !== undefined) held.push(record);
    else if (partitions !== undefined) backlog.add({ ...record, partition: placeIn(record, partitions) });
    else {
      uncounted.set(record.topic, [record]);
      void countPartitions(record.topic);
    }
  }

  /** Once per topic: the count is fixed as soon as there is data. */
  async function countPartitions(topic: string): Promise<void> {
    for (let attempt = 0; !closing.signal.aborted; attempt++) {
      try {
        const { topics } = await kafka.ask((admin) => admin.fetchTopicMetadata({ topics: [topic] }));
        const count = topics[0]?.partitions.length ?? 0;
        if (count === 0) throw new Unavailable("kafka");
        partitionCounts.set(topic, count);
        const held = uncounted.get(topic) ?? [];
        uncounted.delete(topic);
        for (const record of held) place(record);
        startSending();
        return;
      } catch (error) {
        lastError = error;
        await pause(backoffMs(attempt), closing.signal);
      }
    }
  }

  function startSending(): void {
    if (sending !== null || backlog.records === 0) return;
    sending = sendAll().finally(() => {
      sending = null;
      startSending();
    });
  }

  async function sendAll(): Promise<void> {
    // What arrives in the same moment leaves together.
    await new Promise((resolve) => (lingerMs > 0 ? setTimeout(resolve, lingerMs) : setImmediate(resolve)));
    let failures = 0;
    while (backlog.records > 0) {
      const before = backlog.bytes;
      const batch = backlog.take();
      onTheWay = { records: batch.length, bytes: before - backlog.bytes };
      try {
        session ??= await openProducerSession(kafka);
        await session.send(batch);
        onTheWay = { records: 0, bytes: 0 };
        failures = 0;
        for (const { call } of batch) confirm(call);
      } catch (error) {
        lastError = error;
        log.warn({ err: error, records: batch.length }, "Kafka did not take a batch; it is sent again");
        await session?.close();
        session = null;
        onTheWay = { records: 0, bytes: 0 };
        // From its first record on, and so in order. What was written all the same is a repeat and told by its ce_id.
        backlog.putBack(batch);
        forgetOver();
        if (backlog.records > 0) await pause(backoffMs(failures++), ended.signal);
      }
    }
  }

  function confirm(call: Call): void {
    if (owedSince !== null) owedSince = Date.now();
    call.unconfirmed--;
    if (call.unconfirmed > 0 || call.over) return;
    end(call);
    call.resolve();
  }

  function rejectOverdue(): void {
    const now = Date.now();
    const overdue = Array.from(calls).filter(({ deadlineAt }) => deadlineAt <= now);
    for (const call of overdue) {
      end(call);
      call.reject(new Unavailable("kafka", lastError));
    }
    if (overdue.length > 0) forgetOver();
  }

  function end(call: Call): void {
    call.over = true;
    calls.delete(call);
    if (calls.size === 0) owedSince = null;
    if (calls.size > 0 || deadlineTimer === null) return;
    clearInterval(deadlineTimer);
    deadlineTimer = null;
  }

  /** What nobody waits for is not sent any more, except where it is on its way. */
  function forgetOver(): void {
    backlog.discard(({ call }) => call.over);
    for (const [topic, held] of uncounted) {
      uncounted.set(
        topic,
        held.filter(({ call }) => !call.over),
      );
    }
  }

  return {
    append,
    backlog: size,
    async close(drainMs = 5_000) {
      closing.abort();
      for (const until = Date.now() + drainMs; calls.size > 0 && Date.now() < until; ) await pause(10);
      for (const call of calls) {
        end(call);
        call.reject(new Unavailable("kafka", lastError));
      }
      forgetOver();
      ended.abort();
      await session?.close();
      await sending;
      // The last send may have opened another.
      await session?.close();
    },
  };
}
