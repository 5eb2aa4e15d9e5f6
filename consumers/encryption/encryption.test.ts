import { randomUUID } from "node:crypto";
import { expect, test } from "vitest";
import { Refusal } from "../../protocol/refusal.ts";
import type { MessageDiscarded, MessageSend } from "../../schemas/values.ts";
import { messageSend } from "../../streams/catalogue.ts";
import type { Inbound } from "../../streams/consumer.ts";
import { sampleAgentId, sampleItemId } from "../../tests/messaging.ts";
import { newIdentity } from "../../tests/signing.ts";
import { checkCommand } from "./commands.ts";
import { toBury, toLament } from "./events.ts";

const now = Date.UTC(2026, 5, 1);
const day = 24 * 60 * 60 * 1000;

function record(changes: Partial<MessageSend> = {}, key?: string): Inbound<MessageSend> {
  const value: MessageSend = {
    kind: "message",
    messageId: sampleItemId(now),
    senderId: newIdentity().agentId,
    recipientId: newIdentity().agentId,
    sealed: new Uint8Array(80),
    hmac: new Uint8Array(),
    sessionId: new Uint8Array(),
    aboutId: null,
    sentAt: now,
    ...changes,
  };
  const { senderId, recipientId } = value;
  return {
    ...{ topic: messageSend, partition: 0, offset: 7, key: key ?? `${senderId}:${recipientId}`, value },
    ...{ headers: {}, timestamp: now },
  };
}

function codeOf(checked: Inbound<MessageSend>): string {
  try {
    checkCommand(checked);
    return "taken";
  } catch (error) {
    if (error instanceof Refusal) return error.code;
    throw error;
  }
}

const rekey = { kind: "rekey", sealed: new Uint8Array(), hmac: new Uint8Array() } as const;

const request = { sealed: new Uint8Array(), hmac: new Uint8Array() } as const;

const checks: [law: string, record: Inbound<MessageSend>, code: string][] = [
  ["a message", record(), "taken"],
  ["a rekey", record({ ...rekey, sessionId: new Uint8Array(16) }), "taken"],
  ["a rekey of no session", record(rekey), "malformed"],
  ["a request for a message", record({ ...request, kind: "retry", aboutId: sampleItemId(now) }), "taken"],
  ["a request for nothing", record({ ...request, kind: "retry" }), "malformed"],
  ["an answer to a request", record({ ...request, kind: "repair", aboutId: sampleItemId(now) }), "taken"],
  ["an answer to nothing", record({ ...request, kind: "repair" }), "malformed"],
  ["a message of nothing", record({ sealed: new Uint8Array() }), "malformed"],
  ["another pair than its key's", record({}, `${sampleAgentId()}:${sampleAgentId()}`), "item-mismatch"],
  ["an agent that is none", record({ recipientId: "nobody" }), "malformed"],
  ["an id without a time", record({ messageId: randomUUID() }), "malformed"],
  ["an id of long ago", record({ messageId: sampleItemId(now - 9 * day) }), "id-time-mismatch"],
  ["an id of tomorrow", record({ messageId: sampleItemId(now + day) }), "id-time-mismatch"],
];

test.each(checks)("%s is answered by the check as it should be", (_, checked, code) => {
  expect(codeOf(checked)).toBe(code);
});

test("the sender of a dead letter is told, once it is known from key and subject, which agree", () => {
  const { key, value } = record();
  const rejected = (subject: string, otherKey = key) => ({
    ...{ topic: "message.send.v1", partition: 0, offset: 7, key: otherKey, timestamp: now },
    headers: { ce_subject: subject },
  });
  const [told] = toLament(rejected(`${value.senderId}/${value.messageId}`), "epoch-gone");
  expect(told?.key).toBe(value.recipientId);
  expect(told?.value("event") as MessageDiscarded).toEqual({
    ...{ eventId: "event", messageId: value.messageId, senderId: value.senderId, recipientId: value.recipientId },
    ...{ code: "epoch-gone", detail: null, digest: null, discardedAt: now },
  });
  expect(toLament(rejected(`${value.recipientId}/${value.messageId}`), "epoch-gone")).toEqual([]);
  expect(toLament(rejected("what is this"), "epoch-gone")).toEqual([]);
  expect(toLament(rejected(`${value.senderId}/${value.messageId}`, "no pair"), "epoch-gone")).toEqual([]);
});

test("of a dead letter is kept what is told of it, unless its id names a day that no sender may name", () => {
  const { key, value } = record();
  const letter = (messageId: string, subjectId = value.senderId) => ({
    code: "epoch-gone",
    record: {
      ...{ topic: "message.send.v1", partition: 0, offset: 7, key, timestamp: now },
      headers: { ce_subject: `${subjectId}/${messageId}` },
    },
  });
  const { messageId, senderId, recipientId } = value;
  expect(toBury([letter(messageId)])).toEqual([
    { messageId, senderId, recipientId, code: "epoch-gone", discardedAt: now },
  ]);
  const odd = [sampleItemId(now - 9 * day), sampleItemId(now + day), randomUUID()].map((id) => letter(id));
  expect(odd.flatMap(({ record: rejected, code }) => toLament(rejected, code))).toHaveLength(3);
  expect(toBury([...odd, letter(messageId, recipientId)])).toEqual([]);
});
