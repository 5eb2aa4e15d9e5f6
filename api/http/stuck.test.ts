import { afterEach, beforeEach, expect, test } from "vitest";
import type { MessageReceipt } from "../../schemas/values.ts";
import type { StuckItem, StuckState } from "../../store/stuck.ts";
import type { NewEvent } from "../../streams/headers.ts";
import { type Answer, type InMemoryService, inMemoryService, read } from "../../tests/in-memory-service.ts";
import { newIdentity } from "../../tests/signing.ts";
import { reportUnanswered } from "../operations/report-unanswered.ts";

let service: InMemoryService;
beforeEach(async () => {
  service = await inMemoryService();
});
afterEach(() => service.http.close());

const [recipient, other, sender] = [newIdentity().agentId, newIdentity().agentId, newIdentity().agentId];

async function ask(method: string, path: string, body?: unknown): Promise<Answer> {
  const headers = { authorization: `Bearer ${service.ports.opsToken}` };
  const json = body === undefined ? {} : { body: JSON.stringify(body) };
  const type = body === undefined ? {} : { "content-type": "application/json" };
  return read(await fetch(service.ops.url + path, { method, headers: { ...headers, ...type }, ...json }));
}

const idOf = (n: number) => `0198c0de-7a11-7b2c-9d3e-${String(n).padStart(12, "0")}`;

function item(n: number, fields: Partial<StuckItem> = {}): StuckItem {
  return { recipientId: recipient, senderId: sender, itemId: idOf(n), kind: "message", seq: n, since: n, ...fields };
}

function stuck(state: StuckState, ...items: readonly StuckItem[]) {
  for (const one of items) service.ports.operators.stuck.push({ ...one, state });
}

const named = ({ recipientId, senderId, itemId }: StuckItem) => ({
  ...{ recipient_id: recipientId, sender_id: senderId, item_id: itemId },
});

const receipts = () => service.ports.appended as readonly NewEvent<MessageReceipt>[];

test("without a state the list counts each kind, with one it has a page, and its cursor leads to the next", async () => {
  stuck("set-aside", item(1), item(2, { kind: "retry" }), item(3, { recipientId: other }));
  const all = await ask("GET", "/ops/messages");
  expect([all.status, all.json]).toEqual([
    200,
    {
      groups: [
        { state: "undeliverable", reason: "not-woken", count: 0 },
        { state: "set-aside", reason: "connections-broke", count: 3, oldest_since: "1970-01-01T00:00:00.001Z" },
      ],
    },
  ]);
  const first = await ask("GET", "/ops/messages?state=set-aside&limit=2");
  const reason = "connections-broke";
  expect(first.json.items).toEqual([
    { ...named(item(1)), kind: "message", seq: 1, since: "1970-01-01T00:00:00.001Z", reason },
    { ...named(item(2)), kind: "retry", seq: 2, since: "1970-01-01T00:00:00.002Z", reason },
  ]);
  const second = await ask("GET", `/ops/messages?state=set-aside&limit=2&after=${first.json.cursor}`);
  expect(second.json).toMatchObject({ groups: [{ count: 3 }], items: [named(item(3, { recipientId: other }))] });
  expect(second.json.cursor).toBeUndefined();
  const some = await ask("GET", `/ops/messages?state=set-aside&recipient_id=${other}`);
  expect(some.json).toMatchObject({ groups: [{ count: 1 }], items: [named(item(3, { recipientId: other }))] });
});

test("a retry by name asks acks for those that are stuck, once each, by recipient; the others are left out", async () => {
  const [one, two, free] = [item(1), item(2, { recipientId: other }), item(3)];
  stuck("undeliverable", one, two);
  const items = [one, two, free, one].map(named);
  const dry = await ask("POST", "/ops/messages/retry", { items, dry_run: true });
  expect([dry.status, dry.json]).toEqual([200, { count: 2, more: false, dry_run: true }]);
  expect([receipts(), service.ports.operators.acts]).toEqual([[], []]);
  const done = await ask("POST", "/ops/messages/retry", { items });
  expect([done.status, done.json]).toEqual([202, { count: 2, more: false, dry_run: false }]);
  expect(receipts().map(({ key, source, value }) => ({ key, source, value }))).toEqual(
    [one, two].map(({ recipientId, senderId, itemId }) => ({
      ...{ key: recipientId, source: "/sealpost/ops" },
      value: { recipientId, items: [], retried: [{ senderId, itemId, at: expect.any(Number) }] },
    })),
  );
  expect(service.ports.operators.acts).toEqual(
    [one, two].map(({ recipientId, senderId, itemId }) => ({
      ...{ act: "retried", recipientId, items: [{ senderId, itemId }] },
    })),
  );
});

test("a deletion says why, and that no client was involved", async () => {
  stuck("set-aside", item(1));
  const { status } = await ask("POST", "/ops/messages/delete", { items: [named(item(1))], reason: "recipient-gone" });
  expect(status).toBe(202);
  const { senderId, itemId, recipientId } = item(1);
  expect(receipts().map(({ value }) => value)).toEqual([
    {
      recipientId,
      items: [{ outcome: "deleted", senderId, itemId, at: expect.any(Number), door: "none", code: "recipient-gone" }],
    },
  ]);
  expect(service.ports.operators.acts).toEqual([
    { act: "deleted", recipientId, items: [{ senderId, itemId }], reason: "recipient-gone" },
  ]);
});

test("a filter takes all of its kind, in records that acks takes, and says when there are more than a call does", async () => {
  stuck("undeliverable", item(0, { since: 0 }));
  stuck("set-aside", ...Array.from({ length: 10_500 }, (_, n) => item(n + 1)));
  const filter = { state: "set-aside", recipient_id: recipient };
  expect((await ask("POST", "/ops/messages/retry", { filter, dry_run: true })).json).toEqual({
    ...{ count: 10_000, more: true, dry_run: true },
  });
  expect((await ask("POST", "/ops/messages/retry", { filter })).json).toEqual({
    ...{ count: 10_000, more: true, dry_run: false },
  });
  const asked = receipts().flatMap(({ value }) => value.retried?.map(({ itemId }) => itemId) ?? []);
  expect(Math.max(...receipts().map(({ value }) => value.retried?.length ?? 0))).toBe(256);
  expect(asked).toEqual(Array.from({ length: 10_000 }, (_, n) => idOf(n + 1)));
  const others = { filter: { state: "set-aside", recipient_id: other } };
  expect((await ask("POST", "/ops/messages/retry", others)).json).toMatchObject({ count: 0, more: false });
});

test("what is tried again has its five connections again", async () => {
  const { ports } = service;
  const [{ recipientId, senderId, itemId }, asideNow] = [item(1), () => receipts().length];
  const breakOne = () => reportUnanswered(ports, recipientId, { senderId, itemId });
  for (let n = 0; n < 5; n++) await breakOne();
  expect(asideNow()).toBe(1);
  stuck("set-aside", item(1));
  await ask("POST", "/ops/messages/retry", { items: [named(item(1))] });
  ports.appended.length = 0;
  for (let n = 0; n < 4; n++) await breakOne();
  expect(asideNow()).toBe(0);
  await breakOne();
  expect(asideNow()).toBe(1);
});

test.each([
  ["neither items nor a filter", { reason: "r" }],
  ["both", { reason: "r", items: [named(item(1))], filter: { state: "set-aside" } }],
  ["no items", { reason: "r", items: [] }],
  ["a filter without a state", { reason: "r", filter: {} }],
  ["no reason", { filter: { state: "set-aside" } }],
  ["a reason in words", { reason: "the recipient is gone", filter: { state: "set-aside" } }],
  ["a dry run that is no boolean", { reason: "r", filter: { state: "set-aside" }, dry_run: "yes" }],
  ["an item of another form", { reason: "r", items: [{ ...named(item(1)), item_id: "1" }] }],
])("a deletion with %s is refused, and nothing is asked for", async (_, body) => {
  stuck("set-aside", item(1));
  const { problem } = await ask("POST", "/ops/messages/delete", body);
  expect(problem).toMatchObject({ status: 400, code: "malformed" });
  expect(receipts()).toEqual([]);
});

test("more than a thousand names, a cursor of nobody's, an unknown state are refused", async () => {
  const items = Array.from({ length: 1_001 }, (_, n) => named(item(n)));
  expect((await ask("POST", "/ops/messages/retry", { items })).problem).toMatchObject({ code: "too-many" });
  for (const query of ["state=lost", "state=set-aside&after=1", "state=set-aside&limit=1001", "limit=0", "states=x"]) {
    expect((await ask("GET", `/ops/messages?${query}`)).problem).toMatchObject({ status: 400, code: "malformed" });
  }
});

test("while Kafka is away it is 503, nothing is told as done, and the same call does it later", async () => {
  stuck("set-aside", item(1));
  const { ports } = service;
  ports.away.add("kafka");
  const body = { items: [named(item(1))] };
  expect((await ask("POST", "/ops/messages/retry", body)).problem).toMatchObject({ status: 503, code: "unavailable" });
  expect(ports.operators.acts).toEqual([]);
  ports.away.clear();
  expect((await ask("POST", "/ops/messages/retry", body)).status).toBe(202);
  expect(receipts()).toHaveLength(1);
});
