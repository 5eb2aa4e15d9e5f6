/**
 * Publishes facts born in the API or a job: table `facts` to Kafka.
 *
 * Reads   facts that are not published, in order for each key.
 * Writes  their topics, each under the row's id as `ce_id`, at least once.
 * Keeps   `published_at`; forgets what was published a day ago.
 *
 * Any number of processes may run it: one holds the lock and works, the others wait for it to go.
 */
import type pino from "pino";
import { Unavailable } from "../protocol/refusal.ts";
import type { HeldFacts } from "../store/facts.ts";
import { backoffMs, pause } from "../streams/backoff.ts";
import type { Appender } from "../streams/consumer.ts";

export interface RelayOptions {
  /** Takes the lock; null when another process has it (`store/facts.ts`: `holdFacts`). */
  readonly hold: () => Promise<HeldFacts | null>;
  readonly appender: Appender;
  readonly log: pino.Logger;
  /** Called once with a bug: the process shall end. */
  readonly onFatal: (error: unknown) => void;
  readonly now?: () => number;
}

export interface Relay {
  /** Does it hold the lock? */
  holds(): boolean;
  /** Never rejects. */
  stop(): Promise<void>;
}

/** Nobody waits for a fact; asking costs an index lookup. */
const pollMs = 250;
/** How soon another process takes over. */
const lockPollMs = 2_000;
/** A page of facts, some 100 KB. */
const pageMax = 200;
/** Long enough to look up what happened yesterday. */
const keptMs = 24 * 60 * 60 * 1_000;
const forgetEveryMs = 10 * 60 * 1_000;

export function startRelay({ hold, appender, log, onFatal, now = Date.now }: RelayOptions): Relay {
  const stopping = new AbortController();
  let held: HeldFacts | null = null;

  /** Answers whether there may be more at once. */
  async function publishPage(facts: HeldFacts): Promise<boolean> {
    const page = await facts.unpublished(pageMax);
    if (page.length === 0) return false;
    // The lock is gone with its connection: then somebody else publishes.
    if (!facts.held()) throw new Unavailable("postgres");
    await appender.append(page);
    await facts.markPublished(
      page.map(({ id }) => id),
      now(),
    );
    return page.length === pageMax;
  }

  async function work(facts: HeldFacts): Promise<void> {
    let forgotAt = 0;
    while (!stopping.signal.aborted) {
      const isMore = await publishPage(facts);
      if (now() - forgotAt > forgetEveryMs) {
        await facts.forgetPublished(now() - keptMs);
        forgotAt = now();
      }
      if (!isMore) await pause(pollMs, stopping.signal);
    }
  }

  async function run(): Promise<void> {
    for (let failures = 0; !stopping.signal.aborted; ) {
      try {
        held = await hold();
        if (held !== null) {
          failures = 0;
          await work(held);
        } else await pause(lockPollMs, stopping.signal);
      } catch (error) {
        if (!(error instanceof Unavailable)) throw error;
        log.warn({ err: error }, "the relay waits for a server that is away");
        await pause(backoffMs(failures++), stopping.signal);
      } finally {
        await held?.release();
        held = null;
      }
    }
  }

  const running = run().catch((error: unknown) => {
    log.error({ err: error }, "the relay cannot go on");
    onFatal(error);
  });
  return {
    holds: () => held?.held() ?? false,
    async stop() {
      stopping.abort();
      await running;
    },
  };
}
