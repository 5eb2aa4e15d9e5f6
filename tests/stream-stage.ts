/**
 * A gateway with its doors on a real listening socket, for tests: what is opened here is closed when the test is finished.
 */
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { expect, onTestFinished } from "vitest";
import { acceptRequest, countCall, verifySigner } from "../api/auth.ts";
import { requestFacts } from "../api/request-facts.ts";
import { openEvents } from "../api/stream/event-stream.ts";
import { Gateway, type GatewayTimes } from "../api/stream/gateway.ts";
import { serveStreams } from "../api/stream/upgrade.ts";
import { encodeEnvelope } from "../protocol/envelope.ts";
import type { Identity } from "../protocol/identity.ts";
import { makeMessageId } from "../protocol/message-id.ts";
import { nodeRandom } from "../protocol/primitives/node.ts";
import { type EventClient, openEventClient } from "./event-client.ts";
import { newIdentity } from "./signing.ts";
import { type Client, openClient } from "./stream-client.ts";
import { World } from "./stream-world.ts";

export interface Place {
  readonly gateway: Gateway;
  /** Of the WebSocket. */
  readonly url: string;
  readonly eventsUrl: string;
}

/** A process with a gateway. By default its clocks stand still, so that only what a test is about can happen. */
export async function startGateway(
  world: World,
  times: Partial<GatewayTimes> = {},
  reportsMax?: number,
): Promise<Place> {
  const never = 60_000;
  const still = {
    sweepMs: never,
    awaySweepMs: never,
    refreshMs: never,
    standingMs: never,
    goneMs: never,
    pingMs: never,
  };
  const gateway = new Gateway(world, { ...still, graceMs: 0, ...times }, reportsMax);
  const server = createServer((request, response) => void serveEvents(world, gateway, request, response));
  serveStreams(server, gateway, { ...world, publicAuthority: undefined });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(async () => {
    await gateway.drain();
    server.close();
    expect(world.bugs).toEqual([]);
  });
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/messaging`;
  return { gateway, url: `${url}/stream`, eventsUrl: `${url}/events` };
}

/** As the route of the HTTP app does, without the app. */
async function serveEvents(world: World, gateway: Gateway, request: IncomingMessage, response: ServerResponse) {
  try {
    const facts = requestFacts(request, undefined);
    const signer = await verifySigner(world, facts);
    await countCall(world, signer);
    const open = openEvents(gateway, await acceptRequest(world, facts, signer, null));
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.flushHeaders();
    open(response);
  } catch {
    response.writeHead(503).end();
  }
}

export async function connect(
  { url }: Place,
  identity: Identity,
  options: { readonly autoPong?: boolean; readonly delegation?: string } = {},
): Promise<Client> {
  const client = await openClient(url, identity, options);
  onTestFinished(() => client.socket.terminate());
  return client;
}

export async function connectEvents(
  { eventsUrl }: Place,
  identity: Identity,
  headers: Readonly<Record<string, string>> = {},
): Promise<EventClient> {
  const client = await openEventClient(eventsUrl, identity, headers);
  onTestFinished(() => client.cut());
  return client;
}

export function newWorld(): { world: World; alice: Identity; bob: Identity } {
  const world = new World();
  const [alice, bob] = [newIdentity(), newIdentity()];
  world.register(alice);
  world.register(bob);
  return { world, alice, bob };
}

export function envelope(
  sender: Identity,
  recipient: Identity,
  ciphertextBytes = 16,
): { messageId: string; bytes: Uint8Array } {
  const timestamp = Date.now();
  const messageId = makeMessageId(timestamp, nodeRandom);
  const bytes = encodeEnvelope({
    messageId,
    senderId: sender.agentId,
    recipientId: recipient.agentId,
    sessionId: new Uint8Array(16),
    sendCounter: 1,
    previousCounter: 0,
    dhPublicKey: new Uint8Array(32),
    nonce: new Uint8Array(12),
    ciphertext: new Uint8Array(ciphertextBytes),
    authTag: new Uint8Array(16),
    timestamp,
    flags: 0,
    initiation: new Uint8Array(0),
  });
  return { messageId, bytes };
}

/** Puts items into the mailbox; who is connected is handed them. */
export function fill(
  world: World,
  recipient: Identity,
  sender: Identity,
  count: number,
  body = new Uint8Array(10),
): void {
  for (let i = 0; i < count; i++) {
    const itemId = makeMessageId(Date.now(), nodeRandom);
    world.store({ recipientId: recipient.agentId, senderId: sender.agentId, itemId, kind: "message", body });
  }
}

/** The same with envelopes, for a door that looks into them. */
export function fillEnvelopes(
  world: World,
  recipient: Identity,
  sender: Identity,
  count: number,
  ciphertextBytes?: number,
): void {
  for (let i = 0; i < count; i++) {
    const { messageId: itemId, bytes: body } = envelope(sender, recipient, ciphertextBytes);
    world.store({ recipientId: recipient.agentId, senderId: sender.agentId, itemId, kind: "message", body });
  }
}

export const upTo = (last: number, first = 1) => Array.from({ length: last - first + 1 }, (_, index) => first + index);
