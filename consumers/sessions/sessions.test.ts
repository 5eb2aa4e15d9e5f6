import { randomBytes } from "node:crypto";
import { expect, test } from "vitest";
import { encodeBase64Url } from "../../protocol/base64url.ts";
import type { Envelope } from "../../protocol/envelope.ts";
import { encodeInitiation } from "../../protocol/initiation.ts";
import type { MessageEncrypted, SessionInitialized } from "../../schemas/values.ts";
import type { SessionFacts } from "../../store/session-facts.ts";
import type { Tx } from "../../store/tx.ts";
import type { Emit, Inbound } from "../../streams/consumer.ts";
import { sampleAgentId, sampleItemId } from "../../tests/messaging.ts";
import { recordOf, sampleSession } from "../../tests/sessions.ts";
import { sessions } from "./sessions.ts";

const now = Date.UTC(2026, 5, 1);

/** Rows in memory, with the promises of the store's. */
function facts() {
  const rows = new Map<string, SessionFacts>();
  const nameOf = ({ ownerId, peerId, sessionId }: Pick<SessionFacts, "ownerId" | "peerId" | "sessionId">) =>
    `${ownerId}/${peerId}/${Buffer.from(sessionId).toString("hex")}`;
  const unused = () => Promise.reject(new Error("not used"));
  const tx: Tx = {
    queuing: { place: unused, evictOldest: unused },
    acks: { setAside: unused, settle: unused, takeMarks: unused, firstOf: unused },
    metering: { lockMeters: unused, writeMeters: unused, addToHours: unused },
    audit: { lockHead: unused, findSeen: unused, append: unused },
    custody: {
      findDecisions: unused,
      findCommands: unused,
      writeCommands: unused,
      writeDiscarded: unused,
      recallCommands: unused,
      lockKept: unused,
      changeKept: unused,
      findFailed: unused,
      findRequests: unused,
      findIdentityKeys: unused,
      findIdentities: unused,
      findStates: unused,
      lockStates: unused,
      writeStates: unused,
    },
    sessions: {
      find: async (keys) => keys.flatMap((key) => rows.get(nameOf(key)) ?? []),
      write: async (changed) => {
        for (const row of changed) rows.set(nameOf(row), row);
      },
    },
  };
  return {
    rows: () => [...rows.values()],
    step: (...batch: readonly Inbound<MessageEncrypted>[]): Promise<readonly Emit[]> => sessions.step(batch, tx),
  };
}

/** Applies the records in one step, and again in a step for each; the facts must be the same. */
async function inSteps(records: readonly Inbound<MessageEncrypted>[]) {
  const [together, apart] = [facts(), facts()];
  const told = await together.step(...records);
  const toldApart: Emit[] = [];
  for (const record of records) toldApart.push(...(await apart.step(record)));
  expect(apart.rows()).toEqual(together.rows());
  expect(toldApart.map(({ subject }) => subject)).toEqual(told.map(({ subject }) => subject));
  return { rows: together.rows(), told };
}

test("what an agent sends in a session is one row, of its newest message; the answers are another", async () => {
  const { alice, bob, sessionId, initiation, initiationBytes, sent, answered } = sampleSession();
  const messages = [
    sent(now, { initiation: initiationBytes }),
    sent(now + 10, { initiation: initiationBytes, sendCounter: 2 }),
    answered(now + 20),
    sent(now + 30, { sendCounter: 1, previousCounter: 2 }),
  ];
  const { rows } = await inSteps(messages.map((envelope) => recordOf(envelope)));
  const { signedPrekeyId, oneTimePrekeyId } = initiation;
  expect(rows).toEqual([
    {
      ownerId: alice.agentId,
      peerId: bob.agentId,
      sessionId,
      messageId: messages[3]?.messageId,
      dhPublicKey: messages[3]?.dhPublicKey,
      sendCounter: 1,
      previousCounter: 2,
      messages: 3,
      firstAt: now + 5,
      lastAt: now + 35,
      initiation: { suite: 1, signedPrekeyId, oneTimePrekeyId, kemPrekeyId: null, at: now + 5 },
    },
    expect.objectContaining({
      ...{ ownerId: bob.agentId, peerId: alice.agentId, messageId: messages[2]?.messageId },
      ...{ messages: 1, firstAt: now + 25, lastAt: now + 25, initiation: null },
    }),
  ]);
});

type Made = (session: ReturnType<typeof sampleSession>) => readonly Envelope[];

const repeats: [law: string, made: Made, newest: number, count: number][] = [
  [
    "a repeat behind newer messages moves nothing",
    ({ sent }) => {
      const [first, second] = [sent(now), sent(now + 1, { sendCounter: 2 })];
      return [first, second, first, second, first];
    },
    1,
    2,
  ],
  [
    "a message that was made before the newest moves nothing, and is not counted",
    ({ sent }) => [sent(now + 1, { sendCounter: 2 }), sent(now)],
    0,
    1,
  ],
  [
    "of one millisecond the message further in its chain is the newest",
    ({ sent }) => [1, 2, 3, 1].map((sendCounter) => sent(now, { sendCounter })),
    2,
    3,
  ],
  [
    "a new chain begins with a counter of 1 and is newer all the same",
    ({ sent }) => [sent(now, { sendCounter: 9 }), sent(now + 1)],
    1,
    2,
  ],
];

test.each(repeats)("%s", async (_, made, newest, count) => {
  const envelopes = made(sampleSession());
  const { rows } = await inSteps(envelopes.map((envelope) => recordOf(envelope)));
  expect(rows).toEqual([expect.objectContaining({ messageId: envelopes[newest]?.messageId, messages: count })]);
});

test("of one millisecond and counter the order is the same whichever comes first", async () => {
  const { sent } = sampleSession();
  const records = [recordOf(sent(now)), recordOf(sent(now))];
  const one = await inSteps(records);
  const other = await inSteps(records.toReversed());
  expect(one.rows[0]?.messageId).toBe(other.rows[0]?.messageId);
});

test("a session is told once, for the first message that carried its initiation", async () => {
  const { alice, bob, sessionId, initiation, initiationBytes, sent, answered } = sampleSession();
  const first = sent(now, { initiation: initiationBytes });
  const record = recordOf(first, { offset: 7 });
  const custodyRecord = { ...record, value: { ...record.value, custody: "server" as const } };
  const others = [sent(now + 1, { initiation: initiationBytes }), answered(now + 2), first];
  const { told } = await inSteps([custodyRecord, ...others.map((envelope) => recordOf(envelope))]);
  const [event, ...more] = told;
  expect(more).toEqual([]);
  expect(event).toMatchObject({
    topic: { name: "session.initialized.v1" },
    key: alice.agentId,
    cause: { offset: 7 },
    time: now + 5,
    subject: `${alice.agentId}/${encodeBase64Url(sessionId)}`,
  });
  const value: SessionInitialized = {
    eventId: "some-event",
    sessionId,
    initiatorId: alice.agentId,
    responderId: bob.agentId,
    suite: 1,
    signedPrekeyId: initiation.signedPrekeyId,
    oneTimePrekeyId: initiation.oneTimePrekeyId,
    kemPrekeyId: null,
    messageId: first.messageId,
    custody: "server",
    initializedAt: now + 5,
  };
  expect(event?.value("some-event")).toEqual(value);
});

test("an initiation with a KEM prekey names it", async () => {
  const { initiation, sent } = sampleSession();
  const kemPrekeyId = sampleItemId(now);
  const bytes = encodeInitiation({
    ...{ ...initiation, oneTimePrekeyId: null },
    ...{ suite: 2, kemPrekeyId, kemCiphertext: randomBytes(1_088) },
  });
  const { told, rows } = await inSteps([recordOf(sent(now, { initiation: bytes }))]);
  expect(rows[0]?.initiation).toMatchObject({ suite: 2, oneTimePrekeyId: null, kemPrekeyId });
  expect(told[0]?.value("e")).toMatchObject({ suite: 2, oneTimePrekeyId: null, kemPrekeyId });
});

test("an initiation that comes behind newer messages begins the session all the same", async () => {
  const { initiationBytes, sent } = sampleSession();
  const [early, late] = [sent(now, { initiation: initiationBytes }), sent(now + 1, { sendCounter: 2 })];
  const { told, rows } = await inSteps([recordOf(late), recordOf(early)]);
  expect(told).toHaveLength(1);
  expect(rows).toMatchObject([{ messageId: late.messageId, messages: 1, initiation: { suite: 1 } }]);
});

test("an initiation that is none, or of another agent's key, begins no session; the message counts", async () => {
  const { initiationBytes, sent, answered } = sampleSession();
  const messages = [
    sent(now, { initiation: Uint8Array.of(9) }),
    sent(now + 1, { initiation: initiationBytes.subarray(0, -1) }),
    answered(now, { initiation: initiationBytes }),
  ];
  const { told, rows } = await inSteps(messages.map((envelope) => recordOf(envelope)));
  expect(told).toEqual([]);
  expect(rows).toMatchObject([
    { messages: 2, initiation: null },
    { messages: 1, initiation: null },
  ]);
});

const good = recordOf(sampleSession().sent(now));
const passedOver: [law: string, record: Inbound<MessageEncrypted>][] = [
  ["a retry request", { ...good, value: { ...good.value, kind: "retry" } }],
  ["a body that is no envelope", { ...good, value: { ...good.value, body: Buffer.from("no envelope") } }],
  ["an empty body", { ...good, value: { ...good.value, body: new Uint8Array(0) } }],
  ["another sender's envelope", { ...good, value: { ...good.value, senderId: sampleAgentId() } }],
  ["another recipient's envelope", { ...good, value: { ...good.value, recipientId: sampleAgentId() } }],
  ["another id than the envelope's", { ...good, value: { ...good.value, itemId: sampleItemId(now) } }],
  ["a record under another key", { ...good, key: sampleAgentId() }],
  ["an id without a time", recordOf({ ...sampleSession().sent(now), messageId: crypto.randomUUID() })],
];

test.each(passedOver)("%s is passed over, and what follows is not", async (_, record) => {
  const { rows, told } = await inSteps([record, good]);
  expect(rows).toMatchObject([{ messageId: good.value.itemId, messages: 1 }]);
  expect(told).toEqual([]);
});
