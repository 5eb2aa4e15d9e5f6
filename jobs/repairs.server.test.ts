import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import { retryRequestToJson } from "../protocol/retry-request.ts";
import type { MessageReceipt, MessageSend } from "../schemas/values.ts";
import { writeCommands } from "../store/custody/commands.ts";
import { openMessageDays } from "../store/message-days.ts";
import type { Postgres } from "../store/postgres.ts";
import { messageReceipt, messageSend } from "../streams/catalogue.ts";
import type { NewEvent } from "../streams/headers.ts";
import { openSampleDatabase, placeAll, sampleAgentId, sampleArrival, sampleItemId } from "../tests/messaging.ts";
import { insertAgents } from "../tests/stocked-agents.ts";
import { answerRequests } from "./repairs.ts";

let postgres: Postgres;
beforeAll(async () => {
  postgres = await openSampleDatabase();
});
afterAll(() => postgres.close());

/** A message that somebody asks its sender for; the item that asks. */
async function asked(senderId: string, options: { readonly kept: boolean }): Promise<string> {
  const [recipientId, messageId] = [sampleAgentId(), sampleItemId()];
  const content = options.kept ? randomBytes(40) : null;
  const nothing = { hmac: randomBytes(32), envelope: randomBytes(90), firstId: null, repairs: 0, delegation: [] };
  await writeCommands(postgres, openMessageDays(postgres), [{ senderId, messageId, content, ...nothing }]);
  const facts = { senderId, recipientId, messageId, sessionId: randomBytes(16), dhPublicKey: randomBytes(32) };
  const request = retryRequestToJson({ ...facts, time: Date.now(), signature: randomBytes(64) });
  const body = Buffer.from(JSON.stringify(request));
  const arrival = sampleArrival({ kind: "retry", recipientId: senderId, senderId: recipientId, body });
  await placeAll(postgres, [arrival]);
  return arrival.itemId;
}

/** What the encryption tier is told to answer, and what is ended at once. */
async function run(now: number): Promise<Record<"answered" | "ended", readonly string[]>> {
  const answered: string[] = [];
  const ended: string[] = [];
  const append = async <Value>(events: readonly NewEvent<Value>[]) => {
    for (const { topic, key, value } of events) {
      if (topic.name === messageSend.name) {
        const { kind, senderId, recipientId, aboutId } = value as MessageSend;
        expect([key, kind]).toEqual([`${senderId}:${recipientId}`, "repair"]);
        answered.push(aboutId ?? "");
      } else {
        const { recipientId, items } = value as MessageReceipt;
        expect([topic.name, key]).toEqual([messageReceipt.name, recipientId]);
        expect(items.every(({ outcome }) => outcome === "acknowledged")).toBe(true);
        ended.push(...items.map(({ itemId }) => itemId));
      }
    }
  };
  await answerRequests({ postgres, append }, now, new AbortController().signal);
  return { answered: answered.toSorted(), ended };
}

test("every minute what waits for agents of server custody is handed on, for nobody else, and what there is nothing to say to is ended", async () => {
  const [held, other, own] = [sampleAgentId(), sampleAgentId(), sampleAgentId()];
  await insertAgents(postgres, [{ agentId: held }, { agentId: other }], "server", 1);
  await insertAgents(postgres, [{ agentId: own }], "agent", 1);
  const items = [
    await asked(held, { kept: true }),
    await asked(held, { kept: true }),
    await asked(other, { kept: true }),
  ].toSorted();
  const ended = await asked(other, { kept: false });
  await asked(own, { kept: true });
  await placeAll(postgres, [sampleArrival({ recipientId: held })]);
  const now = Date.now();
  expect(await run(now)).toEqual({ answered: items, ended: [ended] });
  // Under way.
  expect(await run(now + 1_000)).toEqual({ answered: [], ended: [ended] });
  expect(await run(now + 61_000)).toEqual({ answered: items, ended: [ended] });
});
