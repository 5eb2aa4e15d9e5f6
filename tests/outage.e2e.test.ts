import { afterAll, beforeAll, expect, test } from "vitest";
import { messageAcknowledged, messageEncrypted } from "../streams/catalogue.ts";
import { consumerParts, eventually, type House, openHouse } from "./house.ts";
import { RawSender } from "./raw-sender.ts";

let house: House;
let url: string;

beforeAll(async () => {
  house = await openHouse();
  ({ url } = await house.start({ roles: ["api"], prepare: true }));
  await house.start({ roles: consumerParts });
});

afterAll(() => house.close());

test("without Kafka a send is answered 503 with Retry-After, and the same message succeeds later, once", async () => {
  const bob = await house.agent("bob", url);
  const alice = new RawSender(url);
  await alice.register();
  await alice.meet(bob.id);
  expect((await alice.post([alice.seal(bob.id, "before")])).status).toBe(202);

  await house.stack.kill("kafka");
  const envelope = alice.seal(bob.id, "during");
  const refused = await alice.post([envelope]);
  expect(refused.status).toBe(503);
  expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
  expect(await refused.json()).toMatchObject({ code: "unavailable", retryable: true });
  await eventually("the API says that Kafka is missing", async () => (await fetch(`${url}/readyz`)).status === 503);
  expect((await fetch(`${url}/healthz`)).status).toBe(200);

  await house.stack.restart("kafka");
  await eventually("the same message is accepted", async () => (await alice.post([envelope])).status === 202, 60_000);
  expect((await alice.post([envelope])).status).toBe(202);

  const read: string[] = [];
  for await (const message of bob.inbox({ signal: AbortSignal.timeout(90_000) })) {
    read.push(message.text());
    await message.ack();
    if (read.length === 2) break;
  }
  expect(read).toEqual(["before", "during"]);
  const ids = (await house.read(messageEncrypted)).map(({ decoded }) => decoded.itemId);
  expect(new Set(ids).size).toBe(2);
});

test("while PostgreSQL is away a message is accepted, and it is delivered when the database is back", async () => {
  const carol = await house.agent("carol", url);
  const alice = new RawSender(url);
  await alice.register();
  await alice.meet(carol.id);
  expect((await alice.post([alice.seal(carol.id, "first")])).status).toBe(202);
  const inbox = carol.inbox({ signal: AbortSignal.timeout(90_000) });
  expect((await inbox.next()).value?.text()).toBe("first");

  // The agents' keys, and that one may write to the other, are remembered for some seconds, and nothing else is asked of the database.
  expect((await alice.post([alice.seal(carol.id, "second")])).status).toBe(202);
  await house.stack.kill("postgres");
  expect((await alice.post([alice.seal(carol.id, "third")])).status).toBe(202);
  await house.stack.restart("postgres");
  expect((await inbox.next()).value?.text()).toBe("second");
  expect((await inbox.next()).value?.text()).toBe("third");
  await inbox.return();
});

test("without Redis messages are sent, received and acknowledged all the same", async () => {
  const dave = await house.agent("dave", url);
  const erin = await house.agent("erin", url);
  await dave.send(erin.id, "with Redis");
  const inbox = erin.inbox({ signal: AbortSignal.timeout(90_000) });
  expect((await inbox.next()).value?.text()).toBe("with Redis");

  await house.stack.kill("redis");
  const sent = await dave.send(erin.id, "without Redis");
  const second = (await inbox.next()).value;
  expect(second?.text()).toBe("without Redis");
  await second?.ack();
  await inbox.return();
  await eventually("it is acknowledged", async () =>
    (await house.read(messageAcknowledged)).some(({ decoded }) => decoded.messageId === sent.messageId),
  );
  await house.stack.restart("redis");
});
