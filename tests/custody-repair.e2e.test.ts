/**
 * Repair where the service holds keys: sessions lost or damaged on either side, and encryption killed while it repairs them.
 */
import { randomBytes } from "node:crypto";
import { cp } from "node:fs/promises";
import path from "node:path";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import type { ServiceProcess } from "../bin/service-process.ts";
import { decodeEnvelope } from "../protocol/envelope.ts";
import { forgetSessions } from "../protocol/peer.ts";
import type { Agent } from "../sdk/agent.ts";
import { Store } from "../sdk/store/store.ts";
import { openPostgres, type Postgres } from "../store/postgres.ts";
import { messageEncrypted } from "../streams/catalogue.ts";
import type { Failpoint } from "../streams/runner-options.ts";
import { HeldAgent } from "./held-agent.ts";
import { eventually, type House, openHouse } from "./house.ts";

const others = ["queuing", "routing", "acks", "receipts", "sessions", "relay", "jobs"];

/** Longer than the job's minute and its look for work, on a machine that is busy. */
const REPAIRED_MS_MAX = 150_000;

let house: House;
let url: string;
let postgres: Postgres;

beforeAll(async () => {
  house = await openHouse();
  ({ url } = await house.start({ roles: ["api"], prepare: true }));
  await house.start({ roles: others });
  postgres = openPostgres(house.stack.urls.postgresUrl);
});

afterAll(async () => {
  await postgres.close();
  await house.close();
});

/** What a test that failed has left running would disturb the next one. */
const running: ServiceProcess[] = [];
const readers: Reader[] = [];
afterEach(async () => {
  await Promise.allSettled(readers.splice(0).map((reader) => reader.stop()));
  await Promise.allSettled(running.splice(0).map((service) => service.kill()));
});

async function startEncryption(env: Readonly<Record<string, string>> = {}): Promise<ServiceProcess> {
  const service = await house.start({ roles: ["encryption"], env });
  running.push(service);
  return service;
}

interface Reader {
  /** What each message said, in the order in which it was read. */
  readonly texts: string[];
  stop(): Promise<void>;
}

function registered(reader: Reader): Reader {
  readers.push(reader);
  return reader;
}

/** Reads on, and acknowledges what it reads; what does not open is the service's matter. */
function readHeld(agent: HeldAgent): Reader {
  const texts: string[] = [];
  const seen = new Set<string>();
  let stopped = false;
  const reading = (async () => {
    while (!stopped) {
      const { messages } = await agent.open();
      for (const { senderId, messageId, text } of messages) {
        if (!seen.has(`${senderId}/${messageId}`)) texts.push(text);
        seen.add(`${senderId}/${messageId}`);
      }
      await agent.acknowledge(messages);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  })();
  // Told where it is stopped.
  reading.catch(() => undefined);
  return registered({
    texts,
    stop: async () => {
      stopped = true;
      await reading;
    },
  });
}

function readSdk(agent: Agent): Reader {
  const texts: string[] = [];
  const stopping = new AbortController();
  const reading = (async () => {
    for await (const message of agent.inbox({ signal: stopping.signal })) {
      texts.push(message.text());
      await message.ack();
    }
  })();
  reading.catch(() => undefined);
  return registered({
    texts,
    stop: async () => {
      stopping.abort();
      await reading;
    },
  });
}

async function heldAgent(): Promise<HeldAgent> {
  const agent = new HeldAgent(url);
  expect((await agent.register()).status).toBe(201);
  return agent;
}

/** Both say something, so that no initiation is attached any more. */
async function meet(held: HeldAgent, other: HeldAgent | Agent): Promise<void> {
  const reader = other instanceof HeldAgent ? readHeld(other) : readSdk(other);
  const own = readHeld(held);
  await held.send(other.id, ["hello"]);
  await eventually("the greeting has come", () => reader.texts.length === 1, REPAIRED_MS_MAX);
  if (other instanceof HeldAgent) await other.send(held.id, ["hello back"]);
  else await other.send(held.id, "hello back");
  await eventually("its answer has come", () => own.texts.length === 1, REPAIRED_MS_MAX);
  await Promise.all([reader.stop(), own.stop()]);
  const ofService = [held, ...(other instanceof HeldAgent ? [other] : [])];
  await eventually("the mailboxes are empty", async () => {
    const mails = await Promise.all(ofService.map((agent) => agent.open()));
    return mails.every(({ messages }) => messages.length === 0);
  });
}

/** What the service keeps of a peer for an agent is gone. */
async function deleteStates(ownerId: string, peerId: string): Promise<void> {
  const { rowCount } = await postgres.query({
    text: "DELETE FROM messaging_sessions WHERE owner_id = $1 AND peer_id = $2",
    values: [ownerId, peerId],
  });
  expect(rowCount).toBe(1);
}

async function damageStates(ownerId: string, peerId: string): Promise<void> {
  const { rowCount } = await postgres.query({
    text: "UPDATE messaging_sessions SET state = $3 WHERE owner_id = $1 AND peer_id = $2",
    values: [ownerId, peerId, randomBytes(400)],
  });
  expect(rowCount).toBe(1);
}

const storePath = (name: string) => path.join(house.folder, `${name}.db`);

/** Closes the agent and opens it again without its sessions with this peer. */
async function reopenWithoutSessions(name: string, agent: Agent, peerId: string): Promise<Agent> {
  await agent.close();
  const store = Store.open({ path: storePath(name) });
  await store.commit(() => store.peers.put(forgetSessions(store.peers.get(peerId))));
  store.close();
  return house.agent(name, url);
}

/** No (session, ratchet key, counter) stands in two different envelopes, anywhere in the log. */
async function expectCleanLog(): Promise<void> {
  const seen = new Map<string, string>();
  for (const { decoded } of await house.read(messageEncrypted)) {
    if (decoded.kind !== "message") continue;
    const { sessionId, dhPublicKey, sendCounter } = decodeEnvelope(decoded.body);
    const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
    const place = `${hex(sessionId)} ${hex(dhPublicKey)} ${sendCounter}`;
    const body = hex(decoded.body);
    expect(seen.get(place) ?? body, "one message key, one ciphertext").toBe(body);
    seen.set(place, body);
  }
}

/** Items by which these agents asked for something anew, each once. */
async function requestsBy(agentIds: readonly string[]): Promise<number> {
  const items = (await house.read(messageEncrypted)).filter(
    ({ decoded }) => decoded.kind === "retry" && agentIds.includes(decoded.senderId),
  );
  return new Set(items.map(({ decoded }) => `${decoded.senderId}/${decoded.itemId}`)).size;
}

const points: readonly Failpoint[] = [
  "before-commit",
  "after-commit",
  "after-publish",
  "before-offset-commit",
  "after-offset-commit",
];

test.each(points)(
  "sessions lost on every side, and encryption killed at %s again and again: every message opens once",
  async (point) => {
    const first = await startEncryption();
    const [held, other] = [await heldAgent(), await heldAgent()];
    let alice = await house.agent(`alice-${point}`, url);
    await meet(held, other);
    await meet(held, alice);
    await first.stop();

    await deleteStates(other.id, held.id);
    await damageStates(held.id, alice.id);
    const lost = ["one", "two", "three"].map((text) => `${point} ${text}`);
    // To a peer without its sessions, from a peer without them, and both.
    await held.send(other.id, lost);
    for (const text of lost) await alice.send(held.id, text);
    alice = await reopenWithoutSessions(`alice-${point}`, alice, held.id);
    await held.send(alice.id, lost);

    const inboxes = [readHeld(held), readHeld(other), readSdk(alice)];
    const isDone = () => inboxes.every(({ texts }) => texts.length >= lost.length);
    let deaths = 0;
    for (let life = 0; life < 3 && !isDone(); life++) {
      // Each gets one step further: what is sent, what is asked for, what is said anew.
      const env = { SEALPOST_FAILPOINT: `encryption:${point}:${point === "before-commit" ? 2 : 1}` };
      const doomed = await startEncryption(env);
      let ending = "";
      void doomed.ended.then((how) => (ending = how));
      await eventually("it has died, or all is done", () => ending !== "" || isDone(), REPAIRED_MS_MAX);
      if (ending === "SIGKILL") deaths += 1;
      else await doomed.stop();
    }
    const heir = await startEncryption();
    await eventually("every message has come", isDone, REPAIRED_MS_MAX);
    // What came in one repair too many would come now.
    const after = `${point} after`;
    await Promise.all([held.send(other.id, [after]), held.send(alice.id, [after]), alice.send(held.id, after)]);
    const isOver = () => inboxes.every(({ texts }) => texts.includes(after));
    await eventually("and what was said after them", isOver, REPAIRED_MS_MAX);
    for (const { texts } of inboxes) expect(texts.toSorted()).toEqual([...lost, after].toSorted());
    expect(deaths).toBeGreaterThanOrEqual(2);
    await expectCleanLog();
    await Promise.all(inboxes.map((inbox) => inbox.stop()));
    await Promise.all([alice.close(), heir.stop()]);
  },
  // Each death is noticed by Kafka only after a while.
  600_000,
);

test("a store that was copied back from before makes no message of a held agent fail for good, and the sender sees why it failed first", async () => {
  const service = await startEncryption();
  const held = await heldAgent();
  let alice = await house.agent("copied", url);
  await meet(held, alice);
  await alice.close();
  await cp(storePath("copied"), storePath("earlier"));
  alice = await house.agent("copied", url);
  const [reader, own] = [readSdk(alice), readHeld(held)];
  // Both ratchets turn once more, which the copy does not know.
  for (const round of ["there", "and there"]) {
    await alice.send(held.id, round);
    await eventually("it has come", () => own.texts.includes(round), REPAIRED_MS_MAX);
    await held.send(alice.id, [`back ${round}`]);
    await eventually("its answer has come", () => reader.texts.includes(`back ${round}`), REPAIRED_MS_MAX);
  }
  await reader.stop();
  await alice.close();
  await cp(storePath("earlier"), storePath("copied"));
  alice = await house.agent("copied", url);
  const again = readSdk(alice);
  const [id = ""] = await held.send(alice.id, ["to the copy"]);
  await alice.send(held.id, "from the copy");
  await eventually("both have come", () => again.texts.length > 0 && own.texts.length > 2, REPAIRED_MS_MAX);
  expect([again.texts, own.texts]).toEqual([["to the copy"], ["there", "and there", "from the copy"]]);
  // The answer to it has a log of its own, and may come behind its successor.
  await eventually("the first was refused", async () => {
    const { rows } = await postgres.query<{ outcome: string | null }>({
      text: "SELECT outcome FROM messaging_messages WHERE sender_id = $1 AND message_id = $2",
      values: [held.id, id],
    });
    return rows[0]?.outcome === "refused";
  });
  await Promise.all([again.stop(), own.stop()]);
  await service.stop();
}, 600_000);

test("a held agent that only sends, and never reads, says anew what its peers could not open", async () => {
  const service = await startEncryption();
  const [held, other] = [await heldAgent(), await heldAgent()];
  let alice = await house.agent("patient", url);
  await meet(held, other);
  await meet(held, alice);
  await deleteStates(other.id, held.id);
  alice = await reopenWithoutSessions("patient", alice, held.id);
  const inboxes = [readSdk(alice), readHeld(other)];
  await held.send(alice.id, ["for alice"]);
  await held.send(other.id, ["for the other"]);
  await eventually("both have come", () => inboxes.every(({ texts }) => texts.length > 0), REPAIRED_MS_MAX);
  expect(inboxes.map(({ texts }) => texts)).toEqual([["for alice"], ["for the other"]]);
  // One request for each, although the other was asked to open again and again.
  expect(await requestsBy([other.id])).toBe(1);
  await eventually("nothing waits any more", async () => {
    const { rows } = await postgres.query({
      text: "SELECT FROM messaging_queue WHERE recipient_id = ANY ($1)",
      values: [[held.id, other.id, alice.id]],
    });
    return rows.length === 0;
  });
  await Promise.all(inboxes.map((inbox) => inbox.stop()));
  await service.stop();
}, 600_000);

test("for an agent of the SDK whose keys the service holds, what was said anew is one message, which is acknowledged", async () => {
  const service = await startEncryption();
  const held = await house.agent("held", url, "server");
  let alice = await house.agent("forgetful", url);
  const [reader, own] = [readSdk(alice), readSdk(held)];
  // Both say something, so that no initiation is attached any more.
  await held.send(alice.id, "hello");
  await eventually("the greeting has come", () => reader.texts.length === 1, REPAIRED_MS_MAX);
  await alice.send(held.id, "hello back");
  await eventually("its answer has come", () => own.texts.length === 1, REPAIRED_MS_MAX);
  await reader.stop();
  alice = await reopenWithoutSessions("forgetful", alice, held.id);
  const again = readSdk(alice);
  const sent = await held.send(alice.id, "said anew");
  await sent.acknowledged();
  expect(again.texts).toEqual(["said anew"]);
  expect(held.status(sent.messageId)).toMatchObject({ messageId: sent.messageId, state: "acknowledged", code: null });
  // It was another message that arrived.
  const { rows } = await postgres.query<{ outcome: string | null }>({
    text: "SELECT outcome FROM messaging_messages WHERE sender_id = $1 AND message_id = $2",
    values: [held.id, sent.messageId],
  });
  expect(rows).toEqual([{ outcome: "refused" }]);
  await Promise.all([again.stop(), own.stop()]);
  await Promise.all([alice.close(), held.close()]);
  await service.stop();
}, 600_000);
