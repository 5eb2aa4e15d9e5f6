/**
 * The service as far as the SDK's tests need it: a real HTTP and WebSocket server over mailboxes in memory, which checks
 * signatures, and can be told to fail.
 */
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import { verifySignature } from "http-message-sig";
import { type WebSocket, WebSocketServer } from "ws";
import { decodeBase64Url, encodeBase64Url } from "../protocol/base64url.ts";
import { decodeEnvelope } from "../protocol/envelope.ts";
import { agentIdOf } from "../protocol/identity.ts";
import { prekeyStockDigest } from "../protocol/prekey-stock.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import {
  CLOSE_SUPERSEDED,
  type ClientFrame,
  decodeClientFrames,
  encodeServerFrames,
  type ItemFrame,
  type ReceiptFrame,
  type ServerFrame,
  type StreamItemId,
} from "../protocol/stream-frames.ts";
import { FakeCustody } from "./fake-custody.ts";
import { problem } from "./fake-problem.ts";

export { problem } from "./fake-problem.ts";

type Json = Record<string, unknown>;

interface Account {
  readonly identityKey: Uint8Array;
  signedPrekey: Json | null;
  lastResortKemPrekey: Json | null;
  oneTimePrekeys: Json[];
  kemPrekeys: Json[];
  readonly claims: Map<string, Json>;
  mailbox: ItemFrame[];
  lastSeq: number;
  stream: WebSocket | null;
}

interface Outcome {
  readonly senderId: string;
  readonly recipientId: string;
  readonly bytes: Uint8Array;
  status: string;
  code: string | null;
}

/** How an answer is given, or not. */
type SendAnswer = "accept" | "accept-silently" | "ignore" | Json;

export class FakeService {
  readonly accounts = new Map<string, Account>();
  readonly messages = new Map<string, Outcome>();
  /** Every envelope that came in a SEND, also those that were not taken. */
  readonly sent: { readonly messageId: string; readonly bytes: Uint8Array }[] = [];
  /** Batches as they came: message ids. */
  readonly batches: string[][] = [];
  readonly requests: string[] = [];
  readonly acked: string[] = [];
  readonly refused: { readonly messageId: string; readonly code: string }[] = [];
  /** Decides on each SEND; everything is accepted by default. */
  onSend: (messageIds: readonly string[], batchNumber: number) => SendAnswer = () => "accept";
  /** Answers a request in place of the service: [status, body, headers?], or null to go on. "drop": done, but the answer is lost. */
  onRequest: (request: string, attempt: number) => [number, Json, Record<string, string>?] | "drop" | null = () => null;
  /** Changes an item on its way out. */
  onItem: (item: ItemFrame) => ItemFrame[] = (item) => [item];
  /** Are upgrades, and the calls of agents whose keys it holds, refused with 503? */
  isAway = false;
  /** What came over HTTP, as text. */
  readonly bodies: string[] = [];
  readonly custody = new FakeCustody({
    sent: (senderId, recipientId, messageId, bytes) => {
      this.sent.push({ messageId, bytes });
      if (this.messages.has(messageId)) return "known";
      this.messages.set(messageId, { senderId, recipientId, bytes, status: "queued", code: null });
      return "new";
    },
    delivered: (messageId) => this.#settle(messageId, "delivered", null),
    discarded: (messageId, code) => this.#settle(messageId, "discarded", code),
    acknowledged: (messageId) => {
      this.acked.push(messageId);
      this.#settle(messageId, "acknowledged", null);
    },
  });
  /** Are receipts lost? */
  losesReceipts = false;
  readonly #server: Server;
  readonly #sockets = new WebSocketServer({ noServer: true });
  readonly #open = new Set<Duplex>();

  private constructor(server: Server) {
    this.#server = server;
  }

  static async start(): Promise<FakeService> {
    const server = createServer();
    const service = new FakeService(server);
    server.on("request", (request, response) => {
      void service.#answer(request).then((answer) => {
        if (answer === "drop") {
          request.socket.destroy();
          return;
        }
        const [status, json, headers = {}] = answer;
        response.writeHead(status, { "content-type": "application/json", ...headers }).end(JSON.stringify(json));
      });
    });
    server.on("upgrade", (request, socket, head) => void service.#upgrade(request, socket, head));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return service;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.custody.stop();
    for (const socket of this.#open) socket.destroy();
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  account(agentId: string): Account {
    const account = this.accounts.get(agentId);
    if (account === undefined) throw new Error("no such account");
    return account;
  }

  /** Closes an agent's stream. */
  disconnect(agentId: string, code?: number): void {
    const { stream } = this.account(agentId);
    if (code === undefined) stream?.terminate();
    else stream?.close(code);
  }

  /** Bytes of one message id as they came, one entry for each time. */
  bytesOf(messageId: string): string[] {
    return this.sent
      .filter((one) => one.messageId === messageId)
      .map(({ bytes }) => Buffer.from(bytes).toString("hex"));
  }

  send(agentId: string, frames: readonly ServerFrame[]): void {
    this.account(agentId).stream?.send(encodeServerFrames(frames));
  }

  /** Puts an item into a mailbox as the service does. */
  put(recipientId: string, { senderId, itemId, kind, body }: Omit<ItemFrame, "type" | "seq">): void {
    const account = this.account(recipientId);
    account.lastSeq += 1;
    const item: ItemFrame = { type: "item", seq: account.lastSeq, kind, senderId, itemId, body };
    account.mailbox.push(item);
    this.#hand(recipientId, item);
  }

  #hand(recipientId: string, item: ItemFrame): void {
    if (this.account(recipientId).stream === null) return;
    const items = this.onItem(item);
    if (items.length === 0) return;
    this.send(recipientId, items);
    for (const { itemId } of items) this.#outcome(itemId, "delivered", null);
  }

  async #answer(request: IncomingMessage): Promise<[number, Json, Record<string, string>?] | "drop"> {
    const chunks: Buffer[] = [];
    for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    this.bodies.push(body.toString());
    const name = `${request.method} ${request.url}`;
    this.requests.push(name);
    const attempt = this.requests.filter((other) => other === name).length;
    const planned = this.onRequest(name, attempt);
    if (planned !== null && planned !== "drop") return planned;
    const json = body.length === 0 ? {} : (JSON.parse(body.toString()) as Json);
    const caller = await this.#caller(request, body, json);
    if (caller === null) return problem(401, "signature-invalid");
    const isHeld = this.custody.accounts.has(caller);
    if (isHeld && this.isAway) return problem(503, "unavailable");
    const prefer = String(request.headers["prefer"] ?? "");
    const held = await this.custody.operate(name, caller, json, prefer);
    const answer = held ?? this.#operate(name, caller, json, request);
    return planned === "drop" ? "drop" : answer;
  }

  #operate(name: string, caller: string, json: Json, request: IncomingMessage): [number, Json] {
    const { identity_key, messages = [] } = json;
    const account = this.accounts.get(caller);
    if (name === "POST /messaging/agents") {
      const identityKey = decodeBase64Url(identity_key as string) as Uint8Array;
      if (account !== undefined) return [200, { agent_id: caller }];
      this.accounts.set(caller, {
        identityKey,
        signedPrekey: null,
        lastResortKemPrekey: null,
        oneTimePrekeys: [],
        kemPrekeys: [],
        claims: new Map(),
        mailbox: [],
        lastSeq: 0,
        stream: null,
      });
      return [201, { agent_id: caller }];
    }
    if (name === "POST /messaging/messages/status") {
      const statuses = (messages as { message_id: string }[]).map(({ message_id }) => {
        const outcome = this.messages.get(message_id);
        return { message_id, status: outcome?.status ?? "unknown", code: outcome?.code ?? null };
      });
      return [200, { messages: statuses }];
    }
    if (name.startsWith("GET /messaging/sessions/")) return [200, this.#pairSessions(caller, name.slice(24))];
    if (account === undefined) return problem(401, "agent-unknown");
    if (name === "POST /messaging/upload-prekeys") return this.#upload(account, json);
    if (name === "GET /messaging/prekeys") return [200, stockOf(account)];
    if (name === "GET /messaging/sessions") return [200, { sessions: this.#sentSessions(caller) }];
    if (name === "POST /messaging/retry-requests") {
      const { item_id, retry } = json as { item_id: string; retry: { sender_id: string } };
      if (!this.accounts.has(retry.sender_id)) return problem(404, "recipient-unknown");
      const body = Buffer.from(JSON.stringify(retry));
      this.put(retry.sender_id, { kind: "retry", senderId: caller, itemId: item_id, body });
      return [202, { item_id }];
    }
    const target = /^POST \/messaging\/prekeys\/(.{43})$/.exec(name)?.[1];
    if (target !== undefined) return this.#claim(target, `${caller}/${request.headers["idempotency-key"]}`);
    return problem(404, "not-found");
  }

  #upload(account: Account, json: Json): [number, Json] {
    const {
      signed_prekey,
      last_resort_kem_prekey,
      one_time_prekeys = [],
      kem_prekeys = [],
      replace = false,
    } = json as { [name: string]: Json | undefined } & { one_time_prekeys?: Json[]; kem_prekeys?: Json[] };
    if (replace) {
      account.oneTimePrekeys = [];
      account.kemPrekeys = [];
    }
    account.signedPrekey = signed_prekey ?? account.signedPrekey;
    account.lastResortKemPrekey = last_resort_kem_prekey ?? account.lastResortKemPrekey;
    account.oneTimePrekeys.push(...one_time_prekeys.filter((prekey) => isNew(account, prekey)));
    account.kemPrekeys.push(...kem_prekeys.filter((prekey) => isNew(account, prekey)));
    return [200, { one_time_prekeys_remaining: account.oneTimePrekeys.length }];
  }

  /** The latest message of this sender in each of its sessions. */
  #sentSessions(senderId: string): Json[] {
    const sessions = new Map<string, Json>();
    for (const [messageId, message] of this.messages) {
      if (message.senderId !== senderId) continue;
      const { sessionId, recipientId, timestamp } = decodeEnvelope(message.bytes);
      const session_id = encodeBase64Url(sessionId);
      const last_at = new Date(timestamp).toISOString();
      sessions.set(session_id, { peer_id: recipientId, session_id, message_id: messageId, last_at });
    }
    return [...sessions.values()];
  }

  #claim(targetId: string, requestId: string): [number, Json] {
    const target = this.accounts.get(targetId);
    if (target === undefined) return problem(404, "recipient-unknown");
    if (target.signedPrekey === null) return problem(404, "prekeys-unavailable");
    const earlier = target.claims.get(requestId);
    const oneTime = target.oneTimePrekeys.at(0);
    const kem = target.kemPrekeys.at(0);
    const bundle = earlier ?? {
      agent_id: targetId,
      identity_key: Buffer.from(target.identityKey).toString("base64url"),
      signed_prekey: target.signedPrekey,
      ...(oneTime !== undefined && { one_time_prekey: oneTime }),
      kem_prekey: { ...(kem ?? target.lastResortKemPrekey), last_resort: kem === undefined },
    };
    if (earlier === undefined) target.oneTimePrekeys.shift();
    if (earlier === undefined) target.kemPrekeys.shift();
    target.claims.set(requestId, bundle);
    return [200, { bundle, one_time_prekeys_remaining: target.oneTimePrekeys.length }];
  }

  /** The signer, when everything that must be signed is. */
  async #caller(request: IncomingMessage, body: Buffer, json: Json): Promise<string | null> {
    const fields = Object.entries(request.headers).map(([name, value]) => ({ name, value: String(value) }));
    const digest = `sha-256=:${createHash("sha256").update(body).digest("base64")}:`;
    if (body.length > 0 && request.headers["content-digest"] !== digest) return null;
    const key = (keyId: string): Uint8Array => {
      const { identity_key: offeredKey } = json;
      const offered = typeof offeredKey === "string" ? decodeBase64Url(offeredKey) : null;
      const accessKey = this.custody.accessKeyOf(keyId);
      if (accessKey !== undefined) return accessKey;
      const { access_key: access } = json;
      const offeredAccess = typeof access === "string" ? decodeBase64Url(access) : null;
      const identityKey = this.accounts.get(keyId)?.identityKey ?? offered ?? offeredAccess;
      if (identityKey == null || agentIdOf(nodePrimitives, identityKey) !== keyId) throw new Error("unknown key");
      return identityKey;
    };
    try {
      const { parameters } = await verifySignature(
        {
          kind: "request",
          method: request.method ?? "",
          targetUri: `http://${request.headers.host}${request.url}`,
          fields,
        },
        {
          policy: {
            algorithms: ["ed25519"],
            requiredComponents: [
              "@method",
              "@authority",
              "@path",
              "@query",
              ...(body.length > 0 ? ["content-digest"] : []),
            ],
            requiredParameters: ["created", "expires", "nonce", "keyid", "alg"],
            maxAge: 300,
          },
          resolveVerifier: ({ parameters: { keyid = "" } }) => ({
            algorithm: "ed25519",
            verify: (data, signature) => nodePrimitives.ed25519Verify(key(keyid), data, signature),
          }),
        },
      );
      return parameters.keyid ?? null;
    } catch {
      return null;
    }
  }

  async #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> {
    this.#open.add(socket);
    socket.on("close", () => this.#open.delete(socket));
    const name = `${request.method} ${request.url}`;
    this.requests.push(name);
    const planned = this.onRequest(name, this.requests.filter((other) => other === name).length);
    const caller = await this.#caller(request, Buffer.alloc(0), {});
    const account = caller === null ? undefined : this.accounts.get(caller);
    const refusal = this.isAway
      ? problem(503, "unavailable")
      : account === undefined
        ? problem(401, "agent-unknown")
        : null;
    const answer = planned !== null && planned !== "drop" ? planned : refusal;
    if (answer !== null || account === undefined || caller === null) {
      const [status, json, headers = {}] = answer ?? problem(500, "internal");
      const lines = Object.entries(headers).map(([key, value]) => `${key}: ${value}\r\n`);
      const text = JSON.stringify(json);
      socket.end(`HTTP/1.1 ${status} No\r\n${lines.join("")}content-length: ${Buffer.byteLength(text)}\r\n\r\n${text}`);
      return;
    }
    this.#sockets.handleUpgrade(request, socket, head, (stream) => this.#accept(caller, account, stream));
  }

  #accept(agentId: string, account: Account, stream: WebSocket): void {
    account.stream?.close(CLOSE_SUPERSEDED);
    account.stream = stream;
    stream.on("message", (data: Buffer) => {
      for (const frame of decodeClientFrames(data)) this.#take(agentId, frame, stream);
    });
    stream.on("close", () => {
      if (account.stream === stream) account.stream = null;
    });
    for (const item of account.mailbox) this.#hand(agentId, item);
    stream.send(encodeServerFrames([{ type: "queue-empty", lastSeq: account.lastSeq }]));
  }

  #take(agentId: string, frame: ClientFrame, stream: WebSocket): void {
    if (frame.type === "ack") for (const item of frame.items) this.#end(agentId, item, "acknowledged", null);
    if (frame.type === "refuse") this.#end(agentId, frame, "refused", frame.code);
    if (frame.type !== "send") return;
    const envelopes = frame.envelopes.map((bytes) => ({ bytes: bytes.slice(), ...decodeEnvelope(bytes) }));
    const messageIds = envelopes.map(({ messageId }) => messageId);
    this.batches.push(messageIds);
    this.sent.push(...envelopes.map(({ messageId, bytes }) => ({ messageId, bytes })));
    const answer = this.onSend(messageIds, this.batches.length);
    if (answer === "ignore") return;
    if (typeof answer === "object") {
      stream.send(encodeServerFrames([{ type: "rejected", batch: frame.batch, problem: answer }]));
      return;
    }
    for (const { messageId, recipientId, bytes } of envelopes) {
      const known = this.messages.get(messageId);
      if (known !== undefined) continue;
      this.messages.set(messageId, { senderId: agentId, recipientId, bytes, status: "queued", code: null });
      this.put(recipientId, { kind: "message", senderId: agentId, itemId: messageId, body: bytes });
    }
    if (answer === "accept") stream.send(encodeServerFrames([{ type: "accepted", batch: frame.batch }]));
  }

  #end(agentId: string, { senderId, itemId }: StreamItemId, status: string, code: string | null): void {
    const account = this.account(agentId);
    if (status === "acknowledged") this.acked.push(itemId);
    else this.refused.push({ messageId: itemId, code: code ?? "" });
    const before = account.mailbox.length;
    account.mailbox = account.mailbox.filter((item) => item.itemId !== itemId || item.senderId !== senderId);
    if (account.mailbox.length < before) this.#outcome(itemId, status, code);
  }

  #settle(messageId: string, status: string, code: string | null): Outcome | undefined {
    const message = this.messages.get(messageId);
    if (message === undefined || message.status === "acknowledged") return undefined;
    message.status = status;
    message.code = code;
    return message;
  }

  #pairSessions(one: string, other: string): Json {
    const custodyOf = (id: string) => (this.custody.accounts.has(id) ? "server" : "agent");
    const custodies = [custodyOf(one), custodyOf(other)];
    const readable_by = custodies.includes("server") ? "agents-and-operator" : "agents";
    return { custody: custodies[0], peer_custody: custodies[1], readable_by, sessions: [] };
  }

  #outcome(messageId: string, status: string, code: string | null): void {
    const message = this.#settle(messageId, status, code);
    if (message === undefined) return;
    const told: ReceiptFrame["status"] = status === "delivered" || status === "acknowledged" ? status : "discarded";
    if (this.losesReceipts || !this.accounts.has(message.senderId)) return;
    const { recipientId } = message;
    this.send(message.senderId, [{ type: "receipt", status: told, recipientId, messageId, at: Date.now(), code }]);
  }
}

function isNew({ oneTimePrekeys, kemPrekeys }: Account, prekey: Json): boolean {
  return ![...oneTimePrekeys, ...kemPrekeys].some((known) => known["id"] === prekey["id"]);
}

function stockOf({ signedPrekey, lastResortKemPrekey, oneTimePrekeys, kemPrekeys }: Account): Json {
  const stocked = ({ id, public_key }: Json) => ({
    id: id as string,
    publicKey: decodeBase64Url(public_key as string) as Uint8Array,
  });
  const digest = prekeyStockDigest(nodePrimitives, {
    signed: signedPrekey && stocked(signedPrekey),
    lastResort: lastResortKemPrekey && stocked(lastResortKemPrekey),
    oneTime: oneTimePrekeys.map(stocked),
    kem: kemPrekeys.map(stocked),
  });
  return {
    ...(signedPrekey && { signed_prekey: { id: signedPrekey["id"], created_at: signedPrekey["created_at"] } }),
    ...(lastResortKemPrekey && { last_resort_kem_prekey: { id: lastResortKemPrekey["id"] } }),
    one_time_prekeys: oneTimePrekeys.length,
    kem_prekeys: kemPrekeys.length,
    digest: encodeBase64Url(digest),
  };
}
