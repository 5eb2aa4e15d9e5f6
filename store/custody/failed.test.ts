import { expect, test } from "vitest";
import { DAY_MS } from "../../protocol/limits.ts";
import { messageIdTime } from "../../protocol/message-id.ts";
import { nodeRandom } from "../../protocol/primitives/node.ts";
import { sampleAgentId, sampleItemId } from "../../tests/messaging.ts";
import { askedAgain, type FailedMessage } from "./failed.ts";

const start = Date.UTC(2026, 5, 1);
const minuteMs = 60_000;

const failed: FailedMessage = {
  recipientId: sampleAgentId(),
  senderId: sampleAgentId(),
  messageId: sampleItemId(start),
  code: "auth-failed",
  sessionId: new Uint8Array(16),
  dhPublicKey: new Uint8Array(32),
  requestId: sampleItemId(start),
  asked: 0,
  askAt: start,
};

test("a request is handed on more and more rarely, at least every six hours, under one id", () => {
  let message = failed;
  const waits: number[] = [];
  for (let now = start; waits.length < 7; now = message.askAt) {
    message = askedAgain(message, now, nodeRandom);
    waits.push((message.askAt - now) / minuteMs);
  }
  expect(waits).toEqual([1, 4, 16, 64, 256, 360, 360]);
  expect([message.requestId, message.asked]).toEqual([failed.requestId, 7]);
});

test("in the 30 days that a message waits there are five requests at most, and each id can be taken", () => {
  const ids = new Set<string>();
  let message = failed;
  for (let now = start; now < start + 30 * DAY_MS; now = message.askAt) {
    message = askedAgain(message, now, nodeRandom);
    ids.add(message.requestId);
    expect(now - (messageIdTime(message.requestId) ?? 0)).toBeLessThan(7 * DAY_MS);
  }
  expect(ids.size).toBeLessThanOrEqual(5);
});
