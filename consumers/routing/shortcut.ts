/**
 * Hands stored items over at once where queuing runs in the same process: the event is published all the same, but nobody waits for it to come
 * back from Kafka.
 *
 * Promise: only what is committed is handed over, in order for each recipient; what could not be handed over is left to routing, which
 * reads the same items from the log and skips those that were taken here. Forgetting which ones were costs a repeated handover, and
 * those are harmless.
 */
import type { MessageQueued } from "../../schemas/values.ts";
import type { PresenceDoor } from "../../store/presence.ts";
import { unlessAway } from "../../store/redis.ts";
import { messageQueued } from "../../streams/catalogue.ts";
import type { Emit } from "../../streams/consumer.ts";
import { itemEntry, sortByGateway } from "./destinations.ts";
import type { RoutingDeps } from "./routing.ts";

export interface Shortcut {
  /** For queuing's runner: what a step told the world, after its commit. Returns at once and never throws. */
  committed(emits: readonly Emit[]): void;
  /** Whether the item was handed over here. Asked once for each. */
  took(item: MessageQueued): boolean;
}

export interface ShortcutDeps extends Omit<RoutingDeps, "shortcut" | "presence"> {
  readonly presence: Pick<PresenceDoor, "lookup">;
}

/** Some seconds of full load: routing comes by within a second. About 150 bytes each. */
const remembersMax = 50_000;

/** Behind a Redis that is slow but there, more would only come after routing: it is left to routing, bodies and all. */
const waitsMax = 2_000;

interface Stored {
  readonly value: MessageQueued;
}

export function createShortcut({ presence, handover, count }: ShortcutDeps): Shortcut {
  const taken = new Set<string>();
  let waiting: Stored[] = [];
  let working = false;

  /** One handover after the other: one that overtakes another makes the gateway read the mailbox. */
  async function work(): Promise<void> {
    working = true;
    while (waiting.length > 0) {
      const items = waiting;
      waiting = [];
      await handOver(items).catch(() => undefined);
    }
    working = false;
  }

  async function handOver(items: readonly Stored[]): Promise<void> {
    const recipients = [...new Set(items.map(({ value }) => value.recipientId))];
    const present = await unlessAway(presence.lookup(recipients));
    if (present === null) return;
    const { byGateway } = sortByGateway(items, present);
    await Promise.all(
      [...byGateway].map(async ([gatewayId, records]) => {
        const listeners = await unlessAway(handover.publish(gatewayId, records.map(itemEntry)));
        if (listeners === null || listeners === 0) return;
        count("online", records.length);
        for (const { value } of records) remember(nameOf(value));
      }),
    );
  }

  function remember(name: string): void {
    taken.add(name);
    if (taken.size <= remembersMax) return;
    const [oldest = ""] = taken;
    taken.delete(oldest);
  }

  return {
    committed(emits) {
      const items = emits
        .filter(({ topic }) => topic.name === messageQueued.name)
        .map((emit) => ({ value: (emit as Emit<MessageQueued>).value("") }));
      if (waiting.length + items.length > waitsMax) return;
      waiting.push(...items);
      if (!working) void work();
    },
    took: (item) => taken.delete(nameOf(item)),
  };
}

function nameOf({ recipientId, seq }: MessageQueued): string {
  return `${recipientId} ${seq}`;
}
