/**
 * Takes stored items to the gateways of recipients who are connected, and asks for a push for those who are not.
 *
 * Reads   message.queued.v1, keyed by recipient: in order per recipient, at least once.
 * Writes  handovers in Redis (hints; what gets lost there is in the mailbox); push.requested.v1 at least once per recipient and batch,
 *         after ending presences at gateways that nobody listens for: push would believe them. A gateway that lives takes them again.
 * Keeps   nothing.
 * Refuses items of which it could not ask for a push: a time that is none, an id that is nobody's.
 *
 * While Redis is away nobody knows who is connected: gateways then read the mailboxes four times a second, and a push for
 * everybody would wake the connected too. So nothing is handed over and nothing requested (docs/decisions/0007).
 */
import type { MessageQueued } from "../../schemas/values.ts";
import type { HandoverDoor } from "../../store/handover.ts";
import type { PresenceDoor } from "../../store/presence.ts";
import { unlessAway } from "../../store/redis.ts";
import { messageQueued } from "../../streams/catalogue.ts";
import type { Inbound, PlainConsumer } from "../../streams/consumer.ts";
import { checkQueued, itemEntry, presencesOf, pushRequests, sortByGateway } from "./destinations.ts";
import type { Shortcut } from "./shortcut.ts";

export interface RoutingDeps {
  readonly presence: Pick<PresenceDoor, "lookup" | "release">;
  readonly handover: Pick<HandoverDoor, "publish">;
  /** `unknown`: Redis was away. */
  readonly count: (state: "online" | "offline" | "unknown", items: number) => void;
  /** Given where queuing runs in the same process: what it took is skipped here, and nobody waits for the rest. */
  readonly shortcut?: Pick<Shortcut, "took"> | undefined;
}

/** Behind a shortcut only offline recipients are left, and a push may come a quarter of a second later. */
const pacedByShortcut = { bytesMin: 64 * 1024, waitMsMax: 250 };

export function routing({ presence, handover, count, shortcut }: RoutingDeps): PlainConsumer<MessageQueued> {
  return {
    name: "routing",
    reads: [messageQueued],
    ...(shortcut === undefined ? {} : { pace: pacedByShortcut }),
    check: checkQueued,
    react: async (whole) => {
      const batch = shortcut === undefined ? whole : whole.filter(({ value }) => !shortcut.took(value));
      if (batch.length === 0) return [];
      const recipients = [...new Set(batch.map(({ key }) => key))];
      const present = await unlessAway(presence.lookup(recipients));
      if (present === null) {
        count("unknown", batch.length);
        return [];
      }
      const { byGateway, absent } = sortByGateway(batch, present);
      const gone: Inbound<MessageQueued>[] = [];
      await Promise.all(
        [...byGateway].map(async ([gatewayId, records]) => {
          const listeners = await unlessAway(handover.publish(gatewayId, records.map(itemEntry)));
          if (listeners === 0) gone.push(...records);
          else count(listeners === null ? "unknown" : "online", records.length);
        }),
      );
      await unlessAway(presence.release(presencesOf(gone, present)));
      count("offline", absent.length + gone.length);
      return pushRequests([...absent, ...gone]);
    },
  };
}
