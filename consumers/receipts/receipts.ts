/**
 * Takes the news of a message's fate to its sender, of prekeys that run low to their owner, of contacts to who was asked or accepted, and of what is handed out again to its recipient's gateway, when
 * these are connected.
 *
 * Reads   message.delivered.v1, .acknowledged.v1, .discarded.v1, .undeliverable.v1, .retried.v1, prekey.low.v1, agent.changed.v1: at least once.
 * Writes  handovers in Redis: hints. A sender who is not connected, or was told nothing, asks for the status; an owner, for its counts; who was asked, for what is pending.
 * Keeps   nothing.
 * Refuses news of a time that is none: no gateway could tell it.
 */
import type { HandoverDoor } from "../../store/handover.ts";
import type { PresenceDoor } from "../../store/presence.ts";
import { unlessAway } from "../../store/redis.ts";
import {
  agentChanged,
  messageAcknowledged,
  messageDelivered,
  messageDiscarded,
  messageRetried,
  messageUndeliverable,
  prekeyLow,
} from "../../streams/catalogue.ts";
import type { PlainConsumer } from "../../streams/consumer.ts";
import { addresseeOf, checkNews, deliverySeconds, entriesByGateway, type News } from "./entries.ts";

export interface ReceiptsDeps {
  readonly presence: Pick<PresenceDoor, "lookup">;
  readonly handover: Pick<HandoverDoor, "publish">;
  /** Seconds from a message's append to its delivery; once more for a repeat. */
  readonly observeDelivery: (seconds: number) => void;
}

export function receipts({ presence, handover, observeDelivery }: ReceiptsDeps): PlainConsumer<News> {
  return {
    name: "receipts",
    reads: [
      messageDelivered,
      messageAcknowledged,
      messageDiscarded,
      messageUndeliverable,
      messageRetried,
      prekeyLow,
      agentChanged,
    ],
    // Nobody waits for a receipt; woken for each, this consumer would cost as much as the rest of the path.
    pace: { bytesMin: 64 * 1024, waitMsMax: 250 },
    check: checkNews,
    react: async (batch) => {
      for (const seconds of deliverySeconds(batch)) observeDelivery(seconds);
      const addressees = [...new Set(batch.flatMap(({ value }) => addresseeOf(value) ?? []))];
      const present = await unlessAway(presence.lookup(addressees));
      if (present === null) return [];
      await Promise.all(
        [...entriesByGateway(batch, present)].map(([gatewayId, entries]) =>
          unlessAway(handover.publish(gatewayId, entries)),
        ),
      );
      return [];
    },
  };
}
