import { randomInt } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { ServiceProcess } from "../bin/service-process.ts";
import { openPostgres } from "../store/postgres.ts";
import { openRedis } from "../store/redis.ts";
import { messageAcknowledged } from "../streams/catalogue.ts";
import { headersAsText } from "../streams/headers.ts";
import { type Door, Recipient, Sender } from "./door-clients.ts";
import { openEventClient } from "./event-client.ts";
import { consumerParts, eventually, type House, openHouse } from "./house.ts";
import { openClient, pause } from "./stream-client.ts";

/** A storm takes seconds where there is a core for it; a bound for machines where there is none. */
const PATIENCE_MS = 120_000;

let house: House;
/** Two processes with a gateway; one that is killed makes place for a new one. */
let gateways: ServiceProcess[];

beforeAll(async () => {
  house = await openHouse();
  const first = await house.start({ roles: ["api"], prepare: true });
  const [second] = await Promise.all([house.start({ roles: ["api"] }), house.start({ roles: consumerParts })]);
  gateways = [first, second];
});

afterAll(() => house.close());

const anyGateway = () => (gateways[randomInt(gateways.length)] as ServiceProcess).url;

async function killOne(): Promise<void> {
  const [dead] = gateways.splice(randomInt(gateways.length), 1);
  const heir = house.start({ roles: ["api"] });
  await dead?.kill();
  gateways.push(await heir);
}

interface Storm {
  readonly recipients: readonly Recipient[];
  readonly senders: readonly Sender[];
}

/**
 * Recipients at all doors, and senders that write to each of them again and again while `chaos` goes on, and some rounds beyond; then everything has to
 * arrive.
 */
async function storm(
  size: { readonly doors: Readonly<Record<Door, number>>; readonly senders: number },
  chaos: (storm: Storm) => Promise<void>,
): Promise<Storm> {
  const doors = (Object.keys(size.doors) as Door[]).flatMap((door) => Array<Door>(size.doors[door]).fill(door));
  const recipients = doors.map((door) => new Recipient(door, anyGateway));
  const senders = Array.from({ length: size.senders }, () => new Sender(anyGateway));
  for (const agent of [...recipients, ...senders]) await agent.register();
  const ids = recipients.map(({ identity }) => identity.agentId);

  const over = new AbortController();
  const running = Promise.all(recipients.map((recipient) => recipient.run(over.signal)));
  let raging = true;
  const sending = senders.map(async (sender) => {
    for (let beyond = 0; beyond < 2; beyond += raging ? 0 : 1) {
      await sender.sendToEach(ids);
      await pause(randomInt(200, 600));
    }
  });
  try {
    await Promise.race([chaos({ recipients, senders }), running]);
    raging = false;
    await Promise.all(sending);
    const wanted = (id: string) => senders.reduce((sum, { sent }) => sum + (sent.get(id)?.length ?? 0), 0);
    await eventually(
      "everything is taken",
      () => recipients.every(({ count, identity }) => count >= wanted(identity.agentId)),
      PATIENCE_MS,
    );
  } finally {
    raging = false;
    over.abort();
  }
  await running;
  return { recipients, senders };
}

/** Each message was taken by its application once and in order, and acknowledged once; no connection was sent one twice. */
async function expectWhole({ recipients, senders }: Storm): Promise<void> {
  for (const { identity, taken, misplaced } of recipients) {
    expect(misplaced).toBe(0);
    for (const sender of senders) {
      expect(taken.get(sender.identity.agentId)).toEqual(sender.sent.get(identity.agentId));
    }
  }
  const sent = senders.flatMap((sender) => [...sender.sent.values()].flat());
  const events = async () => {
    const byMessage = new Map<string, Set<string>>();
    for (const { headers, decoded } of await house.read(messageAcknowledged)) {
      const ids = byMessage.get(decoded.messageId) ?? new Set();
      byMessage.set(decoded.messageId, ids.add(headersAsText(headers)["ce_id"] ?? ""));
    }
    return byMessage;
  };
  await eventually("all are acknowledged", async () => {
    const told = await events();
    return sent.every((id) => told.has(id));
  });
  const told = await events();
  expect(sent.filter((id) => told.get(id)?.size !== 1)).toEqual([]);
}

test("200 recipients reconnect at once and gateways are killed: each message is acknowledged once, in order per pair", async () => {
  const whole = await storm({ doors: { stream: 100, events: 80, poll: 20 }, senders: 2 }, async ({ recipients }) => {
    await eventually("everybody is connected", () => recipients.every(({ count }) => count > 0), PATIENCE_MS);
    for (const recipient of recipients) recipient.cut();
    await pause(randomInt(500, 1_500));
    await killOne();
    for (const recipient of recipients) recipient.cut();
    await pause(randomInt(500, 1_500));
    await killOne();
  });
  await expectWhole(whole);
  expect(whole.recipients.every(({ connections }) => connections > 1)).toBe(true);
}, 300_000);

test("Redis is emptied in the middle, twice: nothing is lost, and nothing comes twice to an application", async () => {
  const redis = openRedis(house.stack.urls.redisUrl);
  const whole = await storm({ doors: { stream: 10, events: 10, poll: 5 }, senders: 2 }, async () => {
    for (let times = 0; times < 2; times++) {
      await pause(1_500);
      await redis.ask((client) => client.flushall());
    }
    await pause(1_500);
  });
  redis.close();
  await expectWhole(whole);
});

test("a recipient whose gateway was killed is served by another, by each door", async () => {
  const sender = new Sender(anyGateway);
  await sender.register();
  for (const door of ["stream", "events"] as const) {
    const recipient = new Recipient(door, () => (gateways[0] as ServiceProcess).url);
    await recipient.register();
    const over = new AbortController();
    const running = recipient.run(over.signal);
    await sender.sendToEach([recipient.identity.agentId]);
    await eventually("the first is taken", () => recipient.count === 1);
    const [dead] = gateways.splice(0, 1);
    await dead?.kill();
    await sender.sendToEach([recipient.identity.agentId]);
    await eventually("the second is taken", () => recipient.count === 2);
    over.abort();
    await running;
    // Its presence named the process that is dead, and then the other: a poll is let in when nobody holds it any more.
    const poll = await eventuallyPolled(recipient);
    expect(poll).toEqual([]);
    gateways.push(await house.start({ roles: ["api"] }));
  }
});

async function eventuallyPolled(recipient: Recipient): Promise<readonly unknown[]> {
  let items: readonly unknown[] | null = null;
  await eventually("a poll is answered, and what was acknowledged is gone", async () => {
    const answer = await recipient.ask({ method: "GET", url: "/messaging/receive" });
    items = (answer?.json as { items: readonly unknown[] } | undefined)?.items ?? null;
    return items?.length === 0;
  });
  return items ?? [];
}

test("a suspended agent's stream and events are closed with 4401, with the reason", async () => {
  const postgres = openPostgres(house.stack.urls.postgresUrl);
  const [streaming, listening] = [new Recipient("stream", anyGateway), new Recipient("events", anyGateway)];
  for (const agent of [streaming, listening]) await agent.register();
  const stream = await openClient(`${anyGateway()}/messaging/stream`, streaming.identity);
  const events = await openEventClient(`${anyGateway()}/messaging/events`, listening.identity);
  await stream.has("queue-empty");
  await events.has("queue_empty");
  await postgres.query({
    text: "UPDATE messaging_agents SET status = 'suspended' WHERE agent_id = ANY($1)",
    values: [[streaming, listening].map(({ identity }) => identity.agentId)],
  });
  expect(await Promise.all([stream.closed, events.closed])).toEqual([4401, 4401]);
  expect(stream.frames.at(-1)).toMatchObject({ type: "problem", problem: { code: "agent-suspended" } });
  expect(events.events.at(-2)).toMatchObject({ name: "problem", data: { code: "agent-suspended" } });
  await postgres.close();
});

test("recipients at both doors of a process that drains go on elsewhere, and miss nothing", async () => {
  const [leaving, staying] = gateways as [ServiceProcess, ServiceProcess];
  let place = leaving.url;
  const sender = new Sender(() => staying.url);
  await sender.register();
  const recipients = (["stream", "events"] as const).map((door) => new Recipient(door, () => place));
  for (const recipient of recipients) await recipient.register();
  const ids = recipients.map(({ identity }) => identity.agentId);
  const over = new AbortController();
  const running = Promise.all(recipients.map((recipient) => recipient.run(over.signal)));
  await sender.sendToEach(ids);
  await eventually("the first are taken", () => recipients.every(({ count }) => count === 1));
  place = staying.url;
  const stopped = leaving.stop();
  await sender.sendToEach(ids);
  await stopped;
  await sender.sendToEach(ids);
  await eventually("all are taken", () => recipients.every(({ count }) => count === 3));
  over.abort();
  await running;
  for (const { identity, taken } of recipients) {
    expect([...taken.values()].flat()).toEqual(sender.sent.get(identity.agentId));
  }
});
