import pino from "pino";
import { afterAll, beforeAll, expect, test } from "vitest";
import { makeMessageId } from "../protocol/message-id.ts";
import { nodeRandom } from "../protocol/primitives/node.ts";
import { messageSend } from "../streams/catalogue.ts";
import { openProducer } from "../streams/producer.ts";
import type { Failpoint } from "../streams/runner-options.ts";
import { expectCleanLog } from "./clean-log.ts";
import { HeldAgent } from "./held-agent.ts";
import { eventually, type House, openHouse, takeTexts } from "./house.ts";
import { RawSender } from "./raw-sender.ts";

const others = ["queuing", "routing", "acks", "receipts", "sessions", "relay", "jobs"];

let house: House;
let url: string;

beforeAll(async () => {
  house = await openHouse();
  ({ url } = await house.start({ roles: ["api"], prepare: true }));
  await house.start({ roles: others });
});

afterAll(() => house.close());

function numbered(prefix: string, count: number): string[] {
  return Array.from({ length: count }, (_, index) => `${prefix} ${index + 1}`);
}

async function heldAgent(): Promise<HeldAgent> {
  const agent = new HeldAgent(url);
  expect((await agent.register()).status).toBe(201);
  return agent;
}

/** Sends in calls of ten, so that there are many steps. */
async function sendAll(from: HeldAgent, to: string, bodies: readonly string[]): Promise<void> {
  for (let start = 0; start < bodies.length; start += 10) await from.send(to, bodies.slice(start, start + 10));
}

/** A command that nobody can read, and that becomes a dead letter; its id. */
async function appendDamaged(senderId: string, recipientId: string): Promise<string> {
  const messageId = makeMessageId(Date.now(), nodeRandom);
  const headers = { ce_subject: `${senderId}/${messageId}` };
  const producer = openProducer({ kafka: house.kafka, log: pino({ level: "silent" }) });
  try {
    const key = `${senderId}:${recipientId}`;
    await producer.append([{ topic: messageSend.name, key, value: Buffer.from("damaged"), headers }]);
  } finally {
    await producer.close();
  }
  return messageId;
}

test("agents of both custodies talk to each other: every message opens once, in order", async () => {
  const service = await house.start({ roles: ["encryption"] });
  const [held, other] = [await heldAgent(), await house.agent("other", url, "server")];
  const alice = await house.agent("alice", url);

  await sendAll(held, alice.id, numbered("held to alice", 120));
  expect(await takeTexts(alice, 120, 90_000)).toEqual(numbered("held to alice", 120));
  const outcomes = await alice.sendMany(numbered("alice to held", 120).map((body) => ({ to: held.id, body })));
  expect(outcomes.filter(({ status }) => status === "rejected")).toEqual([]);
  expect(await held.texts(120)).toEqual(numbered("alice to held", 120));

  // One that seals nothing itself, and one that does.
  const back = other.sendMany(numbered("back", 150).map((body) => ({ to: held.id, body })));
  await Promise.all([sendAll(held, other.id, numbered("there", 150)), back]);
  expect((await back).filter(({ status }) => status === "rejected")).toEqual([]);
  expect(await takeTexts(other, 150, 90_000)).toEqual(numbered("there", 150));
  expect(await held.texts(150)).toEqual(numbered("back", 150));

  expect(await expectCleanLog(house)).toBeGreaterThanOrEqual(540);
  expect(await (await fetch(`${service.url}/metrics`)).text()).toMatch(
    /^messaging_encryption_duration_seconds_count [1-9]/m,
  );
  await service.stop();
});

test("an answer that was lost is given again until it is acknowledged; the same command again sends nothing new", async () => {
  const service = await house.start({ roles: ["encryption"] });
  const [held, other] = [await heldAgent(), await heldAgent()];
  const [id = ""] = await held.send(other.id, ["once"]);
  await held.send(other.id, ["once"], [id]);
  await held.send(other.id, ["something else"], [id]);
  await eventually("it can be read", async () => (await other.open()).messages.length > 0);
  const first = await other.open();
  expect(first.messages.map(({ text }) => text)).toEqual(["once"]);
  expect(await other.open()).toEqual(first);
  await other.acknowledge(first.messages);
  await eventually("it is gone", async () => (await other.open()).messages.length === 0);
  expect((await held.register()).status).toBe(200);
  await service.stop();
});

test("what the service does not encrypt has a status for its sender, whose SDK hears of it; sent again once it may be, it arrives", async () => {
  const [sender, plain] = [await house.agent("unheard", url, "server"), await heldAgent()];
  const bob = await house.agent("bob", url);
  const nobody = new RawSender(url);
  await nobody.register();
  // Taken before encryption runs, and before bob has said whom he does not hear.
  const sent = [await sender.send(nobody.me.agentId, "to nobody"), await sender.send(bob.id, "unwanted")] as const;
  const ids = await plain.send(bob.id, ["unwanted at first"]);
  for (const { id } of [sender, plain]) await bob.policies.block(id);
  const service = await house.start({ roles: ["encryption"] });

  const waiting = sent.map((message) => message.acknowledged({ signal: AbortSignal.timeout(60_000) }));
  const [toNobody, toBob] = await Promise.allSettled(waiting);
  expect(toNobody).toMatchObject({ status: "rejected", reason: { code: "prekeys-unavailable", rule: null } });
  expect(toBob).toMatchObject({ status: "rejected", reason: { code: "not-allowed", rule: "blocked" } });
  const heard = sent.map(({ messageId }) => sender.status(messageId));
  expect(heard).toMatchObject([
    { state: "discarded", code: "prekeys-unavailable" },
    { state: "discarded", code: "blocked" },
  ]);

  const statuses = async (...messageIds: readonly string[]) => {
    const messages = messageIds.map((message_id) => ({ message_id }));
    const { json } = await plain.post("/messaging/messages/status", { messages });
    return json.messages.map(({ status, code }: { status: string; code: string | null }) => [status, code]);
  };
  const damagedId = await appendDamaged(plain.id, bob.id);
  await expect
    .poll(() => statuses(...ids, damagedId), { timeout: 60_000 })
    .toEqual([
      ["discarded", "blocked"],
      ["discarded", "undecodable"],
    ]);
  await bob.policies.unblock(plain.id);
  await plain.send(bob.id, ["unwanted at first"], ids);
  expect(await takeTexts(bob, 1, 90_000)).toEqual(["unwanted at first"]);
  await expect.poll(() => statuses(...ids), { timeout: 60_000 }).toEqual([["acknowledged", null]]);
  await service.stop();
});

const points: readonly Failpoint[] = [
  "before-commit",
  "after-commit",
  "after-publish",
  "before-offset-commit",
  "after-offset-commit",
];

test.each(points)(
  "encryption killed at %s and started again: every message opens once, no message key is used twice",
  { retry: 0 },
  async (point) => {
    const [held, other] = [await heldAgent(), await heldAgent()];
    const alice = await house.agent(`alice-${point}`, url);
    const doomed = await house.start({ roles: ["encryption"], env: { SEALPOST_FAILPOINT: `encryption:${point}:3` } });
    let dead = false;
    void doomed.ended.then(() => (dead = true));
    const sent: string[] = [];
    for (let index = 1; !dead && index <= 1_000; index += 1) {
      sent.push(`${point} ${index}`);
      await Promise.all([held.send(alice.id, sent.slice(-1)), other.send(held.id, sent.slice(-1))]);
    }
    expect(await doomed.ended).toBe("SIGKILL");
    const more = numbered(`${point} after`, 20);
    sent.push(...more);
    await Promise.all([sendAll(held, alice.id, more), sendAll(other, held.id, more)]);
    const heir = await house.start({ roles: ["encryption"] });
    expect(await takeTexts(alice, sent.length, 90_000)).toEqual(sent);
    expect(await held.texts(sent.length)).toEqual(sent);
    await expectCleanLog(house);
    await heir.stop();
    await alice.close();
  },
);
