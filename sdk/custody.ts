/**
 * What differs between agents that hold their keys (own-keys.ts) and agents whose keys the service holds (held-keys.ts): everything else of an agent is the
 * same for both (agent.ts).
 */
import type { InboxMessage } from "./message.ts";
import type { Questions } from "./service.ts";
import type { Content } from "./store/content.ts";

export interface Custody {
  readonly service: Questions;
  /** Known from the first contact on. */
  readonly agentId: string;
  /** The first contact; nothing for an agent that had it before. Throws what the service throws. */
  begin(): Promise<void>;
  /** Begins to send and to receive. */
  start(): void;
  /** Is the service there, as far as this knows? */
  readonly isConnected: boolean;
  /** Resolves when it is; rejects when the agent stops. */
  connected(): Promise<void>;
  /** Resolves to the message's id when it is stored: from then on it will be sent. Rejects with `SendRejected`, `StoreError`, the signal's reason. */
  store(recipientId: string, content: Content, signal?: AbortSignal): Promise<string>;
  /** There may be something to send. */
  pump(): void;
  messages(signal?: AbortSignal): AsyncGenerator<InboxMessage, void, undefined>;
  /** The session that the next message to a peer would be sent in, begun if there is none: its id, 16 bytes. */
  beginSession(peerId: string): Promise<Uint8Array>;
  /** Sends the answers that are ready without waiting for more. */
  flush(): void;
  /** Nothing more is handed out. */
  endInbox(error: unknown): void;
  /** Resolves when the connection is closed, after the end. */
  readonly disconnected: Promise<void>;
}
