/**
 * The service's part for agents whose keys it holds, as far as the SDK's tests need it: it opens what they seal to its key, and hands it out as it is.
 */
import { decodeBase64Url, encodeBase64Url } from "../protocol/base64url.ts";
import { decodeFrame, type Frame } from "../protocol/frame.ts";
import { createIdentity } from "../protocol/identity.ts";
import { epochOf, ingressEpoch, openIngress } from "../protocol/ingress.ts";
import { messageIdTime } from "../protocol/message-id.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import { generateX25519 } from "../protocol/primitives/primitives.ts";
import { problem } from "./fake-problem.ts";

type Json = Record<string, unknown>;
type Answer = [number, Json, Record<string, string>?];

interface Waiting extends Frame {
  readonly seq: number;
  readonly senderId: string;
  readonly messageId: string;
}

interface HeldAccount {
  readonly accessKey: Uint8Array;
  mailbox: Waiting[];
  lastSeq: number;
  /** Sessions it began, by peer. */
  readonly sessions: Map<string, string>;
}

interface Addressed {
  readonly messageId: string;
  readonly recipientId: string;
}

/** What it tells of messages, and is told by the other half of the fake. */
interface Told {
  readonly sent: (senderId: string, recipientId: string, messageId: string, bytes: Uint8Array) => "new" | "known";
  readonly delivered: (messageId: string) => void;
  readonly discarded: (messageId: string, code: string) => void;
  readonly acknowledged: (messageId: string) => void;
}

export class FakeCustody {
  readonly accounts = new Map<string, HeldAccount>();
  /** Ids in the order of the calls that brought them. */
  readonly calls: string[][] = [];
  /** Answers a call that sends in place of the service; null to go on. */
  onSend: (messages: readonly Addressed[]) => Answer | null = () => null;
  /** Why a message that was taken is not encrypted; null when it is. */
  discards: (message: Addressed) => string | null = () => null;
  /** The epoch whose key is given out. */
  epoch = epochOf(Date.now());
  #pair = generateX25519(nodePrimitives, nodeRandom);
  readonly #told: Told;
  readonly #waiters = new Set<() => void>();

  constructor(told: Told) {
    this.#told = told;
  }

  accessKeyOf(agentId: string): Uint8Array | undefined {
    return this.accounts.get(agentId)?.accessKey;
  }

  /** From now on what is sealed to the key before is refused. */
  nextEpoch(): void {
    this.epoch += 1;
    this.#pair = generateX25519(nodePrimitives, nodeRandom);
  }

  /** Null for what is not its own. */
  async operate(name: string, caller: string, json: Json, prefer: string): Promise<Answer | null> {
    if (name === "POST /messaging/agents" && json["custody"] === "server") return this.#register(json);
    const account = this.accounts.get(caller);
    if (account === undefined) return null;
    switch (name) {
      case "GET /messaging/ingress-key":
        return [200, { epoch: this.epoch, public_key: encodeBase64Url(this.#pair.publicKey) }];
      case "POST /messaging/messages":
        return this.#send(caller, json as { messages: Json[] });
      case "POST /messaging/open":
        return this.#open(account, Number(json["after"] ?? "0"), Number(/^wait=(\d+)$/.exec(prefer)?.[1] ?? 0));
      case "POST /messaging/acknowledge":
        return this.#acknowledge(account, json as { items: Json[] });
      case "POST /messaging/sessions":
        return this.#beginSession(account, json["peer_id"] as string);
      default:
        return null;
    }
  }

  #register({ access_key }: Json): Answer {
    const accessKey = decodeBase64Url(access_key as string) as Uint8Array;
    for (const [agent_id, known] of this.accounts) {
      if (Buffer.compare(known.accessKey, accessKey) === 0) return [200, { agent_id }];
    }
    const { agentId } = createIdentity(nodePrimitives, nodeRandom);
    this.accounts.set(agentId, { accessKey, mailbox: [], lastSeq: 0, sessions: new Map() });
    return [201, { agent_id: agentId }];
  }

  async #send(senderId: string, { messages }: { messages: Json[] }): Promise<Answer> {
    const ids = messages.map(({ message_id }) => message_id as string);
    this.calls.push(ids);
    const planned = this.onSend(
      messages.map(({ message_id, recipient_id }) => ({
        messageId: message_id as string,
        recipientId: recipient_id as string,
      })),
    );
    if (planned !== null) return planned;
    for (const [index, { recipient_id, sealed }] of messages.entries()) {
      const pointer = `/messages/${index}`;
      const fault = this.accounts.has(recipient_id as string)
        ? ingressEpoch(bytesOf(sealed)) === this.epoch
          ? null
          : "epoch-refused"
        : "recipient-unknown";
      if (fault !== null) return problem(422, fault, { errors: [{ pointer, code: fault }] });
    }
    for (const { message_id, recipient_id, sealed } of messages) {
      const ids = { senderId, recipientId: recipient_id as string, messageId: message_id as string };
      const frame = decodeFrame(await openIngress(nodePrimitives, this.#pair, ids, bytesOf(sealed)));
      if (typeof frame === "string") throw new Error("what an agent seals is a frame");
      if (this.#told.sent(senderId, ids.recipientId, ids.messageId, bytesOf(sealed)) !== "new") continue;
      const code = this.discards(ids);
      if (code === null) this.#put(ids, frame);
      else this.#told.discarded(ids.messageId, code);
    }
    return [202, { accepted: ids }];
  }

  #put(
    { senderId, recipientId, messageId }: { senderId: string; recipientId: string; messageId: string },
    frame: Frame,
  ) {
    const account = this.accounts.get(recipientId) as HeldAccount;
    account.lastSeq += 1;
    account.mailbox.push({ seq: account.lastSeq, senderId, messageId, ...frame });
    for (const wake of this.#waiters) wake();
  }

  async #open(account: HeldAccount, after: number, waitS: number): Promise<Answer> {
    const end = Date.now() + waitS * 1_000;
    let messages = account.mailbox.filter(({ seq }) => seq > after).slice(0, 100);
    while (messages.length === 0 && Date.now() < end) {
      await new Promise<void>((resolve) => {
        const wake = () => {
          clearTimeout(timer);
          this.#waiters.delete(wake);
          resolve();
        };
        const timer = setTimeout(wake, end - Date.now());
        this.#waiters.add(wake);
      });
      messages = account.mailbox.filter(({ seq }) => seq > after).slice(0, 100);
    }
    for (const { messageId } of messages) this.#told.delivered(messageId);
    const json = messages.map(({ seq, senderId, messageId, contentType, body }) => ({
      ...{ seq, message_id: messageId, sender_id: senderId, content_type: contentType },
      body: encodeBase64Url(body),
      sent_at: new Date(messageIdTime(messageId) ?? 0).toISOString(),
    }));
    return [200, { messages: json, failed: [], cursor: `${messages.at(-1)?.seq ?? after}`, last_seq: account.lastSeq }];
  }

  #acknowledge(account: HeldAccount, { items }: { items: Json[] }): Answer {
    for (const { message_id, sender_id } of items) {
      account.mailbox = account.mailbox.filter(
        ({ messageId, senderId }) => messageId !== message_id || senderId !== sender_id,
      );
      this.#told.acknowledged(message_id as string);
    }
    return [202, { accepted: items.length }];
  }

  #beginSession({ sessions }: HeldAccount, peerId: string): Answer {
    if (!this.accounts.has(peerId)) return problem(404, "recipient-unknown");
    const known = sessions.get(peerId);
    const session_id = known ?? encodeBase64Url(nodeRandom(16));
    sessions.set(peerId, session_id);
    return [known === undefined ? 201 : 200, { session_id, peer_id: peerId }];
  }

  /** Ends the waiting of all. */
  stop(): void {
    for (const wake of this.#waiters) wake();
  }
}

function bytesOf(text: unknown): Uint8Array {
  return decodeBase64Url(text as string) as Uint8Array;
}
