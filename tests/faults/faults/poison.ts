/** Records that nobody can read, on partitions of topics that consumers read: garbage, an unknown schema, a value that is cut off, nothing at all. */
import type { Chance } from "../../../sdk/chance.ts";
import type { KafkaDoor } from "../../../streams/kafka.ts";
import { untilLed } from "../../../streams/topics.ts";
import type { Fault } from "./fault.ts";

/** A number that no registry of a test gets to. */
const UNKNOWN_SCHEMA = 0x7ffffff0;

const kinds: readonly ((chance: Chance) => Buffer | null)[] = [
  (chance) => Buffer.concat([Buffer.from("garbage"), chance.bytes(40)]),
  (chance) => {
    const bytes = Buffer.concat([Buffer.alloc(5), chance.bytes(60)]);
    bytes.writeInt32BE(UNKNOWN_SCHEMA, 1);
    return bytes;
  },
  () => Buffer.from([0, 0, 0]),
  () => Buffer.alloc(0),
  () => null,
];

export const poison: Fault = {
  name: "poison",
  targets: ({ topics }) => topics,
  duration: () => 0,
  inject: async (stage, { target, chance }) => {
    const records = kinds.map((make, place) => ({
      eventId: `poison-${target}-${chance.below(2 ** 31)}-${place}`,
      value: make(chance),
    }));
    await append(stage.kafka, target, records, chance);
    return records.map(({ eventId }) => eventId);
  },
};

async function append(
  kafka: KafkaDoor,
  topic: string,
  records: readonly { readonly eventId: string; readonly value: Buffer | null }[],
  chance: Chance,
): Promise<void> {
  // A broker that has just come back leads its partitions one by one: a send that fails for some of them has left records in the others.
  await untilLed(kafka, topic);
  const producer = kafka.client.producer();
  await producer.connect();
  try {
    const [{ partitions } = { partitions: [] }] = await kafka.ask(async (admin) => {
      const { topics } = await admin.fetchTopicMetadata({ topics: [topic] });
      return topics;
    });
    const messages = records.map(({ eventId, value }) => ({
      partition: chance.below(partitions.length),
      key: eventId,
      value,
      headers: { ce_id: eventId },
    }));
    await producer.send({ topic, messages });
  } finally {
    await producer.disconnect();
  }
}
