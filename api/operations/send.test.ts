import { expect, test } from "vitest";
import type { Envelope } from "../../protocol/envelope.ts";
import { addAgent, bytesOf, someEnvelope } from "../../tests/in-memory-service.ts";
import { newIdentity } from "../../tests/signing.ts";
import { inMemoryPorts } from "../in-memory-ports.ts";
import { BatchRefusal, type Fault, problemOf, retryAfterSecondsOf } from "../problem.ts";
import { appendSend, checkSend, send } from "./send.ts";

function given() {
  const ports = inMemoryPorts();
  const [alice, bob] = [newIdentity(), newIdentity()];
  for (const agent of [alice, bob]) addAgent(ports, agent);
  const envelope = (changes: Partial<Envelope> = {}) => someEnvelope(alice.agentId, bob.agentId, changes);
  const appendedIds = () => ports.appended.map(({ value }) => (value as { itemId: string }).itemId);
  return { ports, alice, bob, envelope, appendedIds };
}

async function faultsOf(sending: Promise<unknown>): Promise<[string, string][]> {
  const refusal = await sending.then(
    () => null,
    (error: unknown) => error,
  );
  expect(refusal).toBeInstanceOf(BatchRefusal);
  return (refusal as { faults: readonly Fault[] }).faults.map(({ pointer, code }) => [pointer, code]);
}

test("envelopes are appended in the order of the call", async () => {
  const { ports, alice, envelope, appendedIds } = given();
  const envelopes = Array.from({ length: 100 }, () => envelope());
  const accepted = await send(ports, alice, envelopes.map(bytesOf));
  expect(accepted).toEqual(envelopes.map(({ messageId }) => ({ messageId })));
  expect(appendedIds()).toEqual(envelopes.map(({ messageId }) => messageId));
  expect(ports.counts.get("messages_sent")).toBe(100);
});

test("the same envelope twice in a call is accepted twice and appended once", async () => {
  const { ports, alice, envelope, appendedIds } = given();
  const [one, two] = [envelope(), envelope()];
  expect(await send(ports, alice, [one, two, one].map(bytesOf))).toHaveLength(3);
  expect(appendedIds()).toEqual([one.messageId, two.messageId]);
});

test("other bytes under the same id in a call are refused, and nothing is appended", async () => {
  const { ports, alice, envelope } = given();
  const one = envelope();
  const other = { ...one, sendCounter: 2 };
  expect(await faultsOf(send(ports, alice, [one, envelope(), other].map(bytesOf)))).toEqual([
    ["/envelopes/2/message_id", "message-id-reused"],
  ]);
  expect(ports.appended).toEqual([]);
});

test("other bytes under an id that Kafka has are refused for as long as its digest is remembered", async () => {
  const { ports, alice, envelope, appendedIds } = given();
  const one = envelope();
  const other = bytesOf({ ...one, flags: 1 });
  await send(ports, alice, [bytesOf(one)]);
  expect(await faultsOf(send(ports, alice, [other]))).toEqual([["/envelopes/0/message_id", "message-id-reused"]]);
  expect(ports.appended).toHaveLength(1);
  ports.remembered.clear();
  // From here on it is queuing that tells a repeat from a reuse.
  await send(ports, alice, [other]);
  expect(appendedIds()).toEqual([one.messageId, one.messageId]);
});

test("two senders may use the same id", async () => {
  const { ports, alice, bob, envelope, appendedIds } = given();
  const one = envelope();
  const two = someEnvelope(bob.agentId, alice.agentId, { messageId: one.messageId, timestamp: one.timestamp });
  await send(ports, alice, [bytesOf(one)]);
  await send(ports, bob, [bytesOf(two)]);
  expect(appendedIds()).toEqual([one.messageId, one.messageId]);
  expect(ports.appended[0]?.id).not.toBe(ports.appended[1]?.id);
});

test("a digest is remembered only when Kafka has the envelope", async () => {
  const { ports, alice, envelope } = given();
  const body = bytesOf(envelope());
  ports.away.add("kafka");
  await expect(send(ports, alice, [body])).rejects.toMatchObject({ door: "kafka" });
  expect(ports.remembered.size).toBe(0);
  ports.away.clear();
  await send(ports, alice, [body]);
  expect([ports.remembered.size, ports.appended.length]).toEqual([1, 1]);
});

test("what was accepted is accepted again after its recipient has gone", async () => {
  const { ports, alice, bob, envelope } = given();
  const body = bytesOf(envelope());
  await send(ports, alice, [body]);
  ports.agents.delete(bob.agentId);
  expect(await send(ports, alice, [body])).toHaveLength(1);
  expect(ports.appended).toHaveLength(1);
});

test("checking appends nothing; appending follows the order of its calls, whatever was checked first", async () => {
  const { ports, alice, envelope, appendedIds } = given();
  const [one, two] = [envelope(), envelope()];
  const second = await checkSend(ports, alice, [bytesOf(two)]);
  const first = await checkSend(ports, alice, [bytesOf(one)]);
  expect(ports.appended).toEqual([]);
  await Promise.all([appendSend(ports, first), appendSend(ports, second)]);
  expect(appendedIds()).toEqual([one.messageId, two.messageId]);
});

test("bytes that are not canonical are refused with the member at fault", async () => {
  const { ports, alice, envelope } = given();
  const good = bytesOf(envelope());
  const longer = new Uint8Array([...good, 0]);
  const large = bytesOf(envelope({ ciphertext: new Uint8Array(65_537) }));
  expect(await faultsOf(send(ports, alice, [good, new Uint8Array(), longer, good.slice(0, -1), large]))).toEqual([
    ["/envelopes/1", "malformed"],
    ["/envelopes/2", "malformed"],
    ["/envelopes/3", "malformed"],
    ["/envelopes/4/ciphertext", "too-large"],
  ]);
  expect(ports.appended).toEqual([]);
});

test("the operator's limit on ciphertexts counts, and not the default", async () => {
  const { ports, alice, envelope } = given();
  const body = bytesOf(envelope({ ciphertext: new Uint8Array(65_537) }));
  expect(await send({ ...ports, ciphertextBytesMax: 70_000 }, alice, [body])).toHaveLength(1);
  const small = bytesOf(envelope({ ciphertext: new Uint8Array(11) }));
  expect(await faultsOf(send({ ...ports, ciphertextBytesMax: 10 }, alice, [small]))).toEqual([
    ["/envelopes/0/ciphertext", "too-large"],
  ]);
});

test("an agent that was suspended since it connected sends nothing", async () => {
  const { ports, alice, envelope } = given();
  addAgent(ports, alice, "suspended");
  await expect(send(ports, alice, [bytesOf(envelope())])).rejects.toMatchObject({ code: "agent-suspended" });
  expect(ports.appended).toEqual([]);
});

test("no envelopes, and more than a hundred, are refused", async () => {
  const { ports, alice, envelope } = given();
  const body = bytesOf(envelope());
  await expect(send(ports, alice, [])).rejects.toMatchObject({ code: "malformed", field: "/envelopes" });
  await expect(send(ports, alice, Array(101).fill(body))).rejects.toMatchObject({
    code: "too-many",
    field: "/envelopes",
  });
});

test("messages without room are named with their recipient, none of the call is appended, and the call may be made again", async () => {
  const { ports, alice, bob, envelope } = given();
  const carol = newIdentity();
  addAgent(ports, carol);
  const toCarol = someEnvelope(alice.agentId, carol.agentId);
  const asked: (readonly string[])[] = [];
  const room: typeof ports.room = {
    take: async (senderId, messages) => {
      expect(senderId).toBe(alice.agentId);
      asked.push(messages.map(({ recipientId }) => recipientId));
      return messages.map(({ recipientId }, n) => (recipientId === bob.agentId && n > 0 ? "pair-full" : null));
    },
  };
  const envelopes = [envelope(), toCarol, envelope()];
  const sending = send({ ...ports, room }, alice, envelopes.map(bytesOf));
  const error = await sending.then(null, (thrown: unknown) => thrown);
  const problem = problemOf(error, 0);
  expect(problem).toMatchObject({
    ...{ status: 429, code: "pair-full", retryable: true, retry_after: 5, field: "/envelopes/2/recipient_id" },
    errors: [
      {
        ...{ pointer: "/envelopes/2/recipient_id", code: "pair-full" },
        ...{ message_id: envelopes[2]?.messageId, recipient_id: bob.agentId },
      },
    ],
  });
  expect(problem.errors).toHaveLength(1);
  expect(retryAfterSecondsOf(problem)).toBe(5);
  expect(asked).toEqual([[bob.agentId, carol.agentId, bob.agentId]]);
  expect(ports.appended).toEqual([]);
  expect(ports.counts.get("messages_refused")).toBe(1);
});

test("room is asked for only for what is new, and only when nothing else is at fault", async () => {
  const { ports, alice, envelope } = given();
  const one = envelope();
  await send(ports, alice, [bytesOf(one)]);
  const full: typeof ports = { ...ports, room: { take: async (_, ids) => ids.map(() => "pair-full") } };
  expect(await send(full, alice, [bytesOf(one)])).toHaveLength(1);
  expect(await faultsOf(send(full, alice, [bytesOf(envelope()), new Uint8Array()]))).toEqual([
    ["/envelopes/1", "malformed"],
  ]);
});
