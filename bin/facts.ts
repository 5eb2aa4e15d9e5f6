/**
 * Events that wait in PostgreSQL for the relay, encoded as they will be published.
 */
import type { Fact } from "../store/facts.ts";
import type { Codec } from "../streams/codec.ts";
import { type NewEvent, toOutgoing } from "../streams/headers.ts";

export function factOf(codec: Codec, event: NewEvent<unknown>): Fact {
  const { topic, key, value, headers } = toOutgoing(codec, event);
  return { id: event.id, topic, key: String(key), value, headers };
}
