/**
 * A full mailbox, filled and drained over each door: over real servers and two service processes, by a client that opens nothing.
 *
 * Over the stream it acknowledges as it reads; over HTTP it reads pages of 100 and acknowledges each. The time ends with the last answer; the mailbox is empty when acks has
 * worked off what was answered.
 */
import { startService } from "../bin/service-process.ts";
import type { Stack } from "../infra/local/stack.ts";
import { createIdentity } from "../protocol/identity.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import type { ServerFrame } from "../protocol/stream-frames.ts";
import { signRequest } from "../sdk/request-signature.ts";
import type { StreamConnection } from "../sdk/service.ts";
import { ServiceClient } from "../sdk/service-client.ts";
import { openPostgres } from "../store/postgres.ts";
import { countWaiting } from "../store/waiting.ts";
import { Flooder, patiently } from "./flooder.ts";
import { withoutLimits } from "./without-limits.ts";

export interface DrainRun {
  readonly door: "stream" | "http";
  readonly items: number;
  readonly filledPerSecond: number;
  readonly drainedPerSecond: number;
  /** From the last answer until the mailbox was empty, in ms. */
  readonly emptyAfterMs: number;
}

/** As many as a mailbox holds, from as few senders as may fill it. */
const itemsMax = 10_000;
const sendersMax = 5;
const waitMsMax = 120_000;

export async function benchDrain(stack: Stack, bytes: number): Promise<readonly DrainRun[]> {
  const env = { SEALPOST_LOG_LEVEL: "warn", ...withoutLimits };
  const api = await startService(stack.urls, { roles: ["api"], prepare: true, env });
  const roles = ["queuing", "routing", "acks", "receipts", "sessions", "relay", "jobs"] as const;
  const consumers = await startService(stack.urls, { roles: [...roles], env });
  const postgres = openPostgres(stack.urls.postgresUrl, { connectionsMax: 1 });
  const waiting = async (recipientId: string) =>
    (await countWaiting(postgres, recipientId, [{ recipientId, messageIds: [] }], 1))[0]?.items ?? 0;
  try {
    const runs: DrainRun[] = [];
    for (const door of ["stream", "http"] as const) {
      const reader = new Reader(api.url);
      await reader.register();
      const filledMs = await timed(async () => {
        await fill(api.url, reader.id, bytes);
        await until(async () => (await waiting(reader.id)) === itemsMax);
      });
      const drainedMs = await timed(() => (door === "stream" ? reader.drainStream() : reader.drainHttp()));
      const emptyAfterMs = await timed(() => until(async () => (await waiting(reader.id)) === 0));
      reader.close();
      const perSecond = (ms: number) => Math.round((itemsMax * 1_000) / ms);
      runs.push({
        ...{ door, items: itemsMax, filledPerSecond: perSecond(filledMs), drainedPerSecond: perSecond(drainedMs) },
        emptyAfterMs: Math.round(emptyAfterMs),
      });
    }
    return runs;
  } finally {
    await postgres.close();
    await Promise.all([api.stop(), consumers.stop()]);
  }
}

async function fill(url: string, recipientId: string, bytes: number): Promise<void> {
  const flooders = Array.from({ length: sendersMax }, () => new Flooder(url));
  await Promise.all(
    flooders.map(async (flooder) => {
      await flooder.start();
      const envelopes = Array.from({ length: itemsMax / sendersMax }, () => flooder.envelope(recipientId, bytes));
      await flooder.send(envelopes);
    }),
  );
  for (const flooder of flooders) flooder.close();
}

class Reader {
  readonly #me = createIdentity(nodePrimitives, nodeRandom);
  readonly #ending = new AbortController();
  readonly #url: string;
  readonly #client: ServiceClient;
  #connection: StreamConnection | null = null;

  constructor(url: string) {
    this.#url = url;
    this.#client = new ServiceClient(new URL(url), this.#me, this.#ending.signal);
  }

  get id(): string {
    return this.#me.agentId;
  }

  register(): Promise<void> {
    return patiently(() => this.#client.register());
  }

  async drainStream(): Promise<void> {
    let seq = 0;
    await this.#client.openStream({
      onOpen: (connection) => {
        this.#connection = connection;
      },
      onFrames: (frames: readonly ServerFrame[]) => {
        for (const frame of frames) if (frame.type === "item") seq = inOrder(seq, frame.seq);
        if (seq > 0) this.#connection?.send([{ type: "ack-up-to", seq }]);
      },
      onClose: () => undefined,
    });
    await until(async () => seq === itemsMax);
  }

  async drainHttp(): Promise<void> {
    let seq = 0;
    while (seq < itemsMax) {
      const page = (await this.#call("GET", `/messaging/receive?after=${seq}&limit=100`, null)) as {
        items: { seq: number }[];
      };
      for (const item of page.items) seq = inOrder(seq, item.seq);
      const items = page.items.map((item) => ({ seq: item.seq }));
      await this.#call("POST", "/messaging/acknowledge", { items });
    }
  }

  close(): void {
    this.#connection?.close();
    this.#ending.abort();
  }

  async #call(method: "GET" | "POST", path: string, json: unknown): Promise<unknown> {
    const url = new URL(this.#url + path);
    const body = json === null ? null : Buffer.from(JSON.stringify(json));
    const signed = signRequest(this.#me, { method, url, body, now: Date.now() });
    const headers = { ...signed, ...(body !== null && { "content-type": "application/json" }) };
    const response = await fetch(url, { method, headers, body });
    if (!response.ok) throw new Error(`${path} was answered ${response.status}`);
    return response.json();
  }
}

function inOrder(before: number, seq: number): number {
  if (seq !== before + 1) throw new Error("the mailbox is not drained in order");
  return seq;
}

async function timed(work: () => Promise<void>): Promise<number> {
  const begun = performance.now();
  await work();
  return performance.now() - begun;
}

async function until(holds: () => Promise<boolean>): Promise<void> {
  const end = performance.now() + waitMsMax;
  while (!(await holds())) {
    if (performance.now() > end) throw new Error("it took too long");
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
