/** What metering counted is what the log says was used: by agent and hour, and what waits in each mailbox. */
import { type Counted, usageByFold } from "../../usage-fold.ts";
import type { LogItem } from "./history.ts";
import type { Indexed } from "./indexed.ts";

const hourMs = 3_600_000;

export function miscounted(index: Indexed): readonly string[] {
  const { usage, meters } = index.history.snapshot;
  const used = new Map<string, string>();
  const waits = new Map<string, { readonly hour: number; readonly waiting: string }>();
  for (const [name, { messagesStored, bytesStored, ...counts }] of usageByFold(recordsOf(index))) {
    used.set(name, words(counts));
    const [agentId = "", at] = name.split(" ");
    const hour = Number(at) / hourMs;
    if (hour < (waits.get(agentId)?.hour ?? 0)) continue;
    waits.set(agentId, { hour, waiting: words({ messages: messagesStored, bytes: bytesStored }) });
  }
  const counted = new Map(usage.map(({ agentId, hour, ...counts }) => [`${agentId} ${hour}`, words(counts)]));
  const metered = new Map(
    meters.map(({ agentId, waitingMessages: messages, waitingBytes: bytes }) => [agentId, words({ messages, bytes })]),
  );
  return [
    ...differences("the usage of", used, counted),
    ...differences("what waits for", new Map([...waits].map(([agentId, { waiting }]) => [agentId, waiting])), metered),
  ];
}

function recordsOf(index: Indexed) {
  const records = (topic: string, counted: (item: LogItem) => Counted) =>
    index.inTopic(topic).map(({ eventId, item }) => ({ ceId: eventId ?? "", value: counted(item) }));
  return [
    ...records("message.queued.v1", (item) => {
      return { ...whoOf(item), kind: item.kind === "message" ? "message" : "retry", queuedAt: item.queuedAt ?? 0 };
    }),
    ...records("message.acknowledged.v1", ({ deliveredAt, acknowledgedAt, ...item }) => {
      return { ...whoOf(item), deliveredAt: deliveredAt ?? 0, acknowledgedAt: acknowledgedAt ?? 0 };
    }),
    // What was never stored has no size, and nothing was used for it.
    ...records("message.discarded.v1", ({ discardedAt, size, ...item }) => {
      return { ...whoOf({ ...item, size }), ...(size === null ? { size } : {}), discardedAt: discardedAt ?? 0 };
    }),
  ];
}

function whoOf({ senderId, recipientId, size }: Pick<LogItem, "senderId" | "recipientId" | "size">) {
  return { senderId, recipientId, size: size ?? 0 };
}

function words(counts: Readonly<Record<string, number>>): string {
  return Object.keys(counts)
    .sort()
    .map((name) => `${name} ${counts[name]}`)
    .join(", ");
}

function differences(
  of: string,
  said: ReadonlyMap<string, string>,
  counted: ReadonlyMap<string, string>,
): readonly string[] {
  return [...new Set([...said.keys(), ...counted.keys()])]
    .filter((name) => said.get(name) !== counted.get(name))
    .map(
      (name) =>
        `${of} ${name} is "${said.get(name) ?? "nothing"}" by the log, and was counted as "${counted.get(name) ?? "nothing"}"`,
    );
}
