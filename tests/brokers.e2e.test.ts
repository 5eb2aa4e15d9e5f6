import { afterAll, beforeAll, expect, test } from "vitest";
import { rebuildDiff } from "../bin/rebuild-diff.ts";
import type { Envelope } from "../protocol/envelope.ts";
import { messageAcknowledged, messageDelivered } from "../streams/catalogue.ts";
import { headersAsText } from "../streams/headers.ts";
import { consumerParts, eventually, type House, openHouse } from "./house.ts";
import { type KafkaCluster, startKafkaCluster } from "./kafka-cluster.ts";
import { RawSender } from "./raw-sender.ts";

const NODES = [1, 2, 3];
/** While a broker is away, and while it is back and gets its copies. */
const MESSAGES_EACH = 40;
const PAUSE_MS = 50;
const CAUGHT_UP_MS_MAX = 120_000;

let cluster: KafkaCluster;
let house: House;
let url: string;

beforeAll(async () => {
  cluster = await startKafkaCluster();
  house = await openHouse({ cluster });
  ({ url } = await house.start({ roles: ["api"], prepare: true }));
  await house.start({ roles: consumerParts });
}, 300_000);

afterAll(async () => {
  await house?.close();
  await cluster?.stop();
});

/** Topics of which a partition has less than three copies that are up to date, with how many there are. */
async function behind(): Promise<readonly string[]> {
  const { topics } = await house.kafka.ask((admin) => admin.fetchTopicMetadata());
  return topics.flatMap(({ name, partitions }) => {
    const least = Math.min(...partitions.map(({ isr }) => isr.length));
    return least < NODES.length ? [`${name} ${least}`] : [];
  });
}

test("each of three brokers loses its disk in its turn, and what was answered 202 is delivered once, in order", async () => {
  const bob = await house.agent("bob", url);
  const alice = new RawSender(url);
  await alice.register();
  await alice.meet(bob.id);
  const sent: { readonly text: string; readonly id: string }[] = [];
  const read: string[] = [];
  const reading = (async () => {
    for await (const message of bob.inbox()) {
      read.push(message.text());
      await message.ack();
    }
  })();
  reading.catch(() => undefined);

  async function say(count: number): Promise<void> {
    for (let n = 0; n < count; n++) {
      const text = `message ${sent.length}`;
      const envelope = alice.seal(bob.id, text);
      await eventually(`${text} is taken`, () => isTaken(alice, envelope));
      sent.push({ text, id: envelope.messageId });
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  }

  await eventually("all have their copies", async () => (await behind()).length === 0);
  for (const node of NODES) {
    await Promise.all([cluster.lose(node), say(MESSAGES_EACH)]);
    expect(await behind()).not.toEqual([]);
    await Promise.all([cluster.replace(node), say(MESSAGES_EACH)]);
    await eventually(`${node} has its copies`, async () => (await behind()).length === 0, CAUGHT_UP_MS_MAX);
  }
  await say(1);

  await eventually("everything is read", () => read.length >= sent.length);
  expect(read).toEqual(sent.map(({ text }) => text));
  await bob.close();
  for (const topic of [messageDelivered, messageAcknowledged]) {
    const idsIn = async () => {
      const records = await house.read<{ readonly messageId: string }>(topic);
      return new Map(records.map(({ decoded, headers }) => [headersAsText(headers)["ce_id"], decoded.messageId]));
    };
    await eventually(`all are in ${topic.name}`, async () => (await idsIn()).size >= sent.length);
    expect(Array.from((await idsIn()).values()).toSorted()).toEqual(sent.map(({ id }) => id).toSorted());
  }
  const { postgresUrl, registryUrl } = house.stack.urls;
  expect(await rebuildDiff({ kafka: { brokers: cluster.brokers }, postgresUrl, registryUrl })).toEqual([]);
}, 900_000);

/** A repeat of what was taken changes nothing, so whatever went wrong is answered with one. */
async function isTaken(sender: RawSender, envelope: Envelope): Promise<boolean> {
  const response = await sender.post([envelope]);
  await response.arrayBuffer();
  return response.status === 202;
}

test("a password that Kafka does not know ends the service with 3, and its log says why", async () => {
  const wrong = { SEALPOST_KAFKA_PASSWORD: `${cluster.password}x` };
  await expect(house.start({ roles: ["api"], prepare: true, env: wrong })).rejects.toThrow(
    /the service ended \(3\).*SASL SCRAM SHA512 authentication failed/s,
  );
});
