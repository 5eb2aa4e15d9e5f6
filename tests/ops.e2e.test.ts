import { execFile } from "node:child_process";
import path from "node:path";
import pino from "pino";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Flooder, patiently } from "../bench/flooder.ts";
import { type Envelope, encodeEnvelope } from "../protocol/envelope.ts";
import {
  messageDiscarded,
  messageEncrypted,
  messageReceipt,
  messageRetried,
  messageUndeliverable,
  pushRequested,
} from "../streams/catalogue.ts";
import { deadLetterRows } from "../streams/emission.ts";
import { headersAsText, toOutgoing } from "../streams/headers.ts";
import { openProducer, type Producer } from "../streams/producer.ts";
import { readTopic } from "../streams/read-topic.ts";
import { deadLetterTopicName } from "../streams/topic.ts";
import { consumerParts, eventually, type House, openHouse, operatorsUrlOf } from "./house.ts";
import { RawSender } from "./raw-sender.ts";
import { type Client, openClient } from "./stream-client.ts";

const token = "a-token-of-the-operators-0123456789";

let house: House;
let url: string;
let opsUrl: string;
let producer: Producer;
const flooders: Flooder[] = [];

beforeAll(async () => {
  house = await openHouse();
  const env = { SEALPOST_OPS_TOKEN: token, SEALPOST_OPS_HTTP_PORT: "0" };
  const api = await house.start({ roles: ["api"], prepare: true, env });
  [url, opsUrl] = [api.url, operatorsUrlOf(api)];
  await house.start({ roles: consumerParts });
  producer = openProducer({ kafka: house.kafka, log: pino({ level: "silent" }) });
});

afterAll(async () => {
  for (const flooder of flooders) flooder.close();
  await producer?.close();
  await house?.close();
});

async function newSender(): Promise<Flooder> {
  const made = new Flooder(url);
  flooders.push(made);
  await made.start();
  return made;
}

/** Registered, and nowhere to be seen. */
async function newRecipient(): Promise<RawSender> {
  const agent = new RawSender(url);
  await patiently(() => agent.register());
  return agent;
}

/** As an operator would, on the command line. */
function ops(...args: readonly string[]): Promise<{ code: number; json: Record<string, unknown> }> {
  const entry = path.join(import.meta.dirname, "..", "bin", "sealpost.ts");
  const env = { SEALPOST_OPS_URL: opsUrl, SEALPOST_OPS_TOKEN: token };
  return new Promise((resolve, reject) => {
    const child = execFile(process.execPath, [entry, "ops", ...args, "--json"], { env }, (_, out, err) => {
      if (out === "") reject(new Error(err));
      else resolve({ code: child.exitCode ?? -1, json: JSON.parse(out) });
    });
  });
}

async function listed(state: string, recipientId: string): Promise<readonly Record<string, unknown>[]> {
  const response = await fetch(`${opsUrl}/ops/messages?state=${state}&recipient_id=${recipientId}`, {
    headers: { authorization: `Bearer ${token}` },
  });
  expect(response.status).toBe(200);
  return ((await response.json()) as { items: Record<string, unknown>[] }).items;
}

function connect(agent: RawSender): Promise<Client> {
  return openClient(`${url}/messaging/stream`, agent.me);
}

const nameOf = ({ recipientId, senderId, messageId }: Envelope) => `${recipientId}/${senderId}/${messageId}`;

test("a message that was set aside is listed, retried, and delivered on the connection that is asked for", async () => {
  const [bob, alice] = [await newRecipient(), await newSender()];
  const bobId = bob.me.agentId;
  const [breaks, fine] = [alice.envelope(bobId, 50), alice.envelope(bobId, 60)];
  await alice.send([breaks, fine]);
  await eventually("both wait", async () => (await alice.outcomes([breaks.messageId, fine.messageId])).length === 2);
  for (let n = 0; n < 5; n++) {
    const client = await connect(bob);
    await client.has("item", 2);
    client.socket.terminate();
    await client.closed;
  }
  await eventually("it is listed", async () => (await listed("set-aside", bobId)).length > 0);
  expect(await listed("set-aside", bobId)).toMatchObject([
    { item_id: breaks.messageId, sender_id: alice.me.agentId, seq: 1, kind: "message", reason: "connections-broke" },
  ]);

  const staying = await connect(bob);
  await staying.has("queue-empty");
  expect(staying.seqs).toEqual([2]);
  expect((await ops("retry", nameOf(breaks), "--dry-run")).json).toEqual({ count: 1, more: false, dry_run: true });
  expect((await ops("retry", nameOf(breaks))).json).toEqual({ count: 1, more: false, dry_run: false });
  expect(await staying.closed).toBe(1012);
  expect(staying.frames).toContainEqual({ type: "goaway", reason: "retry" });
  const again = await connect(bob);
  await again.has("item", 2);
  expect(again.seqs).toEqual([1, 2]);
  again.send({ type: "ack-up-to", seq: 2 });
  await eventually("both are acknowledged", async () =>
    (await alice.outcomes([breaks.messageId, fine.messageId])).every((status) => status === "acknowledged"),
  );
  again.socket.close(1000);
  expect(await listed("set-aside", bobId)).toEqual([]);
  expect((await ops("retry", nameOf(breaks))).json).toMatchObject({ count: 0 });
  const told = (await house.read(messageRetried)).map(({ decoded }) => decoded);
  expect(told.filter(({ recipientId }) => recipientId === bobId)).toMatchObject([
    { itemId: breaks.messageId, seq: 1, wasSetAside: true, wasUndeliverable: false },
  ]);
});

test("of two undeliverable messages one is retried and wakes its recipient, the other deleted with a tombstone and its sender told", async () => {
  const [carol, alice] = [await newRecipient(), await newSender()];
  const carolId = carol.me.agentId;
  const [kept, doomed] = [alice.envelope(carolId, 50), alice.envelope(carolId, 60)];
  const ids = [kept.messageId, doomed.messageId];
  await alice.send([kept, doomed]);
  await eventually("both are stored", async () => (await alice.outcomes(ids)).every((status) => status === "queued"));
  // What push reports after its last attempt; how it comes to that has a test of its own.
  const failed = { recipientId: carolId, items: [], undeliverable: { afterSeq: 0, untilSeq: 2, at: Date.now() } };
  const head = {
    topic: messageReceipt,
    key: carolId,
    id: crypto.randomUUID(),
    source: "/test",
    subject: carolId,
    time: 1,
  };
  await producer.append([toOutgoing(house.codec, { ...head, value: failed })]);
  await eventually("both are undeliverable", async () => (await listed("undeliverable", carolId)).length === 2);
  const wakes = async () =>
    (await house.read(pushRequested))
      .filter(({ decoded }) => decoded.recipientId === carolId)
      .map(({ decoded }) => decoded.seq);
  // The wake of when they were stored; while it is outstanding there is no other.
  await eventually("a wake was asked for when they came", async () => (await wakes()).length > 0);
  const before = await wakes();

  await ops("retry", nameOf(kept));
  await eventually("one waits like a new one", async () => (await alice.outcomes(ids))[0] === "queued");
  await eventually("a wake is asked for", async () => (await wakes()).length > before.length);
  expect((await wakes()).at(-1)).toBe(1);

  const filter = ["--state", "undeliverable", "--recipient", carolId];
  expect((await ops("delete", ...filter, "--reason", "recipient-gone", "--dry-run")).json).toMatchObject({ count: 1 });
  expect(await alice.outcomes(ids)).toEqual(["queued", "undeliverable"]);
  expect((await ops("delete", ...filter, "--reason", "recipient-gone")).json).toMatchObject({ count: 1, more: false });
  await eventually("the other is deleted", async () => (await alice.outcomes(ids))[1] === "deleted");
  const tombstones = async () => (await house.read(messageDiscarded)).map(({ decoded }) => decoded);
  await eventually("its tombstone is there", async () =>
    (await tombstones()).some(({ messageId }) => messageId === doomed.messageId),
  );
  expect((await tombstones()).filter(({ recipientId }) => recipientId === carolId)).toMatchObject([
    { messageId: doomed.messageId, senderId: alice.me.agentId, code: "deleted", detail: "recipient-gone" },
  ]);
  await eventually("its sender is told", () => alice.receipts.some(({ status }) => status === "discarded"));
  expect(alice.receipts.filter(({ status }) => status === "discarded")).toMatchObject([
    { messageId: doomed.messageId, code: "deleted" },
  ]);
  const client = await connect(carol);
  await client.has("queue-empty");
  expect(client.items.map(({ itemId }) => itemId)).toEqual([kept.messageId]);
  client.socket.close(1000);
  expect(
    (await house.read(messageUndeliverable)).filter(({ decoded }) => decoded.recipientId === carolId),
  ).toHaveLength(2);
});

test("a poison record becomes a dead letter, is listed, and put back under its own id; what can be read by then is delivered, once", async () => {
  const [dave, alice] = [await newRecipient(), await newSender()];
  const daveId = dave.me.agentId;
  const topic = messageEncrypted.name;
  const headers = { ce_id: "a-poison", "x-own": "of the record" };
  await producer.append([{ topic, key: daveId, value: Buffer.from("garbage"), headers }]);
  const letters = async () =>
    (await readTopic(house.kafka, deadLetterTopicName(messageEncrypted))).map(
      ({ key, value, headers: own, partition, offset }) => ({
        ...{ key: String(key), value: String(value), partition, offset: Number(offset), headers: headersAsText(own) },
      }),
    );
  await eventually("it is a dead letter", async () => (await letters()).length === 1);
  const shown = (await ops("dead-letters", topic)).json["letters"] as Record<string, unknown>[];
  expect(shown).toMatchObject([{ code: "undecodable", group: "queuing", ce_id: "a-poison", value_bytes: 7 }]);
  expect(JSON.stringify(shown)).not.toContain("garbage");

  const [first] = await letters();
  const place = [String(first?.partition), String(first?.offset)];
  expect((await ops("replay", topic, ...place, "--dry-run")).json).toMatchObject({ count: 1 });
  expect((await ops("replay", topic, ...place)).json).toMatchObject({ count: 1, skipped: 0 });
  await eventually("it is refused again", async () => (await letters()).length === 2);
  const records = await readTopic(house.kafka, topic);
  const poison = records.filter(({ headers: own }) => headersAsText(own)["ce_id"] === "a-poison");
  expect(poison.map(({ key, value, headers: own }) => [String(key), String(value), headersAsText(own)])).toEqual([
    [daveId, "garbage", headers],
    [daveId, "garbage", headers],
  ]);
  expect(new Set(poison.map(({ partition }) => partition)).size).toBe(1);

  // As the runner would have left it, had the record not been readable then.
  const envelope = alice.envelope(daveId, 70);
  const item = {
    kind: "message",
    itemId: envelope.messageId,
    senderId: envelope.senderId,
    recipientId: daveId,
    custody: "agent",
  } as const;
  const value = house.codec.encode(messageEncrypted, { ...item, body: encodeEnvelope(envelope) });
  const own = { ce_id: "readable", ce_subject: `${envelope.senderId}/${envelope.messageId}` };
  const message = {
    key: Buffer.from(daveId),
    value,
    headers: own,
    timestamp: "1",
    offset: "0",
    attributes: 0,
    size: 0,
  };
  const refused = { topic: messageEncrypted, partition: 0, offset: 0, message };
  await producer.append(deadLetterRows(house.codec, "queuing", refused as never, "undecodable"));
  expect((await ops("replay", topic, "--all")).json).toMatchObject({ count: 3, skipped: 0 });
  await eventually("it is stored", async () => (await alice.outcomes([envelope.messageId]))[0] === "queued");
  expect((await ops("replay", topic, "--all")).json).toMatchObject({ skipped: 0 });
  const client = await connect(dave);
  await client.has("item");
  client.send({ type: "ack-up-to", seq: client.items[0]?.seq ?? 0 });
  await eventually(
    "it is acknowledged",
    async () => (await alice.outcomes([envelope.messageId]))[0] === "acknowledged",
  );
  const later = alice.envelope(daveId, 80);
  await alice.send([later]);
  await client.has("item", 2);
  expect(client.items.map(({ itemId, seq }) => [itemId, seq])).toEqual([
    [envelope.messageId, 1],
    [later.messageId, 2],
  ]);
  client.socket.close(1000);
});

test("the log says what operators did, and holds no token; the agents' port knows no calls for operators", async () => {
  const logs = house.services.map((service) => service.output()).join("\n");
  for (const act of ["retried", "deleted", "replayed"]) expect(logs).toContain(`"act":"${act}"`);
  expect(logs).not.toContain(token);
  const response = await fetch(`${url}/ops/messages`, { headers: { authorization: `Bearer ${token}` } });
  expect([response.status, ((await response.json()) as { code: string }).code]).toEqual([404, "not-found"]);
});
