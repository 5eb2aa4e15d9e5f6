/**
 * What the topics say about messages, read back with a consumer of its own: where each message stands in each topic, and when.
 */

import {
  messageAcknowledged,
  messageDelivered,
  messageEncrypted,
  messageQueued,
  messageReceipt,
} from "../../streams/catalogue.ts";
import type { Codec } from "../../streams/codec.ts";
import { headersAsText } from "../../streams/headers.ts";
import type { KafkaDoor } from "../../streams/kafka.ts";
import { readTopic } from "../../streams/read-topic.ts";
import type { Topic } from "../../streams/topic.ts";

export interface Sighting {
  readonly topic: string;
  readonly partition: number;
  readonly offset: string;
  /** LogAppendTime, ms since the epoch. */
  readonly at: number;
  readonly ceId: string;
  readonly bytes: Uint8Array;
  /** What became of the message, in `message.receipt.v1`. */
  readonly outcome?: string;
}

/** By message id, in the order of the way through the house. */
export type Timelines = ReadonlyMap<string, readonly Sighting[]>;

/** Everything that stands in the topics of the main road now. */
export async function readTimelines(kafka: KafkaDoor, codec: Codec): Promise<Timelines> {
  const timelines = new Map<string, Sighting[]>();
  const note = (messageId: string, sighting: Sighting) => {
    const known = timelines.get(messageId);
    if (known === undefined) timelines.set(messageId, [sighting]);
    else known.push(sighting);
  };
  const read = async <T>(topic: Topic<T>, each: (value: T, sighting: Sighting) => void) => {
    for (const record of await readTopic(kafka, topic.name)) {
      const bytes = record.value ?? new Uint8Array();
      await codec.learn([bytes]);
      each(codec.decode(topic, bytes), {
        topic: topic.name,
        partition: record.partition,
        offset: record.offset,
        at: Number(record.timestamp),
        ceId: headersAsText(record.headers)["ce_id"] ?? "",
        bytes,
      });
    }
  };
  await read(messageEncrypted, (value, sighting) => note(value.itemId, sighting));
  await read(messageQueued, (value, sighting) => note(value.itemId, sighting));
  await read(messageReceipt, (value, sighting) => {
    for (const { itemId, outcome } of value.items) note(itemId, { ...sighting, outcome });
  });
  await read(messageDelivered, (value, sighting) => note(value.messageId, sighting));
  await read(messageAcknowledged, (value, sighting) => note(value.messageId, sighting));
  return timelines;
}

export interface Tally {
  readonly messages: number;
  /** Messages that do not stand exactly once, by `ce_id`, in both public topics. */
  readonly wrong: readonly string[];
  /** Records beyond one per message: repeats after a crash, byte-identical. */
  readonly repeats: number;
}

/** Counts the two public topics for these messages. A repeat under the same `ce_id` must be byte-identical. */
export function tally(timelines: Timelines, messageIds: readonly string[]): Tally {
  let repeats = 0;
  const wrong = messageIds.filter((messageId) =>
    [messageDelivered, messageAcknowledged].some(({ name }) => {
      const records = (timelines.get(messageId) ?? []).filter(({ topic }) => topic === name);
      repeats += Math.max(0, records.length - 1);
      return !isOneEvent(records);
    }),
  );
  return { messages: messageIds.length, wrong, repeats };
}

function isOneEvent([first, ...others]: readonly Sighting[]): boolean {
  if (first === undefined) return false;
  return others.every(({ ceId, bytes }) => ceId === first.ceId && Buffer.compare(bytes, first.bytes) === 0);
}
