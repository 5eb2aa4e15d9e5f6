/**
 * An agent's hour, as billing gets it.
 */
import type { Usage } from "../schemas/values.ts";
import { usage } from "./catalogue.ts";
import { appendEventId, type NewEvent } from "./headers.ts";

/** The same revision of an hour has the same id and bytes. `at`: when the hour began; `source`: `ce_source`. */
export function usageEvent(
  source: string,
  { at: hour, ...counted }: Omit<Usage, "eventId" | "hour"> & { readonly at: number },
): NewEvent<Usage> {
  const { agentId, revision } = counted;
  const id = appendEventId(usage.name, agentId, `${hour}|${revision}`);
  return {
    ...{ topic: usage, key: agentId, id, source, time: revision, subject: agentId },
    value: { eventId: id, hour, ...counted },
  };
}
