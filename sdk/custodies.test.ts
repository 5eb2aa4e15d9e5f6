import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import type { Agent } from "./agent.ts";
import { AgentError, AgentStopped, MessageDiscarded, SendRejected } from "./errors.ts";
import { type FakeService, problem } from "./fake-service.ts";
import { firstProblem, take, texts, until, useStage } from "./stage-for-tests.ts";

const DAY_MS = 86_400_000;

const stage = useStage();

/** What an agent of each custody is refused by, and how an answer to it is lost: they have other ways to the service. */
interface Way {
  readonly custody: "agent" | "server";
  /** The first answer to a call that sends is lost. */
  readonly loseAnswer: (service: FakeService, sender: Agent) => void;
  /** Messages of the first call: the one at this place is refused. */
  readonly refuse: (service: FakeService, index: number, code: string) => void;
  readonly suspend: (service: FakeService, agent: Agent) => void;
  /** Calls that brought messages. */
  readonly calls: (service: FakeService) => number;
}

const ways: readonly Way[] = [
  {
    custody: "agent",
    loseAnswer: (service, sender) => {
      // A receipt would answer as well.
      service.losesReceipts = true;
      service.onSend = (_, number) => {
        if (number === 1) setImmediate(() => service.disconnect(sender.id));
        return number === 1 ? "accept-silently" : "accept";
      };
    },
    refuse: (service, index, code) => {
      service.onSend = (_, number) =>
        number > 1 ? "accept" : problem(404, code, { errors: [{ pointer: `/envelopes/${index}`, code }] })[1];
    },
    suspend: (service, agent) => {
      service.onRequest = () => problem(403, "agent-suspended");
      service.disconnect(agent.id);
    },
    calls: ({ batches }) => batches.length,
  },
  {
    custody: "server",
    loseAnswer: (service) => {
      service.onRequest = (name, attempt) => (name === "POST /messaging/messages" && attempt === 1 ? "drop" : null);
    },
    refuse: (service, index, code) => {
      service.onRequest = (name, attempt) =>
        name === "POST /messaging/messages" && attempt === 1
          ? problem(404, code, { errors: [{ pointer: `/messages/${index}`, code }] })
          : null;
    },
    suspend: (service) => {
      service.onRequest = () => problem(403, "agent-suspended");
    },
    calls: ({ custody }) => custody.calls.length,
  },
];

describe.each(ways)("an agent of $custody custody", ({ custody, loseAnswer, refuse, suspend, calls }) => {
  const open = (name: string) => stage.open(name, { custody });
  const both = async () => [await open("alice"), await open("bob")] as const;

  test("sends both ways, and hears that the other was done with it", async () => {
    const [alice, bob] = await both();
    const receipts = alice.receipts();
    const there = await alice.send(bob.id, "hello Bob");
    const [arrived] = await take(bob, 1);
    expect(arrived).toMatchObject({ id: there.messageId, from: alice.id, seq: 1 });
    expect([arrived?.text(), arrived?.contentType]).toEqual(["hello Bob", "text/plain; charset=utf-8"]);
    await there.delivered();
    await there.acknowledged();
    expect(alice.status(there.messageId)).toMatchObject({ state: "acknowledged", recipientId: bob.id });
    const back = await bob.send(alice.id, { n: 1 });
    expect((await take(alice, 1)).map((message) => message.json())).toEqual([{ n: 1 }]);
    await back.acknowledged();
    for (;;) {
      const { value } = await receipts.next();
      expect(value).toMatchObject({ messageId: there.messageId, recipientId: bob.id });
      if (value?.state === "acknowledged") break;
    }
  });

  test("gives a body as what it was, under the content type given", async () => {
    const [alice, bob] = await both();
    await alice.sendMany([
      { to: bob.id, body: "Grüße" },
      { to: bob.id, body: Uint8Array.of(0, 255) },
      { to: bob.id, body: [1, null, "x"] },
      { to: bob.id, body: "<p>", contentType: "text/html" },
      { to: bob.id, body: "" },
    ]);
    const [text, bytes, json, html, empty] = await take(bob, 5);
    expect(text?.text()).toBe("Grüße");
    expect([...(bytes?.body ?? [])]).toEqual([0, 255]);
    expect(bytes?.contentType).toBe("application/octet-stream");
    expect(() => bytes?.text()).toThrow(AgentError);
    expect(json?.json()).toEqual([1, null, "x"]);
    expect(() => html?.json()).toThrow(AgentError);
    expect(html?.contentType).toBe("text/html");
    expect(empty?.body.length).toBe(0);
  });

  test("is the same agent when it is opened again, and finds what came meanwhile, in order", async () => {
    const bob = await open("bob");
    await bob.close();
    const alice = await open("alice");
    for (const text of ["one", "two", "three"]) await alice.send(bob.id, text);
    const again = await stage.open("bob");
    expect(again.id).toBe(bob.id);
    expect(texts(await take(again, 3))).toEqual(["one", "two", "three"]);
  });

  test("sends a thousand at once in order, in few calls", async () => {
    const [alice, bob] = await both();
    const bodies = Array.from({ length: 1_000 }, (_, n) => `message ${n}`);
    // Some seconds, where there is a core for it.
    const taken = take(bob, bodies.length, 110_000);
    const outcomes = await alice.sendMany(bodies.map((body) => ({ to: bob.id, body })));
    expect(outcomes.every(({ status }) => status === "fulfilled")).toBe(true);
    expect(texts(await taken)).toEqual(bodies);
    expect(calls(stage.service)).toBeLessThan(30);
  }, 120_000);

  test("is given a message again, first, whose handler threw, and acknowledges none of it", async () => {
    const [alice, bob] = await both();
    await alice.send(bob.id, "one");
    await alice.send(bob.id, "two");
    const handle = async () => {
      for await (const message of bob.inbox()) if (message.text() === "one") throw new Error("not now");
    };
    await expect(handle()).rejects.toThrow("not now");
    expect(stage.service.acked).toEqual([]);
    expect(texts(await take(bob, 2))).toEqual(["one", "two"]);
    await until(() => stage.service.acked.length === 2);
  });

  test("is given a message again after a restart that it had not handled, and one that it had never again", async () => {
    const [alice, bob] = await both();
    await alice.send(bob.id, "handled");
    await alice.send(bob.id, "not handled");
    stage.service.onRequest = (name) => (name === "POST /messaging/acknowledge" ? problem(503, "unavailable") : null);
    for await (const message of bob.inbox()) {
      if (message.text() === "not handled") break;
      await message.ack();
    }
    await bob.close({ drainMsMax: 50 });
    stage.service.onRequest = () => null;
    const again = await open("bob");
    expect(texts(await take(again, 1))).toEqual(["not handled"]);
    await until(() => new Set(stage.service.acked).size === 2);
  });

  test("keeps what it is given while the service is away, over a restart, and sends it in order when it is back", async () => {
    const [alice, bob] = await both();
    await alice.send(bob.id, "before");
    stage.service.isAway = true;
    if (custody === "agent") stage.service.disconnect(alice.id);
    const late = [alice.send(bob.id, "one"), alice.send(bob.id, "two")];
    const stopped = Promise.allSettled(late);
    await new Promise((resolve) => setTimeout(resolve, 100));
    await alice.close({ drainMsMax: 50 });
    const reasons = (await stopped).map((outcome) => outcome.status === "rejected" && outcome.reason);
    for (const reason of reasons) expect(reason).toBeInstanceOf(AgentStopped);
    stage.service.isAway = false;
    await open("alice");
    expect(texts(await take(bob, 3))).toEqual(["before", "one", "two"]);
  });

  test("sends a message again whose answer was lost, under its id, and it arrives once", async () => {
    const [alice, bob] = await both();
    loseAnswer(stage.service, alice);
    const { messageId } = await alice.send(bob.id, "once");
    await alice.send(bob.id, "next");
    expect(texts(await take(bob, 2))).toEqual(["once", "next"]);
    expect(stage.service.bytesOf(messageId).length).toBeGreaterThan(1);
  });

  test("is told which message was refused, and the others go", async () => {
    const [alice, bob] = await both();
    refuse(stage.service, 1, "recipient-unknown");
    const outcomes = await alice.sendMany(["one", "two", "three"].map((body) => ({ to: bob.id, body })));
    const [, refused] = outcomes;
    expect(outcomes.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
    const reason = refused?.status === "rejected" ? refused.reason : null;
    expect(reason).toBeInstanceOf(SendRejected);
    expect(reason).toMatchObject({ code: "recipient-unknown", recipientId: bob.id });
    expect(alice.status(reason.messageId)).toMatchObject({ state: "rejected", code: "recipient-unknown" });
    expect(texts(await take(bob, 2))).toEqual(["one", "three"]);
  });

  test("may call the waiting off, and what is stored leaves all the same", async () => {
    const [alice, bob] = await both();
    await alice.send(bob.id, "first");
    stage.service.isAway = true;
    if (custody === "agent") stage.service.disconnect(alice.id);
    const sending = alice.send(bob.id, "called off", { signal: AbortSignal.timeout(100) });
    await expect(sending).rejects.toMatchObject({ name: "TimeoutError" });
    stage.service.isAway = false;
    expect(texts(await take(bob, 2, 10_000))).toEqual(["first", "called off"]);
  });

  test("is refused before anything is stored what no service would take", async () => {
    const [alice, bob] = await both();
    const codes = await Promise.all(
      [
        alice.send("bob", "x"),
        alice.send(alice.id, "x"),
        alice.send(bob.id, "x".repeat(70_000)),
        alice.send(bob.id, "x", { contentType: "application/vnd.sealpost.rekey" }),
        alice.send(bob.id, "\ud800"),
        alice.beginSession("bob"),
      ].map((sending) => sending.then(String, (error) => (error instanceof AgentError ? error.code : String(error)))),
    );
    const [malformed, self, tooLarge, type, text] = [
      ...["recipient-malformed", "recipient-is-self", "content-too-large", "content-type-malformed"],
      "content-malformed",
    ];
    expect(codes).toEqual([malformed, self, tooLarge, type, text, malformed]);
  });

  test("stops when it was suspended, and says why", async () => {
    const [alice, bob] = await both();
    const reading = take(alice, 1, 10_000);
    const stopped = expect(reading).rejects.toMatchObject({ code: "agent-suspended" });
    suspend(stage.service, alice);
    void alice.send(bob.id, "too late").catch(() => {});
    await stopped;
    await expect(alice.send(bob.id, "later")).rejects.toMatchObject({ code: "agent-suspended" });
  });

  test("begins one session ahead of the first message, and learns who can read", async () => {
    const [alice, bob] = await both();
    const begun = await alice.beginSession(bob.id);
    expect(await alice.beginSession(bob.id)).toBe(begun);
    await alice.send(bob.id, "hello");
    expect(texts(await take(bob, 1))).toEqual(["hello"]);
    expect(await alice.sessions(bob.id)).toMatchObject({
      ...{ custody, peerCustody: custody, isReadByOperator: custody === "server" },
    });
  });

  test("keeps its store to itself, and its custody for good", async () => {
    const alice = await open("alice");
    await expect(open("alice")).rejects.toMatchObject({ code: "store-locked" });
    await alice.close();
    await expect(alice.send(alice.id, "x")).rejects.toMatchObject({ code: "closed" });
    const other = custody === "agent" ? "server" : "agent";
    await expect(stage.open("alice", { custody: other })).rejects.toMatchObject({ code: "store-custody" });
    expect((await stage.open("alice")).id).toBe(alice.id);
  });

  test("ends what the service does not know any more after 40 days; what is younger may be late, and is not said again", async () => {
    const { service, folder } = stage;
    const [alice, bob] = await both();
    await bob.close();
    const [old, refused, young] = [
      await alice.send(bob.id, "long ago"),
      await alice.send(bob.id, "long ago, and not opened"),
      await alice.send(bob.id, "a while ago"),
    ];
    const sent = service.sent.length;
    Object.assign(service.messages.get(refused.messageId) ?? {}, { status: "refused", code: "auth-failed" });
    await alice.refresh();
    for (const { messageId } of [old, refused, young]) service.messages.delete(messageId);
    const database = new DatabaseSync(join(folder, "alice.db"), { timeout: 5_000 });
    onTestFinished(() => database.close());
    const makeOlder = database.prepare("UPDATE outbox SET created_at = created_at - ? WHERE message_id = ?");
    for (const { messageId } of [old, refused]) makeOlder.run(41 * DAY_MS, messageId);
    makeOlder.run(39 * DAY_MS, young.messageId);
    const receipts = alice.receipts();
    await alice.refresh();
    expect(alice.status(old.messageId)).toMatchObject({ state: "discarded", code: "expired" });
    expect(alice.status(refused.messageId)).toMatchObject({ state: "discarded", code: "auth-failed" });
    expect(alice.status(young.messageId)).toMatchObject({ state: "accepted", code: null });
    await expect(old.acknowledged()).rejects.toBeInstanceOf(MessageDiscarded);
    expect((await receipts.next()).value).toMatchObject({ messageId: old.messageId, state: "discarded" });
    expect(service.sent).toHaveLength(sent);
  });

  test("goes on when its store could not be tidied up, and does it the next time", async () => {
    vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] });
    onTestFinished(() => void vi.useRealTimers());
    const [alice, bob] = await both();
    const { messageId, acknowledged } = await alice.send(bob.id, "long ago");
    await take(bob, 1);
    await acknowledged();
    const other = new DatabaseSync(join(stage.folder, "alice.db"), { timeout: 5_000 });
    onTestFinished(() => other.close());
    other.exec("UPDATE outbox SET changed_at = 0");
    // Nobody else writes meanwhile.
    other.exec("BEGIN IMMEDIATE");
    vi.advanceTimersByTime(60_000);
    expect(await firstProblem(alice, "trouble")).toMatchObject({ error: { code: "store-fault", retryable: true } });
    other.exec("ROLLBACK");
    expect(alice.status(messageId)).not.toBeNull();
    vi.advanceTimersByTime(60_000);
    await until(() => alice.status(messageId) === null);
    await alice.send(bob.id, "now");
    expect(texts(await take(bob, 1))).toEqual(["now"]);
  });

  test("writes no content to a file, and sends none that a reader of its calls could read", async () => {
    const [alice, bob] = await both();
    const secret = "a very particular secret";
    const encoded = Buffer.from(secret).toString("base64url").slice(0, 30);
    for (let n = 0; n < 5; n++) await alice.send(bob.id, `${n}${secret}`.slice(1));
    await take(bob, 3);
    const seen = [
      ...stage.service.bodies,
      ...stage.service.sent.map(({ bytes }) => Buffer.from(bytes).toString("latin1")),
      ...readdirSync(stage.folder).map((file) => readFileSync(join(stage.folder, file), "latin1")),
    ];
    expect(seen.length).toBeGreaterThan(7);
    for (const text of seen) {
      expect(text).not.toContain(secret.slice(0, 20));
      expect(text).not.toContain(encoded);
    }
  });
});

test("content that was sealed to a key of yesterday is sealed to the new one, under its id", async () => {
  const open = (name: string) => stage.open(name, { custody: "server" });
  const [alice, bob] = [await open("alice"), await open("bob")];
  await alice.send(bob.id, "today");
  stage.service.custody.nextEpoch();
  await alice.send(bob.id, "tomorrow");
  expect(texts(await take(bob, 2))).toEqual(["today", "tomorrow"]);
  expect(stage.service.requests.filter((name) => name === "GET /messaging/ingress-key").length).toBeGreaterThan(1);
});

test.each([
  ["prekeys-unavailable", { code: "prekeys-unavailable", rule: null }],
  ["blocked", { code: "not-allowed", rule: "blocked" }],
  ["auth-failed", { code: "auth-failed", rule: null }],
])(
  "an agent of server custody hears that the service discarded what it was to encrypt, as %s",
  async (code, expected) => {
    const open = (name: string) => stage.open(name, { custody: "server" });
    const [alice, bob] = [await open("alice"), await open("bob")];
    stage.service.custody.discards = ({ recipientId }) => (recipientId === bob.id ? code : null);
    const receipts = alice.receipts();
    const { messageId, delivered, acknowledged } = await alice.send(bob.id, "hello");
    for (const ended of await Promise.allSettled([delivered(), acknowledged()])) {
      const error = ended.status === "rejected" ? ended.reason : null;
      expect(error).toBeInstanceOf(MessageDiscarded);
      expect(error).toMatchObject({ ...expected, messageId });
    }
    expect(alice.status(messageId)).toMatchObject({ state: "discarded", code });
    expect((await receipts.next()).value).toMatchObject({ messageId, state: "discarded", code });
  },
);

test("a message that its recipient could not open, and that the service said anew for an agent of server custody, is one message", async () => {
  const open = (name: string) => stage.open(name, { custody: "server" });
  const [alice, bob] = [await open("alice"), await open("bob")];
  const receipts = alice.receipts();
  const { messageId, acknowledged } = await alice.send(bob.id, "hello");
  const message = stage.service.messages.get(messageId);
  if (message === undefined) throw new Error("the service does not have it");
  const askings = () => stage.service.requests.filter((name) => name === "POST /messaging/messages/status").length;
  const heard = async () => {
    const before = askings();
    // The answer to the one before the last is taken.
    await until(() => askings() >= before + 2);
  };
  Object.assign(message, { status: "refused", code: "auth-failed" });
  await heard();
  expect(alice.status(messageId)).toMatchObject({ state: "accepted" });
  Object.assign(message, { status: "acknowledged", code: null });
  await acknowledged();
  expect(alice.status(messageId)).toMatchObject({ messageId, state: "acknowledged", code: null });
  expect((await receipts.next()).value).toMatchObject({ messageId, state: "acknowledged" });
});

test("a store whose keys another service holds says so", async () => {
  const alice = await stage.open("alice", { custody: "server" });
  await alice.close();
  stage.service.custody.accounts.clear();
  const elsewhere = stage.service.url.replace("127.0.0.1", "localhost");
  await expect(stage.open("alice", { url: elsewhere })).rejects.toMatchObject({ code: "store-elsewhere" });
});
