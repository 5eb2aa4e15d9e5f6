/**
 * `agent.changed.v1`: as an event, and, made where a codec is, as the store writes it.
 */
import { randomUUID } from "node:crypto";
import type { AgentChanged } from "../schemas/values.ts";
import { agentChanged } from "./catalogue.ts";
import type { Codec } from "./codec.ts";
import { type NewEvent, toOutgoing } from "./headers.ts";

/** What has changed, of which agent and when. */
type AgentChange = Omit<AgentChanged, "eventId">;

/** @param source `ce_source` */
export function agentEvent(source: string, changed: AgentChange): NewEvent<AgentChanged> {
  const id = randomUUID();
  const { agentId, changedAt: time } = changed;
  const value = { eventId: id, ...changed };
  return { topic: agentChanged, key: agentId, id, source, subject: agentId, time, value };
}

/** @param source `ce_source` */
export function agentEvents(codec: Codec, source: string) {
  return (changed: AgentChange) => {
    const event = agentEvent(source, changed);
    const { value, headers } = toOutgoing(codec, event);
    return { id: event.id, topic: event.topic.name, key: event.key, value, headers };
  };
}
