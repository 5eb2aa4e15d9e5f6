/**
 * Bad input against the real service: a clear refusal that names code and fix, and nothing appended to any topic.
 *
 * The whole matrix, without servers, is in api/http; here the same doors are tried over the real log. No consumer runs: what is appended, the door has appended.
 */
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Envelope, envelopeToJson } from "../protocol/envelope.ts";
import { makeMessageId } from "../protocol/message-id.ts";
import { nodeRandom } from "../protocol/primitives/node.ts";
import { type House, openHouse } from "./house.ts";
import { RawSender } from "./raw-sender.ts";
import { type Call, newIdentity, type SigningOptions, sendSigned, signed } from "./signing.ts";

const dayMs = 24 * 60 * 60 * 1000;

let house: House;
let url: string;
let alice: RawSender;
let bobId: string;

beforeAll(async () => {
  house = await openHouse();
  ({ url } = await house.start({ roles: ["api"], prepare: true }));
  bobId = (await house.agent("bob", url)).id;
  alice = new RawSender(url);
  await alice.register();
  await alice.meet(bobId);
});

afterAll(() => house.close());

interface Bad {
  readonly what: string;
  readonly status: number;
  readonly code: string;
  readonly response: () => Promise<Response>;
}

const post = (body: unknown, options: SigningOptions = {}, change: Partial<Call> = {}) =>
  signed(alice.me, { method: "POST", url: `${url}/messaging/send`, body, ...change }, options).then(sendSigned);
const envelopes = (...list: readonly Envelope[]) => ({ envelopes: list.map((envelope) => envelopeToJson(envelope)) });
const fresh = () => alice.seal(bobId, "hello");
const nowS = () => Math.floor(Date.now() / 1000);
const dated = (ms: number): Envelope => ({ ...fresh(), messageId: makeMessageId(ms, nodeRandom), timestamp: ms });

const cases: readonly Bad[] = [
  {
    what: "unsigned",
    status: 401,
    code: "signature-missing",
    response: () =>
      fetch(`${url}/messaging/send`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(envelopes(fresh())),
      }),
  },
  {
    what: "signed by another key",
    status: 401,
    code: "signature-invalid",
    response: async () =>
      sendSigned(
        await signed(
          newIdentity(),
          { method: "POST", url: `${url}/messaging/send`, body: envelopes(fresh()) },
          { keyid: alice.me.agentId },
        ),
      ),
  },
  {
    what: "expired",
    status: 401,
    code: "signature-expired",
    response: () => post(envelopes(fresh()), { created: nowS() - 600, expires: nowS() - 300 }),
  },
  {
    what: "a body that was not signed",
    status: 401,
    code: "digest-mismatch",
    response: async () => {
      const call = await signed(alice.me, { method: "POST", url: `${url}/messaging/send`, body: envelopes(fresh()) });
      return sendSigned({ ...call, body: Buffer.from(JSON.stringify(envelopes(fresh()))) });
    },
  },
  {
    what: "another agent's id in the envelope",
    status: 403,
    code: "sender-mismatch",
    response: () => post(envelopes({ ...fresh(), senderId: bobId })),
  },
  {
    what: "an unknown recipient",
    status: 404,
    code: "recipient-unknown",
    response: () => post(envelopes({ ...fresh(), recipientId: newIdentity().agentId })),
  },
  {
    what: "101 envelopes",
    status: 400,
    code: "too-many",
    response: () => post(envelopes(...Array.from({ length: 101 }, fresh))),
  },
  {
    what: "a ciphertext that is too large",
    status: 413,
    code: "too-large",
    response: () => {
      const json = envelopeToJson(fresh());
      return post({ envelopes: [{ ...json, ciphertext: "A".repeat(100_000) }] });
    },
  },
  { what: "malformed JSON", status: 400, code: "malformed", response: () => post('{"envelopes": [') },
  { what: "a wrong type", status: 400, code: "malformed", response: () => post({ envelopes: "all of them" }) },
  {
    what: "an unknown field",
    status: 400,
    code: "malformed",
    response: () => post({ ...envelopes(fresh()), urgent: 1 }),
  },
  {
    what: "a NUL byte",
    status: 400,
    code: "malformed",
    response: () => post({ envelopes: [{ ...envelopeToJson(fresh()), sender_id: "\u0000".repeat(43) }] }),
  },
  {
    what: "an id that is eight days old",
    status: 422,
    code: "message-id-too-old",
    response: () => post(envelopes(dated(Date.now() - 8 * dayMs))),
  },
  {
    what: "an id from the future",
    status: 422,
    code: "message-id-in-future",
    response: () => post(envelopes(dated(Date.now() + 10 * 60 * 1000))),
  },
];

test.each(cases)("$what is refused, and nothing is appended", async ({ status, code, response }) => {
  const before = await ends();
  const answer = await response();
  const problem = (await answer.json()) as Record<string, unknown>;
  expect(problem).toMatchObject({ code, status: answer.status });
  expect(answer.status).toBe(status);
  expect(answer.headers.get("content-type")).toMatch(/^application\/problem\+json/);
  expect(String(problem["detail"]).length).toBeGreaterThan(0);
  expect(String(problem["fix"]).length).toBeGreaterThan(0);
  expect(await ends()).toEqual(before);
});

test("a replayed request is refused, and nothing is appended", async () => {
  const call = await signed(alice.me, { method: "POST", url: `${url}/messaging/send`, body: envelopes(fresh()) });
  expect((await sendSigned(call)).status).toBe(202);
  const before = await ends();
  const answer = await sendSigned(call);
  expect(answer.status).toBe(401);
  expect(await answer.json()).toMatchObject({ code: "signature-replayed" });
  expect(await ends()).toEqual(before);
});

test("the same message again is the same answer and nothing new; other bytes under its id are refused", async () => {
  const envelope = fresh();
  expect((await alice.post([envelope])).status).toBe(202);
  const before = await ends();
  expect((await alice.post([envelope])).status).toBe(202);
  const other = await alice.post([{ ...envelope, flags: 2 }]);
  expect(other.status).toBe(409);
  expect(await other.json()).toMatchObject({ code: "message-id-reused" });
  expect(await ends()).toEqual(before);
});

/** The end of every partition of every topic. */
async function ends(): Promise<Record<string, unknown>> {
  const topics = (await house.kafka.ask((admin) => admin.listTopics())).filter((topic) => !topic.startsWith("__"));
  const offsets: Record<string, unknown> = {};
  for (const topic of topics.sort()) {
    const partitions = await house.kafka.ask((admin) => admin.fetchTopicOffsets(topic));
    offsets[topic] = partitions.map(({ partition, high }) => `${partition}@${high}`).sort();
  }
  return offsets;
}
