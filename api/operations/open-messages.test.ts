import { expect, test } from "vitest";
import type { OpenedMailbox } from "../../store/custody/open-mailbox.ts";
import { inMemoryPorts } from "../in-memory-ports.ts";
import type { CustodyDoor } from "./custody.ts";
import { openMessages } from "./open-messages.ts";

const agentId = "bob";

/** A mailbox of three items in which only the last has something to tell, and of which each opening opens one. */
function given() {
  const told = { messageId: "id-3", senderId: "alice", seq: 3, sentAt: 0, contentType: "a/b", body: new Uint8Array() };
  const door: Pick<CustodyDoor, "openMailbox" | "takeRequests"> = {
    openMailbox: async (_, { afterSeq }): Promise<OpenedMailbox> => ({
      ...{ messages: afterSeq === 2 ? [told] : [], failed: [], handled: [], refused: [], rekeys: [], asks: [] },
      ...{ cursor: Math.min(afterSeq + 1, 3), lastSeq: 3 },
    }),
    takeRequests: async () => ({ due: [], ended: [], afterSeq: null }),
  };
  let now = 0;
  let waits = 0;
  const waitForMail = async () => {
    waits++;
    now += 1_000;
  };
  const ports = inMemoryPorts({ custody: door as CustodyDoor, waitForMail, now: () => now });
  const key = new Uint8Array(32);
  const of = { custody: "server", status: "active", createdAt: 0, identityKey: key, accessKey: key } as const;
  ports.agents.set(agentId, { agentId, ...of });
  const read = (waitMs: number) =>
    openMessages(ports, { agentId }, { afterSeq: 0, limit: 100, waitMs, signal: new AbortController().signal });
  return { read, waits: () => waits };
}

test("a call that may wait goes on at once behind a page that had nothing to tell and ended before the mailbox did", async () => {
  const { read, waits } = given();
  expect(await read(30_000)).toMatchObject({ messages: [{ seq: 3 }], cursor: 3 });
  expect(waits()).toBe(0);
});

test("a call that may not wait answers where its page ended", async () => {
  expect(await given().read(0)).toMatchObject({ messages: [], cursor: 1, lastSeq: 3 });
});
