import { setTimeout as pause } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { MessageReceipt } from "../../schemas/values.ts";
import { type CustodyStage, envelopesOf, openCustodyStage } from "../../tests/custody-stage.ts";
import { inMemoryPorts } from "../in-memory-ports.ts";
import type { CustodyDoor } from "./custody.ts";
import { openMessages } from "./open-messages.ts";

let stage: CustodyStage;
beforeAll(async () => {
  stage = await openCustodyStage();
});
afterAll(() => stage.close());

/** Calls of one agent, each from behind the cursor that the last one answered, as the SDK makes them. */
function reader(agentId: string) {
  const unused = new Proxy({} as CustodyDoor, {
    get: (_, name) => {
      throw new Error(`reading asks for ${String(name)}`);
    },
  });
  const custody: CustodyDoor = {
    ...unused,
    openMailbox: (recipientId, { afterSeq }) => stage.open(recipientId, afterSeq),
    takeRequests: (ownerId) => stage.takeRequests(ownerId),
  };
  const waits: (() => void)[] = [];
  const ports = inMemoryPorts({
    custody,
    waitForMail: async () => {
      waits.shift()?.();
      await pause(20);
    },
  });
  const key = new Uint8Array(32);
  const of = { custody: "server", status: "active", createdAt: 0, identityKey: key, accessKey: key } as const;
  ports.agents.set(agentId, { agentId, ...of });
  let afterSeq = 0;
  return {
    ports,
    /** Called one by one when a call begins to wait. */
    waits,
    read: async (waitMs = 0) => {
      const input = { afterSeq, limit: 100, waitMs, signal: new AbortController().signal };
      const opened = await openMessages(ports, { agentId }, input);
      afterSeq = opened.cursor;
      return opened;
    },
    /** The items whose end the log was told. */
    ends: () =>
      ports.appended
        .filter(({ topic }) => topic.name === "message.receipt.v1")
        .flatMap(({ value }) => (value as MessageReceipt).items)
        .map(({ outcome, itemId }) => [outcome, itemId]),
  };
}

/** A new agent in whose mailbox a message of the protocol waits: the answer to its rekey request; its id. */
async function rekeyed(): Promise<{ readonly alice: string; readonly messageId: string }> {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  const texts = Array.from({ length: 12 }, (_, n) => `${n}`);
  await stage.deliver(await stage.step(await stage.commands(alice, bob, texts)));
  const [rekey] = (await stage.open(bob)).rekeys;
  if (rekey === undefined) throw new Error("nobody asked for a rekey");
  const answer = await stage.step([stage.rekey(bob, alice, rekey.sessionId)]);
  await stage.deliver(answer);
  const [{ messageId } = { messageId: "" }] = envelopesOf(answer);
  return { alice, messageId };
}

test("a message of the protocol that is opened while Kafka is away ends when Kafka is back, though its reader's cursor has passed it", async () => {
  const { alice, messageId } = await rekeyed();
  const { ports, read, ends } = reader(alice);
  ports.away.add("kafka");
  expect(await read()).toMatchObject({ messages: [], cursor: 1, lastSeq: 1 });
  expect(ends()).toEqual([]);
  ports.away.clear();
  expect(await read()).toMatchObject({ messages: [], cursor: 1, lastSeq: 1 });
  expect(ends()).toEqual([["acknowledged", messageId]]);
});

test("a call that waits for mail does not wait with what Kafka did not take: it ends soon after Kafka is back", async () => {
  const { alice, messageId } = await rekeyed();
  const { ports, read, ends, waits } = reader(alice);
  ports.away.add("kafka");
  const endsAtWaits: number[] = [];
  const look = () => endsAtWaits.push(ends().length);
  waits.push(look, () => ports.away.clear(), look, look);
  expect(await read(500)).toMatchObject({ messages: [], cursor: 1 });
  expect(endsAtWaits).toEqual([0, 1, 1]);
  expect(ends()[0]).toEqual(["acknowledged", messageId]);
});
