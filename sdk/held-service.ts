/**
 * What an agent whose keys the service holds asks of it: the port between the two, as service.ts is for an agent that holds its keys. `held-client.ts` speaks HTTP.
 *
 * Every method throws `ServiceUnavailable` (try again), `ServiceRefused`, `ClockSkew`, and the reason of the signal that ends the agent.
 */
import type { IngressKey } from "../protocol/ingress.ts";
import type { StreamItemId } from "../protocol/stream-frames.ts";
import type { Questions } from "./service.ts";
import type { ReceivedMessage } from "./store/inbox.ts";

export interface HeldService extends Questions {
  /** Registers the access key; the id of its agent. Harmless when repeated. */
  register(): Promise<string>;
  /** All other calls are made in this agent's name. */
  actAs(agentId: string): void;
  /** What content is sealed to today. */
  ingressKey(): Promise<IngressKey>;
  /** All or nothing; at most 100. `ServiceRefused` names each message at fault. */
  send(messages: readonly SealedMessage[]): Promise<void>;
  /** What waits after the cursor (null: from the start), at most 100 messages. Waits for a first one as long as it may. */
  open(cursor: string | null, waiting: { readonly waitMs: number; readonly signal: AbortSignal }): Promise<OpenedPage>;
  /** At most 1,000. Harmless when repeated. */
  acknowledge(items: readonly StreamItemId[]): Promise<void>;
  /** The id of the session, 16 bytes. */
  beginSession(peerId: string): Promise<Uint8Array>;
}

export interface SealedMessage {
  readonly messageId: string;
  readonly recipientId: string;
  /** protocol/ingress.ts */
  readonly sealed: Uint8Array;
}

export interface OpenedPage {
  readonly messages: readonly ReceivedMessage[];
  /** They stay in the mailbox. */
  readonly failed: readonly {
    readonly senderId: string;
    readonly itemId: string;
    readonly seq: number;
    readonly code: string;
  }[];
  readonly cursor: string;
}
