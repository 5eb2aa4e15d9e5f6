import { expect, test } from "vitest";
import type { StoredItem } from "../../store/mailbox.ts";
import type { Caller } from "../auth.ts";
import { inMemoryPorts } from "../in-memory-ports.ts";
import { type ReceiveDeps, receive } from "./receive.ts";

const caller = { agentId: "bob" };
const item = (seq: number): StoredItem => ({
  seq,
  kind: "message",
  senderId: "alice",
  itemId: `id-${seq}`,
  body: new Uint8Array(),
});

function given(overrides: Partial<ReceiveDeps> = {}, as: Caller = caller) {
  const ports = inMemoryPorts();
  const box: StoredItem[] = [];
  ports.mailboxes.set(caller.agentId, box);
  const gone = new AbortController();
  const ask = (input: { afterSeq?: number; limit?: number; waitMs?: number } = {}) =>
    receive({ ...ports, ...overrides }, as, { afterSeq: 0, limit: 100, waitMs: 0, signal: gone.signal, ...input });
  return { ports, box, ask, gone };
}

test("pages follow each other without a hole, and the last one's cursor is the mailbox's last seq", async () => {
  const { box, ask } = given();
  box.push(...[2, 5, 6, 9].map(item));
  const first = await ask({ limit: 2 });
  expect([first.items.map(({ seq }) => seq), first.cursor]).toEqual([[2, 5], 5]);
  const second = await ask({ limit: 2, afterSeq: first.cursor });
  expect([second.items.map(({ seq }) => seq), second.cursor]).toEqual([[6, 9], 9]);
});

test("an empty mailbox whose items have all ended continues at its last seq", async () => {
  const { ask } = given({ readMailbox: async () => ({ items: [], lastSeq: 42, end: true }) });
  expect(await ask({ afterSeq: 40 })).toEqual({ items: [], cursor: 42, lastSeq: 42 });
});

test("whoever reads needs no more waking, also who is refused because of its stream", async () => {
  const { ports, ask } = given();
  await ask();
  ports.streaming.add(caller.agentId);
  await expect(ask()).rejects.toMatchObject({ code: "stream-open" });
  expect(ports.came).toEqual([caller.agentId, caller.agentId]);
});

test("it waits no longer than asked, however often it is woken for nothing", async () => {
  let now = 0;
  let waits = 0;
  const waitForMail = async () => {
    waits++;
    now += 400;
  };
  const { ask } = given({ now: () => now, waitForMail });
  expect((await ask({ waitMs: 1_000 })).items).toEqual([]);
  expect([waits, now]).toEqual([3, 1_200]);
});

test("it answers at once when there is mail, and does not wait", async () => {
  const { box, ask } = given({ waitForMail: () => Promise.reject(new Error("it waited")) });
  box.push(item(1));
  expect((await ask({ waitMs: 30_000 })).items).toHaveLength(1);
});

test("mail that came while it waited is found", async () => {
  const { box, ask } = given({
    waitForMail: async () => {
      box.push(item(1));
    },
  });
  expect((await ask({ waitMs: 30_000 })).items).toHaveLength(1);
});

test("an agent that was suspended while it waited is handed nothing", async () => {
  const suspended = new Set<string>();
  const { box, ask } = given({
    findInactive: async () => suspended,
    waitForMail: async () => {
      suspended.add(caller.agentId);
      box.push(item(1));
    },
  });
  await expect(ask({ waitMs: 30_000 })).rejects.toMatchObject({ code: "agent-suspended" });
});

test("a call by a signing key that was removed while it waited is handed nothing", async () => {
  const { box, ask } = given(
    {
      findEndedKeys: async (keyIds) => new Set(keyIds),
      waitForMail: async () => void box.push(item(1)),
    },
    { ...caller, signingKeyId: "k" },
  );
  await expect(ask({ waitMs: 30_000 })).rejects.toMatchObject({ code: "signing-key-ended" });
});

test("it ends when the client has gone", async () => {
  const { ask, gone } = given({ waitForMail: async () => gone.abort() });
  expect((await ask({ waitMs: 30_000 })).items).toEqual([]);
});

test("while the agent has a stream it is refused, and nothing is read", async () => {
  const { ports, ask } = given({ readMailbox: () => Promise.reject(new Error("it read")) });
  ports.streaming.add(caller.agentId);
  await expect(ask()).rejects.toMatchObject({ code: "stream-open" });
});
