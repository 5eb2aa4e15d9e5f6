/**
 * Who reads which topic, declared once: what is deleted from a topic is what all of its readers have passed. A consumer that is missing here would lose
 * what it has not read; a test compares the list with the consumers.
 */
import {
  agentChanged,
  messageAcknowledged,
  messageDelivered,
  messageDiscarded,
  messageEncrypted,
  messageQueued,
  messageReceipt,
  messageRetried,
  messageSend,
  messageSetAside,
  messageUndeliverable,
  prekeyClaimed,
  prekeyLow,
  prekeyPublished,
  prekeyRotated,
  prekeyRotationFailed,
  pushRequested,
  pushRetry10s,
  pushRetry30s,
  pushRetry90s,
  sessionInitialized,
} from "./catalogue.ts";
import type { Topic } from "./topic.ts";

export interface Reader {
  /** The consumer's name. */
  readonly group: string;
  readonly reads: readonly Topic<unknown>[];
  /** Where its positions are: with the state that it changes, or, for one without state, with Kafka. */
  readonly positions: "postgres" | "kafka";
}

export const readers: readonly Reader[] = [
  { group: "encryption", reads: [messageSend], positions: "postgres" },
  { group: "queuing", reads: [messageEncrypted], positions: "postgres" },
  { group: "sessions", reads: [messageEncrypted], positions: "postgres" },
  { group: "acks", reads: [messageReceipt], positions: "postgres" },
  { group: "metering", reads: [messageQueued, messageAcknowledged, messageDiscarded], positions: "postgres" },
  { group: "routing", reads: [messageQueued], positions: "kafka" },
  { group: "push", reads: [pushRequested, pushRetry10s, pushRetry30s, pushRetry90s], positions: "kafka" },
  {
    group: "receipts",
    reads: [
      messageDelivered,
      messageAcknowledged,
      messageDiscarded,
      messageUndeliverable,
      messageRetried,
      prekeyLow,
      agentChanged,
    ],
    positions: "kafka",
  },
  {
    group: "audit",
    reads: [
      messageQueued,
      messageDelivered,
      messageAcknowledged,
      messageDiscarded,
      messageUndeliverable,
      messageSetAside,
      messageRetried,
      agentChanged,
      prekeyPublished,
      prekeyClaimed,
      prekeyLow,
      prekeyRotated,
      prekeyRotationFailed,
      sessionInitialized,
    ],
    positions: "postgres",
  },
];
