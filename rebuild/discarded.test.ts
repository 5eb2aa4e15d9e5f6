import { randomUUID } from "node:crypto";
import { expect, test } from "vitest";
import type { MessageDiscarded } from "../schemas/values.ts";
import { messageDiscarded } from "../streams/catalogue.ts";
import type { Inbound } from "../streams/consumer.ts";
import { alice, BEGIN, bob, folded } from "../tests/log-life.ts";
import { sampleItemId } from "../tests/messaging.ts";
import { foldDiscarded } from "./discarded.ts";

let offset = 0;

function told(value: Partial<MessageDiscarded>, by = "encryption"): Inbound<MessageDiscarded> {
  const eventId = randomUUID();
  const ids = { messageId: sampleItemId(BEGIN), senderId: alice, recipientId: bob };
  return {
    ...{ topic: messageDiscarded, partition: 0, offset: offset++, key: bob, timestamp: BEGIN },
    headers: { ce_id: eventId, ce_source: `/sealpost/${by}` },
    value: {
      ...{ eventId, ...ids, code: "prekeys-unavailable", detail: null, digest: null, discardedAt: BEGIN, ...value },
    },
  };
}

const rowsOf = (...records: readonly Inbound<unknown>[]) =>
  Object.fromEntries(folded(foldDiscarded(), records).get("messaging_discarded") ?? []);

const row = (code: string, at = BEGIN) => ({
  since: at,
  columns: { recipient_id: bob, code, discarded_at: at },
});

test("what encryption did not encrypt has a row, under its rule where there was one", () => {
  const [unreachable, unwanted] = [told({}), told({ code: "not-allowed", detail: "blocked" })];
  expect(rowsOf(unreachable, unwanted)).toEqual({
    [`${alice}/${unreachable.value.messageId}`]: row("prekeys-unavailable"),
    [`${alice}/${unwanted.value.messageId}`]: row("blocked"),
  });
});

test("the latest counts, in whatever order and however often it is read", () => {
  const first = told({});
  const { messageId } = first.value;
  const later = told({ messageId, code: "auth-failed", discardedAt: BEGIN + 1 });
  const expected = { [`${alice}/${messageId}`]: row("auth-failed", BEGIN + 1) };
  expect(rowsOf(first, later, first)).toEqual(expected);
  expect(rowsOf(later, first)).toEqual(expected);
});

test("what others tell, other content under a used id, and ids without a day have none", () => {
  const odd = sampleItemId(BEGIN - 9 * 24 * 60 * 60 * 1000);
  const others = [told({ code: "expired" }, "queuing"), told({ code: "refused" }, "acks"), told({ code: "id-reused" })];
  expect(rowsOf(...others, told({ messageId: odd }), told({ messageId: randomUUID() }))).toEqual({});
});
