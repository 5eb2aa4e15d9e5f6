/** A check that looked at nothing finds nothing: so nothing to look at is a finding. */
import { type Indexed, pairName } from "./indexed.ts";

const mustHold = [
  "message.encrypted.v1",
  "message.queued.v1",
  "message.receipt.v1",
  "message.delivered.v1",
  "message.acknowledged.v1",
  "audit.v1",
];

/** Mailboxes end up empty in a run: of their items there may be none. */
const mustBeCompared = [
  "messaging_messages",
  "messaging_mailboxes",
  "messaging_agents",
  "messaging_session_facts",
  "messaging_usage",
];

export function unseen(index: Indexed): readonly string[] {
  const { operations, injected, planned, log, snapshot, groups } = index.history;
  const found: string[] = [];
  for (const kind of ["send", "receive", "acknowledge"] as const) {
    const isSeen = operations.some((one) => one.kind === kind && one.outcome === "ok");
    if (!isSeen) found.push(`no client's ${kind} succeeded`);
  }
  const pairs = new Set(operations.filter(({ kind }) => kind === "send").map(pairName));
  const reached = new Set([...index.receipts.values()].flat().map(pairName));
  for (const pair of pairs) if (!reached.has(pair)) found.push(`nothing ever got through from ${pair}`);
  if (planned === 0) found.push("no fault was planned");
  if (injected.length < planned) found.push(`${planned - injected.length} of ${planned} faults were not tried`);
  for (const { fault, target, failure } of injected) {
    if (failure !== null) found.push(`the fault ${fault} of ${target} could not be carried out: ${failure}`);
  }
  const topics = new Set(log.map(({ topic }) => topic));
  for (const topic of mustHold) if (!topics.has(topic)) found.push(`nothing stands in ${topic}`);
  if (snapshot.ends.length === 0) found.push("the broker named no partition");
  if (snapshot.messages.length === 0) found.push("the database has no message");
  if (snapshot.usage.length === 0) found.push("the database has no usage");
  if (snapshot.uncompared !== null) found.push(`the tables were not compared with the log: ${snapshot.uncompared}`);
  for (const table of mustBeCompared) {
    const compared = snapshot.tables.find((one) => one.table === table);
    if ((compared?.rows ?? 0) === 0) found.push(`no row of ${table} was compared with the log`);
  }
  if (!groups.some(({ group }) => group === "audit")) found.push("no audit was looked at");
  if (groups.length === 0) found.push("no consumer group was looked at");
  return found;
}
