/**
 * The whole way: from an agent's send to its peer's decryption, over real servers and two service processes.
 *
 * Open loop at a fixed rate; latency from the intended send to the decrypted message in the recipient's process. `--max` looks for the highest rate that is
 * sustained: everything sent in the window has arrived within two seconds of its end, and p99 is below a second.
 */
import type { Histogram } from "hdr-histogram-js";
import type { ServiceProcess } from "../bin/service-process.ts";
import { startService } from "../bin/service-process.ts";
import type { Stack } from "../infra/local/stack.ts";
import { payload } from "./bare-kafkajs.ts";
import { BenchAgent } from "./bench-agent.ts";
import { cpuOfServers, cpuPer1000, cpuSeconds, ownCpuSeconds } from "./cpu.ts";
import { type LatencySummary, latencyHistogram, openLoop, summarise } from "./open-loop.ts";
import { withoutLimits } from "./without-limits.ts";

export interface PipelineOptions {
  readonly ratePerSecond: number;
  readonly seconds: number;
  readonly bytes: number;
  readonly pairs: number;
  /** At this rate, before anything counts: sessions begin, and the virtual machines compile what is hot. */
  readonly warmUpSeconds: number;
}

export interface PipelineRun {
  readonly ratePerSecond: number;
  readonly sent: number;
  readonly accepted: number;
  readonly received: number;
  readonly refused: number;
  readonly sendToAccepted: LatencySummary;
  readonly sendToReceive: LatencySummary;
  /** Arrived in the window and the two seconds after it, per second of the window. */
  readonly receivedPerSecond: number;
  /** CPU seconds per 1,000 messages, by process. */
  readonly cpuPer1000: Readonly<Record<string, number>>;
}

/** What the last messages may take after the last send. */
const settleMs = 2_000;

export interface Pipeline {
  run(options: PipelineOptions): Promise<PipelineRun>;
  close(): Promise<void>;
}

export async function openPipeline(stack: Stack, pairs: number): Promise<Pipeline> {
  const api = await startService(stack.urls, {
    roles: ["api"],
    prepare: true,
    env: { SEALPOST_LOG_LEVEL: "warn", ...withoutLimits },
  });
  const consumers = await startService(stack.urls, {
    roles: ["queuing", "routing", "acks", "receipts", "sessions", "relay", "jobs"],
    env: { SEALPOST_LOG_LEVEL: "warn", ...withoutLimits },
  });
  const window = { histogram: latencyHistogram(), received: 0, refused: 0, accepted: 0 };
  const acceptedAt = latencyHistogram();
  const onMessage = ({ body }: { readonly body: Uint8Array }) => {
    const intendedMs = Buffer.from(body.buffer, body.byteOffset, 8).readDoubleBE(0);
    window.received += 1;
    record(window.histogram, intendedMs);
  };
  const senders: BenchAgent[] = [];
  const recipients: BenchAgent[] = [];
  for (let pair = 0; pair < pairs; pair += 1) {
    const intended: number[] = [];
    const sender = new BenchAgent(api.url, {
      onMessage,
      onAccepted: (count) => {
        window.accepted += count;
        for (const at of intended.splice(0, count)) record(acceptedAt, at);
      },
      onRefused: () => {
        window.refused += 1;
      },
      onSent: (intendedMs) => intended.push(intendedMs),
    });
    const recipient = new BenchAgent(api.url, { onMessage, onAccepted() {}, onRefused() {}, onSent() {} });
    await Promise.all([sender.start(), recipient.start()]);
    await sender.meet(recipient.id);
    senders.push(sender);
    recipients.push(recipient);
  }
  const drive = async (ratePerSecond: number, seconds: number, bytes: number) =>
    openLoop(ratePerSecond, seconds, (index, intendedMs) => {
      const at = index % pairs;
      const [sender, recipient] = [senders[at], recipients[at]];
      if (sender !== undefined && recipient !== undefined) {
        sender.send(recipient.id, payload(bytes, intendedMs), intendedMs);
      }
    });
  return {
    async run({ ratePerSecond, seconds, bytes, warmUpSeconds }) {
      await drive(ratePerSecond, warmUpSeconds, bytes);
      await arrived(window, Number.POSITIVE_INFINITY, 500);
      Object.assign(window, { received: 0, refused: 0, accepted: 0 });
      window.histogram.reset();
      acceptedAt.reset();
      const before = cpuOf(stack, api, consumers);
      const sent = await drive(ratePerSecond, seconds, bytes);
      await arrived(window, sent, settleMs);
      const after = cpuOf(stack, api, consumers);
      return {
        ratePerSecond,
        sent,
        accepted: window.accepted,
        received: window.received,
        refused: window.refused,
        sendToAccepted: summarise(acceptedAt),
        sendToReceive: summarise(window.histogram),
        receivedPerSecond: Math.round(window.received / seconds),
        cpuPer1000: cpuPer1000(before, after, sent),
      };
    },
    async close() {
      for (const agent of [...senders, ...recipients]) agent.close();
      await Promise.all([api.stop(), consumers.stop()]);
    },
  };
}

/**
 * Steps up by a quarter until a rate is not sustained; answers the last that was. Sustained: nothing refused, everything sent in the window has
 * arrived two seconds after it, p99 below a second.
 */
export async function findMaximum(pipeline: Pipeline, options: PipelineOptions): Promise<PipelineRun> {
  let best: PipelineRun | null = null;
  for (let rate = options.ratePerSecond; ; rate = Math.round((rate * 1.25) / 100) * 100) {
    const run = await pipeline.run({ ...options, ratePerSecond: rate, warmUpSeconds: 3 });
    if (run.received < run.sent || run.refused > 0 || run.sendToReceive.p99Ms >= 1_000) break;
    best = run;
  }
  if (best === null) throw new Error(`not even ${options.ratePerSecond} messages a second were sustained`);
  return best;
}

function record(histogram: Histogram, intendedMs: number): void {
  histogram.recordValue(Math.max(1, Math.round((performance.now() - intendedMs) * 1000)));
}

async function arrived(window: { readonly received: number }, count: number, msMax: number): Promise<void> {
  const until = performance.now() + msMax;
  while (window.received < count && performance.now() < until) await new Promise((r) => setTimeout(r, 10));
}

function cpuOf(stack: Stack, api: ServiceProcess, consumers: ServiceProcess): Record<string, number> {
  return {
    api: cpuSeconds(api.pid),
    consumers: cpuSeconds(consumers.pid),
    "load generator": ownCpuSeconds(process.pid),
    ...cpuOfServers(stack),
  };
}
