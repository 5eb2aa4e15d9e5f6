/**
 * The events of prekeys, made where a codec is and written by the store: each has a random id, which its row in `facts` keeps through all
 * retries.
 */
import { randomUUID } from "node:crypto";
import type { PrekeyClaimed, PrekeyLow, PrekeyPublished, PrekeyRotated } from "../schemas/values.ts";
import { prekeyClaimed, prekeyLow, prekeyPublished, prekeyRotated } from "./catalogue.ts";
import type { Codec } from "./codec.ts";
import { toOutgoing } from "./headers.ts";
import type { Topic } from "./topic.ts";

/** @param source `ce_source` */
export function prekeyEvents(codec: Codec, source: string) {
  const make = <Value extends { readonly agentId: string }>(
    topic: Topic<Value>,
    time: number,
    value: Value,
    id: string,
  ) => {
    const head = { id, source, subject: value.agentId, time };
    const { value: bytes, headers } = toOutgoing(codec, { ...head, topic, key: value.agentId, value });
    return { id, topic: topic.name, key: value.agentId, value: bytes, headers };
  };
  return {
    published: (value: Omit<PrekeyPublished, "eventId">) => {
      const eventId = randomUUID();
      return make(prekeyPublished, value.publishedAt, { ...value, eventId }, eventId);
    },
    rotated: (value: Omit<PrekeyRotated, "eventId">) => {
      const eventId = randomUUID();
      return make(prekeyRotated, value.rotatedAt, { ...value, eventId }, eventId);
    },
    claimed: (value: Omit<PrekeyClaimed, "eventId">) => {
      const eventId = randomUUID();
      return make(prekeyClaimed, value.claimedAt, { ...value, eventId }, eventId);
    },
    low: (value: Omit<PrekeyLow, "eventId">) => {
      const eventId = randomUUID();
      return make(prekeyLow, value.lowAt, { ...value, eventId }, eventId);
    },
  };
}
