import { afterAll, beforeAll, expect, test } from "vitest";
import { Flooder, patiently } from "../bench/flooder.ts";
import type { Envelope } from "../protocol/envelope.ts";
import { envelopeToJson } from "../protocol/envelope.ts";
import { openPostgres, type Postgres } from "../store/postgres.ts";
import { openRedis, type RedisDoor } from "../store/redis.ts";
import { messageAcknowledged, messageDiscarded } from "../streams/catalogue.ts";
import { headersAsText } from "../streams/headers.ts";
import { openEventClient } from "./event-client.ts";
import { consumerParts, eventually, type House, openHouse } from "./house.ts";
import { RawSender } from "./raw-sender.ts";
import { signed } from "./signing.ts";
import { type Client, openClient, pause } from "./stream-client.ts";

/** As the service has them by default. */
const mailboxMax = 10_000;
const pairMax = 2_000;

let house: House;
let url: string;
let postgres: Postgres;
let redis: RedisDoor;
const flooders: Flooder[] = [];

beforeAll(async () => {
  house = await openHouse();
  ({ url } = await house.start({ roles: ["api"], prepare: true }));
  await house.start({ roles: consumerParts });
  postgres = openPostgres(house.stack.urls.postgresUrl, { connectionsMax: 2 });
  redis = openRedis(house.stack.urls.redisUrl);
});

afterAll(async () => {
  for (const flooder of flooders) flooder.close();
  redis?.close();
  await postgres?.close();
  await house?.close();
});

async function flooder(): Promise<Flooder> {
  const made = new Flooder(url);
  flooders.push(made);
  await made.start();
  return made;
}

/** An agent that is registered and nowhere to be seen. */
async function absent(): Promise<RawSender> {
  const agent = new RawSender(url);
  await patiently(() => agent.register());
  return agent;
}

async function rowsOf(recipientId: string): Promise<number> {
  const { rows } = await postgres.query<{ items: number }>({
    text: "SELECT count(*)::int AS items FROM messaging_queue WHERE recipient_id = $1",
    values: [recipientId],
  });
  return rows[0]?.items ?? 0;
}

async function storedIn(recipientId: string): Promise<number> {
  const { rows } = await postgres.query<{ last_seq: number }>({
    text: "SELECT last_seq FROM messaging_mailboxes WHERE recipient_id = $1",
    values: [recipientId],
  });
  return rows[0]?.last_seq ?? 0;
}

/** Every message for the recipient that was ever stored, by seq: whose, and what became of it. */
async function historyOf(recipientId: string) {
  const { rows } = await postgres.query<{ message_id: string; sender_id: string; seq: number; outcome: string | null }>(
    {
      text: "SELECT message_id, sender_id, seq, outcome FROM messaging_messages WHERE recipient_id = $1 ORDER BY seq",
      values: [recipientId],
    },
  );
  return rows;
}

const upTo = (first: number, last: number) => Array.from({ length: last - first + 1 }, (_, n) => first + n);

/** Reads the whole mailbox over HTTP, a page at a time, and answers nothing. */
async function poll(agent: RawSender): Promise<number[]> {
  const seqs: number[] = [];
  for (let cursor = "0"; ; ) {
    const call = { method: "GET", url: `${url}/messaging/receive?after=${cursor}&limit=100` };
    const { headers, url: full } = await signed(agent.me, call);
    const response = await fetch(full, { headers });
    if (response.status === 503) continue;
    expect(response.status).toBe(200);
    const page = (await response.json()) as { items: { seq: number }[]; cursor: string };
    if (page.items.length === 0) return seqs;
    seqs.push(...page.items.map(({ seq }) => seq));
    cursor = page.cursor;
  }
}

/** Takes everything over the stream, acknowledging as it comes, until the mailbox is empty. */
async function drain(agent: RawSender, count: number): Promise<number[]> {
  const client: Client = await openClient(`${url}/messaging/stream`, agent.me);
  let acked = 0;
  await eventually(
    "the mailbox is drained over the stream",
    () => {
      const last = client.items.at(-1)?.seq ?? 0;
      if (last > acked) client.send({ type: "ack-up-to", seq: last });
      acked = last;
      return client.items.length >= count;
    },
    60_000,
  );
  const { seqs } = client;
  await eventually("what was acknowledged has left", async () => (await rowsOf(agent.me.agentId)) === 0);
  client.socket.close(1000);
  return seqs;
}

/** Takes the first `count` as events, acknowledging over HTTP as they come. */
async function listen(agent: RawSender, count: number): Promise<number[]> {
  const client = await openEventClient(`${url}/messaging/events`, agent.me);
  const seqs: number[] = [];
  while (seqs.length < count) {
    await client.has("item");
    const items = client.events.splice(0).filter(({ name }) => name === "item");
    const taken = items.slice(0, count - seqs.length).map(({ data }) => data);
    seqs.push(...taken.map(({ seq }) => seq));
    for (let at = 0; at < taken.length; at += 100) {
      const answers = taken.slice(at, at + 100).map(({ sender_id, item_id }) => ({ sender_id, message_id: item_id }));
      let { status } = await agent.call("/messaging/acknowledge", { items: answers });
      while (status === 503) ({ status } = await agent.call("/messaging/acknowledge", { items: answers }));
      expect(status).toBe(202);
    }
  }
  client.cut();
  await eventually(
    "what was acknowledged has left",
    async () => (await rowsOf(agent.me.agentId)) === mailboxMax - count,
  );
  return seqs;
}

test("of 25,000 messages from 13 senders the newest 10,000 wait, every other is told as evicted, and each of the three doors drains in order", async () => {
  const bob = await absent();
  const { agentId: bobId } = bob.me;
  const senders = await Promise.all(Array.from({ length: 13 }, flooder));
  const total = 25_000;
  const sent = new Map(senders.map((sender): [Flooder, Envelope[]] => [sender, []]));
  for (let left = total; left > 0; ) {
    const shares = senders.map((sender, n) => {
      const envelopes = Array.from({ length: Math.max(0, Math.min(100, left - n * 100)) }, () =>
        sender.envelope(bobId, 300),
      );
      sent.get(sender)?.push(...envelopes);
      return { sender, envelopes };
    });
    await Promise.all(shares.map(({ sender, envelopes }) => sender.send(envelopes)));
    left -= shares.reduce((sum, { envelopes }) => sum + envelopes.length, 0);
  }
  await eventually("all came", async () => (await storedIn(bobId)) === total, 90_000);
  await eventually("the mailbox is at its limit", async () => (await rowsOf(bobId)) === mailboxMax, 90_000);
  const history = await historyOf(bobId);
  expect(history.map(({ seq }) => seq)).toEqual(upTo(1, total));
  for (const [sender, envelopes] of sent) {
    const own = history.filter(({ sender_id }) => sender_id === sender.me.agentId).map(({ message_id }) => message_id);
    expect(own).toEqual(envelopes.map(({ messageId }) => messageId));
  }
  expect(history.map(({ outcome }) => outcome)).toEqual([
    ...Array(total - mailboxMax).fill("evicted"),
    ...Array(mailboxMax).fill(null),
  ]);

  const evicted = new Set(history.slice(0, total - mailboxMax).map(({ message_id }) => message_id));
  let discarded = await house.read(messageDiscarded);
  await eventually("every eviction is told", async () => {
    discarded = await house.read(messageDiscarded);
    return discarded.length >= evicted.size;
  });
  expect(discarded).toHaveLength(evicted.size);
  expect(new Set(discarded.map(({ decoded }) => decoded.messageId))).toEqual(evicted);
  expect(new Set(discarded.map(({ decoded }) => decoded.code))).toEqual(new Set(["evicted"]));
  expect(new Set(discarded.map(({ headers }) => headersAsText(headers)["ce_id"])).size).toBe(evicted.size);
  // A receipt is a hint, which a machine under load may lose; whoever heard nothing asks.
  const heard = () => senders.flatMap(({ receipts }) => receipts).filter(({ status }) => status === "discarded");
  await eventually("the senders have their receipts", () => quiet(() => heard().length, evicted.size), 60_000);
  const told = new Set(heard().map(({ messageId }) => messageId));
  expect(told.size).toBeGreaterThan(evicted.size / 2);
  for (const sender of senders) {
    const own = history.filter(({ sender_id, message_id }) => {
      return sender_id === sender.me.agentId && evicted.has(message_id) && !told.has(message_id);
    });
    const asked = await sender.outcomes(own.map(({ message_id }) => message_id));
    expect(asked).toEqual(own.map(() => "evicted"));
    for (const { message_id } of own) told.add(message_id);
  }
  expect(told).toEqual(evicted);
  for (const { me, receipts } of senders) {
    const own = new Set(
      history.filter(({ sender_id }) => sender_id === me.agentId).map(({ message_id }) => message_id),
    );
    expect(receipts.filter(({ messageId }) => !own.has(messageId))).toEqual([]);
  }

  const [first] = senders as [Flooder];
  const [oldest] = sent.get(first) as [Envelope];
  await resubmit(first, oldest);
  const marker = first.envelope(bobId, 10);
  await first.send([marker]);
  await eventually("one more came", async () => (await storedIn(bobId)) === total + 1);
  await eventually("one more went", async () => (await rowsOf(bobId)) === mailboxMax);
  const now = await historyOf(bobId);
  expect(now.at(-1)).toMatchObject({ seq: total + 1, message_id: marker.messageId });
  expect(now.slice(0, total - mailboxMax)).toEqual(history.slice(0, total - mailboxMax));
  expect(now[total - mailboxMax]).toMatchObject({ outcome: "evicted" });

  const kept = upTo(total - mailboxMax + 2, total + 1);
  expect(await poll(bob)).toEqual(kept);
  expect(await listen(bob, 3_000)).toEqual(kept.slice(0, 3_000));
  expect(await drain(bob, mailboxMax - 3_000)).toEqual(kept.slice(3_000));
  let acknowledged: number[] = [];
  await eventually("every acknowledgement is told", async () => {
    acknowledged = (await house.read(messageAcknowledged)).map(({ decoded }) => decoded.seq);
    return acknowledged.length >= kept.length;
  });
  expect(acknowledged).toEqual(kept);

  await resubmit(first, marker);
  await first.send([first.envelope(bobId, 10)]);
  await eventually("only what is new waits", async () => (await rowsOf(bobId)) === 1);
  expect(await poll(bob)).toEqual([total + 2]);
  expect(await house.read(messageDiscarded)).toHaveLength(evicted.size + 1);
}, 300_000);

/** Is it as much as expected, or no more than it was five seconds ago? */
async function quiet(count: () => number, expected: number): Promise<boolean> {
  const before = count();
  for (let n = 0; n < 50 && count() < expected; n++) await pause(100);
  return count() >= expected || count() === before;
}

/** Sends the same envelope again when the service's short memory of it is gone: it goes through the log once more. */
async function resubmit(sender: Flooder, envelope: Envelope): Promise<void> {
  const key = redis.key(`digest:${envelope.senderId}:${envelope.messageId}`);
  expect(await redis.ask((client) => client.del(key))).toBe(1);
  await sender.send([envelope]);
}

test("a pair at its limit is refused by name, over HTTP and on the stream; others are not, and there is room when the recipient has answered", async () => {
  const bob = await absent();
  const [greedy, modest] = [await flooder(), await flooder()];
  const many = Array.from({ length: pairMax }, () => greedy.envelope(bob.me.agentId, 50));
  await greedy.send(many.slice(0, -100));
  await eventually("they wait", async () => (await rowsOf(bob.me.agentId)) === pairMax - 100);
  await greedy.send(many.slice(-100));
  await eventually("the pair is full", async () => (await rowsOf(bob.me.agentId)) === pairMax);

  const [one, two] = [greedy.envelope(bob.me.agentId, 50), greedy.envelope(bob.me.agentId, 50)];
  const named = (envelope: Envelope, n: number) => ({
    ...{ pointer: `/envelopes/${n}/recipient_id`, code: "pair-full" },
    ...{ message_id: envelope.messageId, recipient_id: bob.me.agentId },
  });
  const answer = await greedy.offer([one, two]);
  expect(answer).toMatchObject({
    type: "rejected",
    problem: {
      status: 429,
      code: "pair-full",
      retryable: true,
      retry_after: 5,
      errors: [named(one, 0), named(two, 1)],
    },
  });
  const overHttp = await post(greedy, [one]);
  expect(overHttp.status).toBe(429);
  expect(overHttp.headers.get("retry-after")).toBe("5");
  expect(await overHttp.json()).toMatchObject({ code: "pair-full", errors: [named(one, 0)] });
  expect(await greedy.offer([many[0] as Envelope])).toMatchObject({ type: "accepted" });
  expect(await modest.offer([modest.envelope(bob.me.agentId, 50)])).toMatchObject({ type: "accepted" });
  expect(await greedy.offer([greedy.envelope(modest.me.agentId, 50)])).toMatchObject({ type: "accepted" });

  await drain(bob, pairMax + 1);
  await greedy.send([one, two]);
  await eventually("what was refused is stored now", async () => (await rowsOf(bob.me.agentId)) === 2);
});

async function post(sender: Flooder, envelopes: readonly Envelope[]): Promise<Response> {
  const body = { envelopes: envelopes.map((envelope) => envelopeToJson(envelope)) };
  const {
    headers,
    url: full,
    body: bytes,
  } = await signed(sender.me, {
    ...{ method: "POST", url: `${url}/messaging/send`, body },
  });
  return fetch(full, { method: "POST", headers, ...(bytes === undefined ? {} : { body: new Uint8Array(bytes) }) });
}

test("an agent of the SDK that says more than fits keeps it, and every message arrives once and in order", async () => {
  const bob = await house.agent("bob", url);
  const bobId = bob.id;
  await bob.close();
  const alice = await house.agent("alice", url);
  const problems = alice.problems();
  const count = pairMax + 1_000;
  const texts = Array.from({ length: count }, (_, n) => `${n}`);
  const sending = alice.sendMany(texts.map((body) => ({ to: bobId, body })));
  let told: unknown;
  do {
    told = (await problems.next()).value;
  } while ((told as { error?: { code?: string } }).error?.code !== "pair-full");
  expect(await rowsOf(bobId)).toBeLessThan(count);

  const again = await house.agent("bob", url);
  const arrived: string[] = [];
  for await (const message of again.inbox({ signal: AbortSignal.timeout(120_000) })) {
    arrived.push(message.text());
    if (arrived.length === count) break;
  }
  expect(arrived).toEqual(texts);
  expect(new Set((await sending).map(({ status }) => status))).toEqual(new Set(["fulfilled"]));
});
