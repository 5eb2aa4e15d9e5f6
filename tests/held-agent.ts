/**
 * An agent of server custody, over plain HTTP: it has an access key and nothing else.
 */
import { randomBytes } from "node:crypto";
import { decodeBase64Url, encodeBase64Url } from "../protocol/base64url.ts";
import type { Identity } from "../protocol/identity.ts";
import { makeMessageId } from "../protocol/message-id.ts";
import { nodeRandom } from "../protocol/primitives/node.ts";
import { type Answer, read } from "./in-memory-service.ts";
import { call, newIdentity } from "./signing.ts";

export interface ReadMessage {
  readonly seq: number;
  readonly messageId: string;
  readonly senderId: string;
  readonly contentType: string;
  readonly text: string;
}

export interface Mail {
  readonly messages: readonly ReadMessage[];
  readonly failed: readonly { readonly message_id: string; readonly code: string }[];
  readonly cursor: string;
}

export class HeldAgent {
  /** Its agreement half and its id are not used. */
  readonly access: Identity;
  readonly #url: string;
  #id = "";

  constructor(url: string, access: Identity = newIdentity()) {
    this.#url = url;
    this.access = access;
  }

  get id(): string {
    return this.#id;
  }

  async register(): Promise<Answer> {
    const body = { custody: "server", access_key: encodeBase64Url(this.access.signing.publicKey) };
    const answer = await persist(() =>
      call(this.access, { method: "POST", url: `${this.#url}/messaging/agents`, body }),
    );
    if (answer.status < 300) this.#id = answer.json.agent_id;
    return answer;
  }

  /** Signed by the access key, in the agent's name. */
  async post(path: string, body: unknown): Promise<Answer> {
    const url = this.#url + path;
    return persist(() => call(this.access, { method: "POST", url, body }, { keyid: this.#id }));
  }

  /** Sends texts to one recipient, under these ids or fresh ones; answers the ids. */
  async send(to: string, texts: readonly string[], ids: readonly string[] = []): Promise<readonly string[]> {
    const messages = texts.map((text, index) => ({
      message_id: ids[index] ?? makeMessageId(Date.now(), nodeRandom),
      recipient_id: to,
      content_type: "text/plain; charset=utf-8",
      body: Buffer.from(text).toString("base64url"),
    }));
    const { status, problem } = await this.post("/messaging/messages", { messages });
    if (status !== 202) throw new Error(`not accepted: ${JSON.stringify(problem)}`);
    return messages.map(({ message_id }) => message_id);
  }

  async open(after = "0", limit?: number): Promise<Mail> {
    const { status, json } = await this.post("/messaging/open", { after, ...(limit === undefined ? {} : { limit }) });
    if (status !== 200) throw new Error(`not opened: ${JSON.stringify(json)}`);
    const messages = json.messages.map(
      (message: { seq: number; message_id: string; sender_id: string; content_type: string; body: string }) => ({
        seq: message.seq,
        messageId: message.message_id,
        senderId: message.sender_id,
        contentType: message.content_type,
        text: Buffer.from(decodeBase64Url(message.body) ?? randomBytes(1)).toString("utf8"),
      }),
    );
    return { messages, failed: json.failed, cursor: json.cursor };
  }

  async acknowledge(messages: readonly ReadMessage[]): Promise<void> {
    if (messages.length === 0) return;
    const items = messages.map(({ senderId, messageId }) => ({ sender_id: senderId, message_id: messageId }));
    const { status, problem } = await this.post("/messaging/acknowledge", { items });
    if (status !== 202) throw new Error(`not acknowledged: ${JSON.stringify(problem)}`);
  }

  /** Reads and acknowledges until so many texts have come, each message once. */
  async texts(count: number, msMax = 60_000): Promise<readonly string[]> {
    const until = performance.now() + msMax;
    const got = new Map<string, string>();
    while (got.size < count) {
      const { messages, failed } = await this.open();
      if (failed.length > 0) throw new Error(`did not open: ${JSON.stringify(failed)}`);
      for (const { messageId, text } of messages) got.set(messageId, text);
      await this.acknowledge(messages);
      if (performance.now() > until) throw new Error(`only ${got.size} of ${count} messages came`);
      if (messages.length === 0) await new Promise((resolve) => setTimeout(resolve, 50));
    }
    return [...got.values()];
  }
}

/** Asks again, as a client must, while something is away, and when the memory of nonces began anew. The last answer after 40 s. */
async function persist(ask: () => ReturnType<typeof call>): Promise<Answer> {
  const until = performance.now() + 40_000;
  for (;;) {
    const answer = await read(await ask());
    const isToBeAskedAgain = answer.status === 503 || answer.problem?.code === "sign-again";
    if (!isToBeAskedAgain || performance.now() > until) return answer;
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
}
