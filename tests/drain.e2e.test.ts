/** The end of a process: not ready, goaway, batches finished, groups left, and 0; and what it does when it cannot. */
import { afterAll, beforeAll, expect, test } from "vitest";
import type { ServiceProcess } from "../bin/service-process.ts";
import type { Agent } from "../sdk/agent.ts";
import { messageQueued } from "../streams/catalogue.ts";
import { eventually, type House, openHouse } from "./house.ts";
import { RawSender } from "./raw-sender.ts";
import { type Client, openClient } from "./stream-client.ts";

/** Also in bin/service-main.ts; a busy machine needs some time to say so. */
const STOP_MS_MAX = 20_000;

const parts = ["queuing", "routing", "acks", "receipts"];

let house: House;
let bob: Agent;
let api: ServiceProcess;
let first: ServiceProcess;
let second: ServiceProcess;

beforeAll(async () => {
  house = await openHouse();
  api = await house.start({ roles: ["api"], prepare: true });
  bob = await house.agent("bob", api.url);
  [first, second] = await Promise.all([house.start({ roles: parts }), house.start({ roles: parts })]);
});

afterAll(() => house.close());

/** Asks a process to end: how, and after how many ms. */
async function stopped(service: ServiceProcess): Promise<{ readonly code: string; readonly ms: number }> {
  const begun = performance.now();
  process.kill(service.pid, "SIGTERM");
  const code = await service.ended;
  return { code, ms: performance.now() - begun };
}

async function membersOf(group: string): Promise<number> {
  const { groups } = await house.kafka.ask((admin) => admin.describeGroups([group]));
  return groups[0]?.members.length ?? 0;
}

async function isReady({ url }: ServiceProcess): Promise<boolean> {
  return (await fetch(`${url}/readyz`)).status === 200;
}

async function registered(url: string): Promise<RawSender> {
  const sender = new RawSender(url);
  await sender.register();
  return sender;
}

/** Sends one after the other until the process does not answer any more; what was accepted. */
async function sendUntilRefused(alice: RawSender, recipientId: string, seal: () => string[]): Promise<string[]> {
  const accepted: string[] = [];
  for (;;) {
    const [text = ""] = seal();
    const envelope = alice.seal(recipientId, text);
    const answer = await alice.post([envelope]).catch(() => null);
    if (answer === null) return accepted;
    if (answer.status === 202) accepted.push(envelope.messageId);
    else if (answer.status !== 503) throw new Error(`answered ${answer.status}`);
  }
}

test("a consumer that is asked to end finishes its batches and leaves its groups: the other has its partitions at once", async () => {
  const members = () => Promise.all(parts.map(membersOf));
  await eventually("both are in the groups", async () => (await members()).every((count) => count === 2), 60_000);
  await eventually("both are ready", async () => (await isReady(first)) && (await isReady(second)), 60_000);
  const alice = await registered(api.url);
  await alice.meet(bob.id);
  let isSending = true;
  const accepted: string[] = [];
  const sending = (async () => {
    for (let n = 0; isSending; n++) {
      const envelope = alice.seal(bob.id, `${n}`);
      if ((await alice.post([envelope])).status === 202) accepted.push(envelope.messageId);
    }
  })();
  await eventually("some messages are stored", async () => (await house.read(messageQueued)).length > 10);

  const { code, ms } = await stopped(first);
  // A member that had gone without a word would be missed for its session of 10 s.
  const left = await members();
  isSending = false;
  await sending;
  expect([code, left]).toEqual(["0", [1, 1, 1, 1]]);
  expect(ms).toBeLessThan(STOP_MS_MAX);
  const queued = async () => (await house.read(messageQueued)).map(({ decoded }) => decoded.itemId);
  await eventually("every accepted message is stored", async () => {
    const ids = new Set(await queued());
    return accepted.every((id) => ids.has(id));
  });
  console.log(`consumers ended in ${Math.round(ms)} ms, ${accepted.length} messages accepted`);
});

test("an API that is asked to end says that it is not ready, asks streams to go, answers what is under way, and ends with 0", async () => {
  const going = await house.start({ roles: ["api"] });
  const alice = await registered(going.url);
  await alice.meet(bob.id);
  const carol = await registered(going.url);
  const stream: Client = await openClient(`${going.url}/messaging/stream`, carol.me);
  let n = 0;
  const sending = sendUntilRefused(alice, bob.id, () => [`going ${n++}`]);
  await eventually("messages are sent", () => n > 5);

  const begun = performance.now();
  const ending = stopped(going);
  await stream.has("goaway");
  const goneAwayMs = performance.now() - begun;
  const atGoaway = n;
  // The client stays, and so, for the grace, does the process: it is not ready, alive, and answers.
  const readiness = await fetch(`${going.url}/readyz`);
  expect([readiness.status, await readiness.json()]).toEqual([503, { ready: false, missing: ["serving"] }]);
  expect((await fetch(`${going.url}/healthz`)).status).toBe(200);
  const { code, ms } = await ending;
  const accepted = await sending;
  expect(n).toBeGreaterThan(atGoaway);
  expect(await stream.closed).toBe(1012);
  expect(code).toBe("0");
  expect(ms).toBeLessThan(STOP_MS_MAX);
  await eventually("every accepted message is stored", async () => {
    const ids = new Set((await house.read(messageQueued)).map(({ decoded }) => decoded.itemId));
    return accepted.length > 5 && accepted.every((id) => ids.has(id));
  });
  console.log(`goaway after ${Math.round(goneAwayMs)} ms, ended in ${Math.round(ms)} ms, ${accepted.length} accepted`);
});

test("without Kafka they end in their time as well, and with 0: nothing is lost by it", async () => {
  const alice = await registered(api.url);
  await alice.meet(bob.id);
  await house.stack.kill("kafka");
  // What is under way and will not be taken.
  const waiting = alice.post([alice.seal(bob.id, "late")]).then(
    ({ status }) => status,
    () => 0,
  );
  const ends = await Promise.all([stopped(api), stopped(second)]);
  console.log(`without Kafka: ${ends.map(({ code, ms }) => `${code} in ${Math.round(ms)} ms`).join(", ")}`);
  expect(await waiting).not.toBe(202);
  expect(ends.map(({ code }) => code)).toEqual(["0", "0"]);
  for (const { ms } of ends) expect(ms).toBeLessThan(STOP_MS_MAX);
});
