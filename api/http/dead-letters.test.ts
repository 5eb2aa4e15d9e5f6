import { afterEach, beforeEach, expect, test } from "vitest";
import { DAY_MS } from "../../protocol/limits.ts";
import { makeMessageId } from "../../protocol/message-id.ts";
import { nodeRandom } from "../../protocol/primitives/node.ts";
import type { DeadLetter } from "../../streams/dead-letters.ts";
import { type Answer, type InMemoryService, inMemoryService, read } from "../../tests/in-memory-service.ts";

const topic = "message.encrypted.v1";

let service: InMemoryService;
beforeEach(async () => {
  service = await inMemoryService();
});
afterEach(() => service.http.close());

async function ask(method: string, path: string, body?: unknown): Promise<Answer> {
  const headers = { authorization: `Bearer ${service.ports.opsToken}` };
  const json = body === undefined ? {} : { body: JSON.stringify(body) };
  const type = body === undefined ? {} : { "content-type": "application/json" };
  return read(await fetch(service.ops.url + path, { method, headers: { ...headers, ...type }, ...json }));
}

function recordOf(offset: number) {
  return {
    topic,
    key: Buffer.from("key"),
    value: Buffer.from([0, 255, offset % 256]),
    headers: { ce_id: `id-${offset}` },
  };
}

function letter(offset: number, fields: Partial<DeadLetter> = {}): DeadLetter {
  return {
    ...{
      partition: 1,
      offset,
      at: 2,
      code: "undecodable",
      group: "queuing",
      origin: { partition: 1, offset: 9, at: 1 },
    },
    ...{ id: `id-${offset}`, subject: null, valueBytes: 3, record: recordOf(offset) },
    ...fields,
  };
}

function lying(...letters: readonly DeadLetter[]) {
  for (const one of letters) service.ports.operators.letters.push({ ...one, topic });
}

test("without a topic the topics with letters are counted, with one their metadata is shown, and nothing of what they hold", async () => {
  lying(letter(4), letter(5, { code: null, group: null, origin: { partition: null, offset: null, at: null } }));
  expect((await ask("GET", "/ops/dead-letters")).json).toEqual({ topics: [{ topic, count: 2 }] });
  const { json } = await ask("GET", `/ops/dead-letters?topic=${topic}&limit=1`);
  expect(json).toEqual({
    topics: [{ topic, count: 2 }],
    letters: [
      {
        ...{ partition: 1, offset: 4, at: "1970-01-01T00:00:00.002Z", code: "undecodable", group: "queuing" },
        origin: { partition: 1, offset: 9, at: "1970-01-01T00:00:00.001Z" },
        ...{ ce_id: "id-4", ce_subject: null, value_bytes: 3 },
      },
    ],
    cursor: "1.5",
  });
  const rest = await ask("GET", `/ops/dead-letters?topic=${topic}&after=${json.cursor}`);
  expect(rest.json).toMatchObject({ letters: [{ offset: 5, code: null, origin: { at: null } }] });
  expect(rest.json.cursor).toBeUndefined();
  expect((await ask("GET", "/ops/dead-letters?topic=message.send.v1")).json).toEqual({ topics: [], letters: [] });
});

test("one letter is put back as it was, and only that one; a dry run only counts", async () => {
  lying(letter(4), letter(5));
  const body = { topic, partition: 1, offset: 5 };
  const dry = await ask("POST", "/ops/dead-letters/replay", { ...body, dry_run: true });
  expect([dry.status, dry.json]).toEqual([200, { count: 1, skipped: 0, dry_run: true }]);
  const { putBack, acts } = service.ports.operators;
  expect([putBack, acts]).toEqual([[], []]);
  const done = await ask("POST", "/ops/dead-letters/replay", body);
  expect([done.status, done.json]).toEqual([200, { count: 1, skipped: 0, dry_run: false }]);
  expect(putBack).toEqual([recordOf(5)]);
  expect(acts).toEqual([{ act: "replayed", topic, letters: [{ partition: 1, offset: 5, id: "id-5" }] }]);
});

test("a place without a letter is told, also when another lies behind it", async () => {
  lying(letter(5));
  for (const place of [
    { partition: 1, offset: 4 },
    { partition: 0, offset: 5 },
    { partition: 9, offset: 0 },
  ]) {
    const { problem } = await ask("POST", "/ops/dead-letters/replay", { topic, ...place });
    expect(problem).toMatchObject({ status: 404, code: "dead-letter-unknown", field: "/offset" });
  }
  expect(service.ports.operators.putBack).toEqual([]);
});

test("all letters of a topic are put back, those of unknown origin are counted and left, and a call says where the next begins", async () => {
  lying(...Array.from({ length: 10_002 }, (_, n) => letter(n, n === 3 ? { record: null } : {})));
  const dry = await ask("POST", "/ops/dead-letters/replay", { topic, all: true, dry_run: true });
  expect(dry.json).toEqual({ count: 9_999, skipped: 1, cursor: "1.10000", dry_run: true });
  expect(service.ports.operators.putBack).toEqual([]);
  const first = await ask("POST", "/ops/dead-letters/replay", { topic, all: true });
  expect(first.json).toEqual({ count: 9_999, skipped: 1, cursor: "1.10000", dry_run: false });
  const second = await ask("POST", "/ops/dead-letters/replay", { topic, all: true, after: first.json.cursor });
  expect(second.json).toEqual({ count: 2, skipped: 0, dry_run: false });
  const ids = service.ports.operators.putBack.map(({ headers }) => headers["ce_id"]);
  expect(new Set(ids).size).toBe(10_001);
  expect(ids).not.toContain("id-3");
});

test("a message whose id has grown too old for its reader is not put back: its sender would be told that it was discarded", async () => {
  const daysAgo = (days: number) => `anna/${makeMessageId(Date.now() - days * DAY_MS, nodeRandom)}`;
  lying(letter(1, { subject: daysAgo(7.1) }), letter(2, { subject: daysAgo(6.9) }), letter(3, { subject: "anna/x" }));
  const { json } = await ask("POST", "/ops/dead-letters/replay", { topic, all: true });
  expect(json).toEqual({ count: 2, skipped: 1, dry_run: false });
  expect(service.ports.operators.putBack).toEqual([recordOf(2), recordOf(3)]);
  expect(service.ports.operators.acts).toMatchObject([{ letters: [{ offset: 2 }, { offset: 3 }] }]);
});

test.each([
  ["no place and not all", {}],
  ["half a place", { partition: 1 }],
  ["a place and all", { partition: 1, offset: 1, all: true }],
  ["a place and a cursor", { partition: 1, offset: 1, after: "1.1" }],
  ["a topic of dead letters", { topic: `${topic}.dlq`, all: true }],
  ["a topic that there is not", { topic: "secrets.v1", all: true }],
])("a replay with %s is refused", async (_, fields) => {
  lying(letter(1));
  const { problem } = await ask("POST", "/ops/dead-letters/replay", { topic, ...fields });
  expect(problem).toMatchObject({ status: 400, code: "malformed" });
  expect(service.ports.operators.putBack).toEqual([]);
});

test("while Kafka is away it is 503, and nothing is told as done", async () => {
  lying(letter(1));
  service.ports.away.add("kafka");
  const { problem } = await ask("POST", "/ops/dead-letters/replay", { topic, all: true });
  expect(problem).toMatchObject({ status: 503, code: "unavailable" });
  expect(service.ports.operators.acts).toEqual([]);
});
