import { expect, test } from "vitest";
import { Unavailable } from "../../protocol/refusal.ts";
import type { NewEvent } from "../../streams/headers.ts";
import { announceWaiting } from "./announce-waiting.ts";

function open(waiting: ReadonlyMap<string, number>) {
  const appended: NewEvent<unknown>[][] = [];
  const asked: (readonly string[])[] = [];
  const deps = {
    newestWaiting: async (agentIds: readonly string[]) => {
      asked.push(agentIds);
      return new Map([...waiting].filter(([agentId]) => agentIds.includes(agentId)));
    },
    requests: {
      append: async (events: readonly NewEvent<unknown>[]) => {
        appended.push([...events]);
      },
    },
    now: () => 1_700_000_000_000,
  };
  return { deps, appended, asked };
}

test("one wake is asked for of each agent for whom something waits, about the newest of it, in one question and one append", async () => {
  const { deps, appended, asked } = open(
    new Map([
      ["alice", 3],
      ["bob", 70],
      ["nobody asked about", 1],
    ]),
  );
  await announceWaiting(deps, ["alice", "has read everything", "bob"]);
  expect(asked).toEqual([["alice", "has read everything", "bob"]]);
  expect(appended).toHaveLength(1);
  const at = 1_700_000_000_000;
  const head = { source: "/sealpost/api", time: at, topic: { name: "push.requested.v1" } };
  expect(appended[0]).toMatchObject([
    { ...head, key: "alice", subject: "alice", value: { recipientId: "alice", seq: 3, requestedAt: at } },
    { ...head, key: "bob", subject: "bob", value: { recipientId: "bob", seq: 70, requestedAt: at } },
  ]);
  expect(appended[0]).toHaveLength(2);
});

test("where nothing waits nothing is asked for", async () => {
  const { deps, appended } = open(new Map());
  await announceWaiting(deps, ["alice"]);
  expect(appended.flat()).toEqual([]);
});

test("a server that is away is told as that", async () => {
  const { deps } = open(new Map([["alice", 1]]));
  const away = () => Promise.reject(new Unavailable("kafka"));
  await expect(announceWaiting({ ...deps, requests: { append: away } }, ["alice"])).rejects.toThrow(Unavailable);
  await expect(announceWaiting({ ...deps, newestWaiting: away }, ["alice"])).rejects.toThrow(Unavailable);
});
