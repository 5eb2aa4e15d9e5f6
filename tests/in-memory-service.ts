/**
 * The API over a real listening socket with its ports in memory, for tests.
 */
import { randomBytes } from "node:crypto";
import type { Agent } from "../api/agents.ts";
import { createHttpApp } from "../api/http/app.ts";
import { servedToOperators } from "../api/http/openapi.ts";
import type { HttpDeps } from "../api/http/route.ts";
import { type HttpServer, startHttp } from "../api/http/server.ts";
import { type InMemoryPorts, inMemoryPorts } from "../api/in-memory-ports.ts";
import type { Problem } from "../api/problem.ts";
import { type Envelope, encodeEnvelope, envelopeToJson } from "../protocol/envelope.ts";
import type { Identity } from "../protocol/identity.ts";
import { makeMessageId } from "../protocol/message-id.ts";
import { nodeRandom } from "../protocol/primitives/node.ts";
import { call, newIdentity, type SigningOptions } from "./signing.ts";

export interface InMemoryService {
  readonly ports: InMemoryPorts;
  readonly http: HttpServer;
  /** The port for operators. */
  readonly ops: HttpServer;
  /** Registered, active. */
  readonly alice: Identity;
  readonly bob: Identity;
  get(as: Identity, path: string, headers?: Record<string, string>): Promise<Answer>;
  post(as: Identity, path: string, body: unknown, signing?: SigningOptions): Promise<Answer>;
}

/** An answer, read to its end. */
export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of every shape.
  readonly json: any;
  readonly problem: Problem;
}

export async function inMemoryService(overrides: Partial<HttpDeps> = {}): Promise<InMemoryService> {
  const ports = inMemoryPorts(overrides);
  const place = { port: 0, host: "127.0.0.1" };
  const http = await startHttp(createHttpApp(ports), place);
  const ops = await startHttp(createHttpApp(ports, servedToOperators), place);
  const [alice, bob] = [newIdentity(), newIdentity()];
  for (const agent of [alice, bob]) addAgent(ports, agent);
  return {
    ports,
    http: { ...http, close: async () => void (await Promise.all([http.close(), ops.close()])) },
    ops,
    alice,
    bob,
    get: async (as, path, headers = {}) => read(await call(as, { method: "GET", url: http.url + path, headers })),
    post: async (as, path, body, signing) =>
      read(await call(as, { method: "POST", url: http.url + path, body }, signing)),
  };
}

export async function read(response: Response): Promise<Answer> {
  const text = await response.text();
  const json = text === "" ? undefined : JSON.parse(text);
  return { status: response.status, headers: response.headers, json, problem: json };
}

export function addAgent(ports: InMemoryPorts, { agentId, signing }: Identity, status: Agent["status"] = "active") {
  ports.agents.set(agentId, {
    agentId,
    identityKey: signing.publicKey,
    custody: "agent",
    accessKey: null,
    status,
    createdAt: 1,
  });
}

/** An envelope with random contents: the service cannot tell it from a real one. */
export function someEnvelope(from: string, to: string, changes: Partial<Envelope> = {}): Envelope {
  const timestamp = changes.timestamp ?? Date.now();
  return {
    messageId: makeMessageId(timestamp, nodeRandom),
    senderId: from,
    recipientId: to,
    sessionId: randomBytes(16),
    sendCounter: 1,
    previousCounter: 0,
    dhPublicKey: randomBytes(32),
    nonce: randomBytes(12),
    ciphertext: randomBytes(100),
    authTag: randomBytes(16),
    timestamp,
    flags: 0,
    initiation: new Uint8Array(),
    ...changes,
  };
}

const anySize = { ciphertextBytesMax: Number.POSITIVE_INFINITY };

export function jsonOf(envelope: Envelope): Record<string, unknown> {
  return { ...envelopeToJson(envelope, anySize) };
}

export function bytesOf(envelope: Envelope): Uint8Array {
  return encodeEnvelope(envelope, anySize);
}
