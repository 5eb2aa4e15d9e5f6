/** Every fact has one record in the audit, which names its first place in the log; no other record is there, and the places of the audit's log have no gap. */
import type { AuditEntry, History, LogRecord } from "./history.ts";
import { grouped, placeOf } from "./indexed.ts";

/** It stands for a place that the audit lost, and for no fact. */
const placeLost = "audit.place-lost";

type AuditRecord = LogRecord & { readonly audit: AuditEntry };

export function unaudited(history: History): readonly string[] {
  const facts = factsIn(history);
  const all = history.log.filter((record): record is AuditRecord => record.audit !== null);
  const records = [...grouped(all, ({ eventId }) => eventId ?? "").values()].flatMap((repeats) => repeats.slice(0, 1));
  const bySource = grouped(
    records.filter(({ audit }) => audit.action !== placeLost),
    ({ audit }) => audit.sourceEventId,
  );
  return [
    ...[...facts].flatMap(([id, fact]) => ofFact(fact, bySource.get(id) ?? [])),
    ...[...bySource]
      .filter(([id]) => !facts.has(id))
      .flatMap(([, made]) => made.map((record) => `the audit's ${placeOf(record)} is of a fact that is nowhere`)),
    ...gaps(records),
  ];
}

/** Where each first stands, by `ce_id`. Poison is none. */
function factsIn({ log, groups, injected }: History): ReadonlyMap<string, LogRecord> {
  const topics = new Set(groups.find(({ group }) => group === "audit")?.topics);
  const poison = new Set(injected.flatMap((one) => one.poison));
  const facts = new Map<string, LogRecord>();
  for (const record of log) {
    const { topic, eventId, partition, offset } = record;
    if (!topics.has(topic) || eventId === null || poison.has(eventId)) continue;
    const before = facts.get(eventId);
    if (before === undefined || (before.partition === partition && offset < before.offset)) facts.set(eventId, record);
  }
  return facts;
}

function ofFact(fact: LogRecord, records: readonly AuditRecord[]): readonly string[] {
  if (records.length === 0) return [`${placeOf(fact)} has no record in the audit`];
  if (records.length > 1)
    return [`${placeOf(fact)} has several records in the audit: ${records.map(placeOf).join(", ")}`];
  return records
    .filter(
      ({ audit: { sourceTopic, sourcePartition, sourceOffset } }) =>
        sourceTopic !== fact.topic || sourcePartition !== fact.partition || sourceOffset !== fact.offset,
    )
    .map((record) => `the audit's ${placeOf(record)} names another place than ${placeOf(fact)}`);
}

function gaps(records: readonly AuditRecord[]): readonly string[] {
  const places = records.map(({ audit }) => audit.logIndex).sort((a, b) => a - b);
  const wrong = places.findIndex((place, index) => place !== index);
  return wrong < 0 ? [] : [`the audit's log has ${places[wrong]} as its place ${wrong}`];
}
