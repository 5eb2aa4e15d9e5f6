import { afterEach, beforeEach, expect, test } from "vitest";
import { type InMemoryService, inMemoryService, read } from "../../tests/in-memory-service.ts";

const token = "a-token-of-the-operators-0123456789";
const begun = {
  ...{ state: "begun", from: "2026-08-01T00:00:00.000Z", to: "2026-09-01T00:00:00.000Z" },
  ...{ agents: [] as string[], actions: ["message.*", "agent.revoked"], format: "parquet" },
};

let service: InMemoryService;
beforeEach(async () => {
  service = await inMemoryService({ opsToken: token });
});
afterEach(() => service.http.close());

async function post(body: object) {
  const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
  return read(
    await fetch(`${service.ops.url}/ops/audit/replays`, { method: "POST", headers, body: JSON.stringify(body) }),
  );
}

test("that a replay begins and that it is done are facts, with what was asked and what came of it", async () => {
  const manifest_sha256 = "ab".repeat(32);
  expect((await post(begun)).status).toBe(202);
  const { json } = await post({ ...begun, state: "done", records: 7, manifest_sha256 });
  const told = service.ports.appended.map(({ topic, key, value }) => ({
    topic: topic.name,
    key,
    ...(value as object),
  }));
  const range = "2026-08-01T00:00:00.000Z/2026-09-01T00:00:00.000Z parquet actions message.*,agent.revoked";
  expect(told).toMatchObject([
    { topic: "agent.changed.v1", key: "*", change: "audit-replayed", actor: "operator", reason: `begun ${range}` },
    { key: "*", reason: `done ${range} records 7 manifest sha256:${manifest_sha256}` },
  ]);
  expect(json).toEqual({ event_ids: [service.ports.appended[1]?.id] });
});

test("each agent that is asked for has a fact of its own", async () => {
  const agents = [service.alice.agentId, service.bob.agentId];
  await post({ ...begun, agents });
  expect(service.ports.appended.map(({ key }) => key)).toEqual(agents);
});

test.each([
  ["/from", { from: "yesterday" }],
  ["/agents/0", { agents: ["somebody"] }],
  ["/actions/0", { actions: ["All of them"] }],
  ["/state", { state: "done" }],
  ["/state", { records: 1, manifest_sha256: "ab".repeat(32) }],
])("what is wrong is told by its name: %s", async (field, wrong) => {
  expect((await post({ ...begun, ...wrong })).problem).toMatchObject({ status: 400, field });
  expect(service.ports.appended).toEqual([]);
});
