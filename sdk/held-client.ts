/**
 * The service's operations for an agent whose keys it holds, over HTTP signed by the agent's access key (signed-http.ts).
 *
 * Throws `ServiceUnavailable` (try again), `ServiceRefused`, `ClockSkew`, and the signal's reason.
 */
import { encodeBase64Url } from "../protocol/base64url.ts";
import { SESSION_ID_BYTES } from "../protocol/envelope.ts";
import { type Identity, isAgentId } from "../protocol/identity.ts";
import type { IngressKey } from "../protocol/ingress.ts";
import { JsonReader } from "../protocol/json-reader.ts";
import { Refusal } from "../protocol/refusal.ts";
import type { StreamItemId } from "../protocol/stream-frames.ts";
import { memberOf, notUnderstood, understood } from "./answers.ts";
import { type Credentials, callSigner, ownerMembers } from "./credentials.ts";
import type { HeldService, OpenedPage, SealedMessage } from "./held-service.ts";
import { Policies } from "./policies.ts";
import { askOutcomes, askPairSessions, askUsage, tellRevocation } from "./questions.ts";
import type { MessageOutcome, PairSessions, UsagePage, UsageQuestion } from "./service.ts";
import { SignedHttp } from "./signed-http.ts";
import type { ReceivedMessage } from "./store/inbox.ts";

const PUBLIC_KEY_BYTES = 32;

export class HeldClient implements HeldService {
  readonly #base: URL;
  readonly #access: Identity;
  readonly #signal: AbortSignal;
  readonly policies = new Policies(() => this.#http);
  readonly #credentials: Credentials;
  #http: SignedHttp;

  /** `access`: the key that signs; what else an identity is, it is not. `signal` ends everything that is under way. */
  constructor(base: URL, access: Identity, signal: AbortSignal, credentials: Credentials = {}) {
    this.#base = base;
    this.#access = access;
    this.#signal = signal;
    this.#credentials = credentials;
    this.#http = new SignedHttp(base, access, signal);
  }

  async register(): Promise<string> {
    const owner = await ownerMembers(this.#credentials, this.#access);
    const json = { access_key: encodeBase64Url(this.#access.signing.publicKey), custody: "server", ...owner };
    const http = new SignedHttp(this.#base, this.#access, this.#signal);
    const agentId = memberOf(await http.call({ method: "POST", path: "/messaging/agents", json }), "agent_id");
    if (typeof agentId !== "string" || !isAgentId(agentId)) throw notUnderstood();
    return agentId;
  }

  actAs(agentId: string): void {
    const signer = callSigner({ agentId, signing: this.#access.signing }, this.#credentials);
    this.#http = new SignedHttp(this.#base, signer, this.#signal);
  }

  async ingressKey(): Promise<IngressKey> {
    const answer = await this.#http.call({ method: "GET", path: "/messaging/ingress-key" });
    return understood(() => {
      const object = new JsonReader(answer);
      return { epoch: object.number("epoch"), publicKey: object.bytes("public_key", PUBLIC_KEY_BYTES) };
    });
  }

  async send(messages: readonly SealedMessage[]): Promise<void> {
    const json = {
      messages: messages.map(({ messageId, recipientId, sealed }) => ({
        message_id: messageId,
        recipient_id: recipientId,
        sealed: Buffer.from(sealed).toString("base64url"),
      })),
    };
    await this.#http.call({ method: "POST", path: "/messaging/messages", json });
  }

  async open(cursor: string | null, { waitMs, signal }: { waitMs: number; signal: AbortSignal }): Promise<OpenedPage> {
    const answer = await this.#http.call({
      method: "POST",
      path: "/messaging/open",
      json: cursor === null ? {} : { after: cursor },
      headers: { prefer: `wait=${Math.round(waitMs / 1_000)}` },
      waitMs,
      signal,
    });
    const [messages, failed] = [memberOf(answer, "messages"), memberOf(answer, "failed")];
    if (!Array.isArray(messages) || !Array.isArray(failed)) throw notUnderstood();
    return understood(() => ({
      messages: messages.map((message) => readMessage(new JsonReader(message))),
      failed: failed.map((item) => readFailed(new JsonReader(item))),
      cursor: new JsonReader(answer).string("cursor"),
    }));
  }

  async acknowledge(items: readonly StreamItemId[]): Promise<void> {
    const json = { items: items.map(({ senderId, itemId }) => ({ sender_id: senderId, message_id: itemId })) };
    await this.#http.call({ method: "POST", path: "/messaging/acknowledge", json });
  }

  async beginSession(peerId: string): Promise<Uint8Array> {
    const json = { peer_id: peerId };
    const answer = await this.#http.call({ method: "POST", path: "/messaging/sessions", json });
    return understood(() => new JsonReader(answer).bytes("session_id", SESSION_ID_BYTES));
  }

  messageOutcomes(messageIds: readonly string[]): Promise<MessageOutcome[]> {
    return askOutcomes(this.#http, messageIds);
  }

  revokeDelegation(tokenId: string): Promise<void> {
    return tellRevocation(this.#http, tokenId);
  }

  pairSessions(peerId: string): Promise<PairSessions> {
    return askPairSessions(this.#http, peerId);
  }

  usage(question: UsageQuestion, cursor: string | null): Promise<UsagePage> {
    return askUsage(this.#http, question, cursor);
  }
}

function readMessage(object: JsonReader): ReceivedMessage {
  return {
    seq: object.number("seq"),
    messageId: object.uuid("message_id"),
    senderId: senderOf(object),
    contentType: object.string("content_type"),
    // The platform's codec: a body may be long.
    body: Uint8Array.from(Buffer.from(object.string("body"), "base64url")),
    sentAt: object.timestamp("sent_at"),
  };
}

function readFailed(object: JsonReader): OpenedPage["failed"][number] {
  return {
    seq: object.number("seq"),
    itemId: object.uuid("message_id"),
    senderId: senderOf(object),
    code: object.string("code"),
  };
}

function senderOf(object: JsonReader): string {
  const senderId = object.string("sender_id");
  if (!isAgentId(senderId)) throw new Refusal("malformed");
  return senderId;
}
