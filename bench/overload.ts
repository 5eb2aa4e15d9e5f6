/**
 * Twice as much as can be done: over real servers and two service processes, senders on streams, one message a call.
 *
 * What can be done is found first, by senders that always have as many calls out as one may. Then, open loop, half of it and twice of it: latency from the intended send to
 * the answer, of what was accepted; the share that was refused (`overloaded`); and at the end, whether everything that was accepted is stored.
 */
import { setTimeout as pause } from "node:timers/promises";
import { startService } from "../bin/service-process.ts";
import type { Stack } from "../infra/local/stack.ts";
import { createIdentity } from "../protocol/identity.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import { ServiceClient } from "../sdk/service-client.ts";
import { Flooder, patiently } from "./flooder.ts";
import { type LatencySummary, latencyHistogram, openLoop, summarise } from "./open-loop.ts";
import { withoutLimits } from "./without-limits.ts";

export interface OverloadOptions {
  readonly seconds: number;
  readonly bytes: number;
}

export interface OverloadRun {
  readonly offeredPerSecond: number;
  readonly offered: number;
  readonly acceptedPerSecond: number;
  /** Of what was offered, %. */
  readonly shedPercent: number;
  /** From the intended send to the answer, of what was accepted. */
  readonly accepted: LatencySummary;
  /** The same of what was refused. */
  readonly shed: LatencySummary;
}

export interface OverloadResult {
  /** What senders with `CALLS_EACH` calls out at every moment had accepted. */
  readonly sustainablePerSecond: number;
  readonly half: OverloadRun;
  readonly twice: OverloadRun;
  readonly acceptedInAll: number;
  /** Accepted, and not stored within `SETTLE_MS_MAX` of the end. */
  readonly lost: number;
}

const SENDERS = 60;
/** More calls under way make larger steps, so more gets through than with one each. */
const CALLS_EACH = 8;
const REFUSED_MS = 200;
const RECIPIENTS = 40;

/** For consumers to work off what was accepted. */
const SETTLE_MS_MAX = 180_000;

/** Mailboxes that hold everything. */
const roomy = { SEALPOST_MAILBOX_ITEMS_MAX: "10000000", SEALPOST_PAIR_ITEMS_MAX: "10000000" };

export async function benchOverload(stack: Stack, { seconds, bytes }: OverloadOptions): Promise<OverloadResult> {
  const env = { SEALPOST_LOG_LEVEL: "warn", ...withoutLimits, ...roomy };
  const api = await startService(stack.urls, { roles: ["api"], prepare: true, env });
  const consumers = await startService(stack.urls, { roles: ["queuing", "routing", "acks"], env });
  const flooders = Array.from({ length: SENDERS }, () => new Flooder(api.url));
  try {
    for (const flooder of flooders) await flooder.start();
    const recipients = await registerSome(api.url);
    const load = new Load(flooders, recipients, bytes);
    await load.closed(seconds / 3);
    const sustainablePerSecond = Math.round((await load.closed(seconds)) / seconds);
    const half = await load.open(sustainablePerSecond / 2, seconds);
    const twice = await load.open(sustainablePerSecond * 2, seconds);
    return { sustainablePerSecond, half, twice, acceptedInAll: load.acceptedInAll, lost: await load.missing() };
  } finally {
    for (const flooder of flooders) flooder.close();
    await Promise.all([api.stop(), consumers.stop()]);
  }
}

async function registerSome(url: string): Promise<readonly string[]> {
  const ending = new AbortController();
  const ids: string[] = [];
  for (let n = 0; n < RECIPIENTS; n++) {
    const me = createIdentity(nodePrimitives, nodeRandom);
    await patiently(() => new ServiceClient(new URL(url), me, ending.signal).register());
    ids.push(me.agentId);
  }
  ending.abort();
  return ids;
}

class Load {
  readonly #flooders: readonly Flooder[];
  readonly #recipients: readonly string[];
  readonly #bytes: number;
  /** By sender. */
  readonly #accepted: string[][];
  #sent = 0;

  constructor(flooders: readonly Flooder[], recipients: readonly string[], bytes: number) {
    this.#flooders = flooders;
    this.#recipients = recipients;
    this.#bytes = bytes;
    this.#accepted = flooders.map(() => []);
  }

  get acceptedInAll(): number {
    return this.#accepted.reduce((sum, ids) => sum + ids.length, 0);
  }

  /** Each sender has always `CALLS_EACH` calls out: how many were accepted. */
  async closed(seconds: number): Promise<number> {
    const before = this.acceptedInAll;
    const until = performance.now() + seconds * 1_000;
    const callers = Array.from({ length: this.#flooders.length * CALLS_EACH }, async (_, caller) => {
      while (performance.now() < until)
        if (!(await this.#offer(caller % this.#flooders.length))) await pause(REFUSED_MS);
    });
    await Promise.all(callers);
    return this.acceptedInAll - before;
  }

  async open(ratePerSecond: number, seconds: number): Promise<OverloadRun> {
    const [accepted, shed] = [latencyHistogram(), latencyHistogram()];
    const answers: Promise<void>[] = [];
    const offered = await openLoop(ratePerSecond, seconds, (index, intendedMs) => {
      answers.push(
        this.#offer(index % this.#flooders.length).then((isAccepted) => {
          const us = Math.max(1, Math.round((performance.now() - intendedMs) * 1_000));
          (isAccepted ? accepted : shed).recordValue(us);
        }),
      );
    });
    await Promise.all(answers);
    return {
      offeredPerSecond: Math.round(ratePerSecond),
      offered,
      acceptedPerSecond: Math.round(accepted.totalCount / seconds),
      shedPercent: Math.round((shed.totalCount / offered) * 1_000) / 10,
      accepted: summarise(accepted),
      shed: summarise(shed),
    };
  }

  /** Of everything that was accepted, how much the service does not have, when it has had its time. */
  async missing(): Promise<number> {
    const until = performance.now() + SETTLE_MS_MAX;
    let missing = this.#accepted.map((ids) => ids);
    for (;;) {
      const found = await Promise.all(missing.map((ids, at) => (this.#flooders[at] as Flooder).stored(ids)));
      missing = missing.map((ids, at) => ids.filter((id) => !found[at]?.has(id)));
      const count = missing.reduce((sum, ids) => sum + ids.length, 0);
      if (count === 0 || performance.now() > until) return count;
      await pause(500);
    }
  }

  /** @throws Error for a refusal that is none of a flood */
  async #offer(at: number): Promise<boolean> {
    const flooder = this.#flooders[at] as Flooder;
    const recipientId = this.#recipients[this.#sent++ % this.#recipients.length] as string;
    const envelope = flooder.envelope(recipientId, this.#bytes);
    const answer = await flooder.offer([envelope]);
    if (answer.type === "accepted") {
      this.#accepted[at]?.push(envelope.messageId);
      return true;
    }
    if (answer.problem["code"] !== "overloaded") throw new Error(`refused: ${answer.problem["code"]}`);
    return false;
  }
}
