import { afterAll, beforeAll, expect, test } from "vitest";
import type { MessageSend } from "../../schemas/values.ts";
import { type DiscardedCommand, findDiscarded } from "../../store/custody/discarded.ts";
import { findMessages } from "../../store/messages.ts";
import type { Inbound } from "../../streams/consumer.ts";
import { type CustodyStage, discardedCodes, openCustodyStage } from "../../tests/custody-stage.ts";
import { inStep } from "../../tests/messaging.ts";

let stage: CustodyStage;
beforeAll(async () => {
  stage = await openCustodyStage();
});
afterAll(() => stage.close());

const keysOf = (records: readonly Inbound<MessageSend>[]) =>
  records.map(({ value: { senderId, messageId } }) => ({ senderId, messageId }));

function discarded(...records: readonly Inbound<MessageSend>[]): Promise<readonly DiscardedCommand[]> {
  return findDiscarded(stage.postgres, keysOf(records));
}

function rowOf({ value, timestamp }: Inbound<MessageSend>, code: string): DiscardedCommand {
  const { senderId, messageId, recipientId } = value;
  return { senderId, messageId, recipientId, code, discardedAt: timestamp };
}

const list = (agentId: string, peerId: string) =>
  stage.postgres.query({
    text: "INSERT INTO messaging_policy_lists (agent_id, list, peer_id, added_at) VALUES ($1, 'block', $2, 1)",
    values: [agentId, peerId],
  });

const unlist = (agentId: string, peerId: string) =>
  stage.postgres.query({
    text: "DELETE FROM messaging_policy_lists WHERE agent_id = $1 AND peer_id = $2",
    values: [agentId, peerId],
  });

test("why a command was not encrypted is kept under the code of its receipt; a step that is done again keeps it once", async () => {
  const [alice, bob, carol] = [await stage.agent(), await stage.agent(), await stage.agent()];
  const nobody = await stage.agent({ prekeys: false });
  await list(bob, alice);
  const unwanted = await stage.command(alice, bob, "unwanted");
  const unreachable = await stage.command(alice, nobody, "hello");
  const odd = await stage.sealed(alice, carol, new Uint8Array(16));
  const wanted = await stage.command(alice, carol, "hello");
  const batch = [unwanted, unreachable, odd, wanted];
  const emits = await stage.step(batch);
  expect(discardedCodes(emits)).toEqual(["not-allowed", "prekeys-unavailable", "malformed"]);
  const rows = [rowOf(unwanted, "blocked"), rowOf(unreachable, "prekeys-unavailable"), rowOf(odd, "malformed")];
  const byId = (all: readonly DiscardedCommand[]) => all.toSorted((a, b) => a.messageId.localeCompare(b.messageId));
  expect(byId(await discarded(...batch))).toEqual(byId(rows));

  expect(discardedCodes(await stage.step(batch))).toEqual(discardedCodes(emits));
  expect(byId(await discarded(...batch))).toEqual(byId(rows));
  const { rows: stored } = await stage.postgres.query({
    text: "SELECT FROM messaging_discarded WHERE sender_id = $1",
    values: [alice],
  });
  expect(stored).toHaveLength(3);
});

test("the same id again is judged anew: once it may be sent it is encrypted, and nothing says that it was discarded", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  const first = await stage.command(alice, bob, "hello");
  await list(bob, alice);
  await stage.step([first]);
  expect(await discarded(first)).toEqual([rowOf(first, "blocked")]);
  await unlist(bob, alice);
  const again = await stage.command(alice, bob, "hello", first.value.messageId);
  const emits = await stage.step([again]);
  expect(discardedCodes(emits)).toEqual([]);
  // Encrypted, and not in the mailbox yet.
  expect(await discarded(first)).toEqual([]);
  await stage.deliver(emits);
  expect(await findMessages(stage.postgres, keysOf([first]))).toMatchObject([{ status: "queued", code: null }]);
  // The first record again, as after a restore: it was encrypted under its id, and the row from before stays without a say.
  await list(bob, alice);
  expect(discardedCodes(await stage.step([first]))).toEqual([]);
  expect(await discarded(first)).toEqual([]);
});

test("of an id that is discarded twice the later counts, also within a step; other content under a used id leaves nothing", async () => {
  const [alice, bob, nobody] = [await stage.agent(), await stage.agent(), await stage.agent({ prekeys: false })];
  const first = await stage.command(alice, nobody, "hello");
  const [second, third] = [1, 2].map((ms) => ({ ...first, timestamp: first.timestamp + ms })) as [
    Inbound<MessageSend>,
    Inbound<MessageSend>,
  ];
  await stage.step([first, second]);
  expect(await discarded(first)).toEqual([rowOf(second, "prekeys-unavailable")]);
  await list(nobody, alice);
  await stage.step([third]);
  expect(await discarded(first)).toEqual([rowOf(third, "blocked")]);
  // Read again: what is later stands.
  await unlist(nobody, alice);
  await stage.step([first]);
  expect(await discarded(first)).toEqual([rowOf(third, "blocked")]);

  const said = await stage.command(alice, bob, "said");
  const reused = await stage.command(alice, bob, "said differently", said.value.messageId);
  expect(discardedCodes(await stage.step([said, reused]))).toEqual(["id-reused"]);
  expect(await discarded(said)).toEqual([]);
});

test("what became a dead letter is kept with its code", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  const lost = await stage.command(alice, bob, "hello");
  const { key, partition, offset, timestamp } = lost;
  const headers = { ce_subject: `${alice}/${lost.value.messageId}` };
  const letters = [
    { record: { topic: lost.topic.name, partition, offset, key, headers, timestamp }, code: "epoch-gone" },
  ];
  await inStep(stage.postgres, (tx) => stage.consumer.bury?.(letters, tx) ?? Promise.reject(new Error("not buried")));
  expect(await discarded(lost)).toEqual([rowOf(lost, "epoch-gone")]);
  // An operator puts it back: it is judged anew.
  await stage.step([lost]);
  expect(await discarded(lost)).toEqual([]);
});
