/**
 * What clients that do not read can make the API hold: connections at both doors whose sockets nobody reads, while their mail is answered over HTTP, so that
 * the window never stops the service. Without a bound on bytes it would write all of their mailboxes into its memory.
 */
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { type ClientRequest, request } from "node:http";
import { type ServiceProcess, startService } from "../bin/service-process.ts";
import type { StackUrls } from "../infra/local/stack.ts";
import { encodeEnvelope } from "../protocol/envelope.ts";
import { createIdentity, type Identity } from "../protocol/identity.ts";
import { makeMessageId } from "../protocol/message-id.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import { signRequest } from "../sdk/request-signature.ts";
import { ServiceClient } from "../sdk/service-client.ts";
import { openMessageDays } from "../store/message-days.ts";
import { inTransaction, openPostgres, type Postgres } from "../store/postgres.ts";
import { type Arrival, place } from "../store/queuing.ts";
import { withoutLimits } from "./without-limits.ts";

export interface StalledResult {
  readonly readers: number;
  /** Bodies in their mailboxes, all of them answered in the end. */
  readonly mailboxMiB: number;
  /** Resident memory of the API process: connected, with empty mailboxes, and the most while mail was answered. */
  readonly idleMiB: number;
  readonly peakMiB: number;
  readonly perReaderMiB: number;
  /** The worst 99th percentile of the event loop's lag: what other connections of the process feel. */
  readonly lagP99Ms: number;
}

const readersMax = 10;
const itemsPerReader = 300;
const ciphertextBytes = 60_000;
/** Half a window of such items at a time, no faster than a service without a bound could write them. */
const answersAtOnce = 32;
const pauseMs = 300;
const SIGNINGS_MAX = 100;
const MIB = 1024 * 1024;

export async function benchStalled(urls: StackUrls): Promise<StalledResult> {
  const service = await startService(urls, {
    roles: ["api"],
    prepare: true,
    env: { SEALPOST_LOG_LEVEL: "warn", ...withoutLimits },
  });
  const postgres = openPostgres(urls.postgresUrl, { connectionsMax: 2 });
  const open: ClientRequest[] = [];
  try {
    const readers = Array.from({ length: readersMax }, () => createIdentity(nodePrimitives, nodeRandom));
    for (const [index, reader] of readers.entries()) {
      await new ServiceClient(new URL(service.url), reader, new AbortController().signal).register();
      open.push(await openDoor(service.url, reader, index % 2 === 0 ? "/messaging/stream" : "/messaging/events"));
    }
    const idle = await memoryOf(service);
    for (const reader of readers) await fill(postgres, reader);
    let peak = idle;
    for (let answered = 0; answered <= itemsPerReader; answered += answersAtOnce) {
      await pause(pauseMs);
      peak = atLeast(peak, await memoryOf(service));
      for (const reader of readers) await answer(service.url, reader, answered);
    }
    return {
      readers: readersMax,
      mailboxMiB: Math.round((readersMax * itemsPerReader * ciphertextBytes) / MIB),
      idleMiB: Math.round(idle.residentMiB),
      peakMiB: Math.round(peak.residentMiB),
      perReaderMiB: Number(((peak.residentMiB - idle.residentMiB) / readersMax).toFixed(1)),
      lagP99Ms: Number(peak.lagP99Ms.toFixed(1)),
    };
  } finally {
    for (const asked of open) asked.destroy();
    await postgres.close();
    await service.kill();
  }
}

/** Connects, and reads nothing of what comes. */
async function openDoor(base: string, me: Identity, path: string): Promise<ClientRequest> {
  const url = new URL(path, base);
  const signed = signRequest(me, { method: "GET", url, body: null, now: Date.now() });
  const upgrade = {
    connection: "Upgrade",
    upgrade: "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": randomBytes(16).toString("base64"),
  };
  const asked = request(url, { headers: { ...signed, ...(path.endsWith("stream") ? upgrade : {}) }, agent: false });
  asked.on("error", () => undefined);
  asked.end();
  const [response] = await once(asked, path.endsWith("stream") ? "upgrade" : "response");
  if (![101, 200].includes(response.statusCode)) throw new Error(`the door answered ${response.statusCode}`);
  return asked;
}

async function fill(postgres: Postgres, { agentId: recipientId }: Identity): Promise<void> {
  const days = openMessageDays(postgres);
  for (let stored = 0; stored < itemsPerReader; stored += 50) {
    const arrivals = Array.from({ length: Math.min(50, itemsPerReader - stored) }, () => arrivalFor(recipientId));
    await inTransaction(postgres, (client) => place(client, days, arrivals, Number.MAX_SAFE_INTEGER));
  }
}

function arrivalFor(recipientId: string): Arrival {
  const timestamp = Date.now();
  const messageId = makeMessageId(timestamp, nodeRandom);
  const senderId = randomBytes(32).toString("base64url");
  const sessionId = randomBytes(16);
  const body = encodeEnvelope({
    ...{ messageId, senderId, recipientId, sessionId, timestamp },
    ...{ sendCounter: 1, previousCounter: 0, flags: 0, initiation: new Uint8Array() },
    ...{ dhPublicKey: randomBytes(32), nonce: randomBytes(12), authTag: randomBytes(16) },
    ciphertext: randomBytes(ciphertextBytes),
  });
  const about = { sessionId, sendCounter: 1, size: ciphertextBytes, acceptedAt: timestamp };
  return { kind: "message", custody: "agent", recipientId, senderId, itemId: messageId, body, ...about };
}

/** All up to so many, and the next ones. Seqs are dense. */
async function answer(base: string, me: Identity, answered: number): Promise<void> {
  const url = new URL("/messaging/acknowledge", base);
  const items = Array.from({ length: answersAtOnce }, (_, index) => ({ seq: answered + index + 1 }));
  const body = Buffer.from(JSON.stringify({ items }));
  const type = { "content-type": "application/json" };
  for (let signings = 1; ; signings++) {
    const headers = { ...signRequest(me, { method: "POST", url, body, now: Date.now() }), ...type };
    const response = await fetch(url, { method: "POST", headers, body });
    await response.arrayBuffer();
    if (response.status === 202) return;
    // A service that is too busy for its memory of nonces asks for a new signature.
    if (response.status !== 401 || signings === SIGNINGS_MAX) throw new Error(`answered ${response.status}`);
    await pause(pauseMs);
  }
}

interface Memory {
  readonly residentMiB: number;
  readonly lagP99Ms: number;
}

async function memoryOf({ url }: ServiceProcess): Promise<Memory> {
  const text = await (await fetch(`${url}/metrics`)).text();
  const read = (name: string) => Number(new RegExp(`^${name} (\\S+)$`, "m").exec(text)?.[1] ?? Number.NaN);
  return {
    residentMiB: read("process_resident_memory_bytes") / MIB,
    lagP99Ms: read("nodejs_eventloop_lag_p99_seconds") * 1_000,
  };
}

function atLeast(one: Memory, other: Memory): Memory {
  return {
    residentMiB: Math.max(one.residentMiB, other.residentMiB),
    lagP99Ms: Math.max(one.lagP99Ms, other.lagP99Ms),
  };
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
