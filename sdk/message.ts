/** What an application gives to be sent, and gets when something has arrived. */
import { decodeUtf8, encodeUtf8 } from "../protocol/utf8.ts";
import { AgentError } from "./errors.ts";
import type { Content } from "./store/content.ts";
import type { ReceivedMessage } from "./store/inbox.ts";

/** Anything `JSON.stringify` takes. */
export type JsonValue =
  | null
  | boolean
  | number
  | string
  | readonly JsonValue[]
  | { readonly [name: string]: JsonValue };

/** Text goes as `text/plain; charset=utf-8`, bytes as `application/octet-stream`, everything else as `application/json`. */
export type Body = string | Uint8Array | JsonValue;

/** `contentType` replaces the one that follows from the body. Throws `content-malformed` for text with lone surrogates. */
export function contentOf(body: Body, contentType?: string): Content {
  if (body instanceof Uint8Array) return { contentType: contentType ?? "application/octet-stream", body: body.slice() };
  const isText = typeof body === "string";
  const text: unknown = isText ? body : JSON.stringify(body);
  const bytes = typeof text === "string" ? encodeUtf8(text) : null;
  if (bytes === null)
    throw new AgentError("content-malformed", "the body is no bytes, no JSON, and no text that UTF-8 can spell");
  return { contentType: contentType ?? (isText ? "text/plain; charset=utf-8" : "application/json"), body: bytes };
}

export class InboxMessage {
  readonly id: string;
  /** The sender's agent id: proven, not claimed. */
  readonly from: string;
  readonly contentType: string;
  readonly body: Uint8Array;
  /** The sender's clock, milliseconds. */
  readonly sentAt: number;
  /** Its place in this agent's mailbox. */
  readonly seq: number;
  readonly #ack: () => Promise<void>;

  constructor({ messageId, senderId, contentType, body, sentAt, seq }: ReceivedMessage, ack: () => Promise<void>) {
    this.id = messageId;
    this.from = senderId;
    this.contentType = contentType;
    this.body = body;
    this.sentAt = sentAt;
    this.seq = seq;
    this.#ack = ack;
  }

  /** Throws `content-not-text`. */
  text(): string {
    const text = decodeUtf8(this.body);
    if (text === null) throw new AgentError("content-not-text", "the message's body is not UTF-8");
    return text;
  }

  /** Throws `content-not-text`, `content-not-json`. */
  json(): unknown {
    try {
      return JSON.parse(this.text());
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      throw new AgentError("content-not-json", "the message's body is not JSON", { cause: error });
    }
  }

  /**
   * It is done with: resolves when that is stored; the service hears of it then. Asking for the next message of the inbox does the same. Harmless when repeated.
   */
  ack(): Promise<void> {
    return this.#ack();
  }
}
