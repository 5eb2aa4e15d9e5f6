import { afterAll, beforeAll, expect, test } from "vitest";
import type { MessageDiscarded, MessageSend } from "../../schemas/values.ts";
import type { Policy } from "../../store/permissions.ts";
import type { PolicyList } from "../../store/policies.ts";
import type { Emit, Inbound } from "../../streams/consumer.ts";
import {
  type CustodyStage,
  encryptedItems,
  endedItems,
  envelopesOf,
  openCustodyStage,
  textsOf,
} from "../../tests/custody-stage.ts";

let stage: CustodyStage;
beforeAll(async () => {
  stage = await openCustodyStage();
});
afterAll(() => stage.close());

const list = (agentId: string, onto: PolicyList, peerId: string) =>
  stage.postgres.query({
    text: "INSERT INTO messaging_policy_lists (agent_id, list, peer_id, added_at) VALUES ($1, $2, $3, 1)",
    values: [agentId, onto, peerId],
  });

const setPolicy = (agentId: string, policy: Policy) =>
  stage.postgres.query({
    text: "INSERT INTO messaging_policies (agent_id, policy, changed_at) VALUES ($1, $2, 1)",
    values: [agentId, policy],
  });

function discarded(emits: readonly Emit[]): [code: string, rule: string | null, senderId: string][] {
  return emits
    .filter(({ topic }) => topic.name === "message.discarded.v1")
    .map((emit) => emit.value("event") as MessageDiscarded)
    .map(({ code, detail, senderId }) => [code, detail, senderId]);
}

async function command(from: string, to: string, text: string): Promise<Inbound<MessageSend>> {
  return stage.command(from, to, text);
}

test("what its recipient has blocked since it was accepted is discarded under its rule, and takes no prekeys and nothing else along", async () => {
  const [alice, bob, carol] = [await stage.agent(), await stage.agent(), await stage.agent()];
  const batch = [
    await command(alice, bob, "unwanted"),
    await command(carol, bob, "one"),
    await command(alice, carol, "two"),
    await command(alice, bob, "unwanted as well"),
  ];
  await list(bob, "block", alice);
  const emits = await stage.step(batch);
  expect(discarded(emits)).toEqual([
    ["not-allowed", "blocked", alice],
    ["not-allowed", "blocked", alice],
  ]);
  const { rows } = await stage.postgres.query<{ claimer_id: string }>({
    text: "SELECT claimer_id FROM messaging_prekey_claims WHERE target_id = $1",
    values: [bob],
  });
  expect(rows.map((row) => row.claimer_id)).toEqual([carol]);
  await stage.deliver(emits);
  expect([textsOf(await stage.open(bob)), textsOf(await stage.open(carol))]).toEqual([["one"], ["two"]]);
});

test.each([
  ["contacts", "contacts-only"],
  ["allow-list", "not-on-allow-list"],
] as const)("a policy of %s keeps strangers away also here: %s", async (policy, rule) => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  await setPolicy(bob, policy);
  expect(discarded(await stage.step([await command(alice, bob, "hello")]))).toEqual([["not-allowed", rule, alice]]);
  await list(bob, "allow", alice);
  const emits = await stage.step([await command(alice, bob, "hello")]);
  expect([discarded(emits), envelopesOf(emits).length]).toEqual([[], 1]);
});

test("a command that speaks for another is decided for both", async () => {
  const [alice, bob, root] = [await stage.agent(), await stage.agent(), await stage.agent()];
  await setPolicy(bob, "allow-list");
  await list(bob, "allow", root);
  const spokenFor = async (text: string) => {
    const said = await command(alice, bob, text);
    const delegation = [
      { issuerId: root, tokenId: "1" },
      { issuerId: alice, tokenId: "2" },
    ];
    return { ...said, value: { ...said.value, delegation } };
  };
  const emits = await stage.step([await spokenFor("for root"), await command(alice, bob, "for itself")]);
  expect([encryptedItems(emits).length, discarded(emits)]).toEqual([1, [["not-allowed", "not-on-allow-list", alice]]]);
  await list(bob, "block", root);
  expect(discarded(await stage.step([await spokenFor("again")]))).toEqual([["not-allowed", "blocked", alice]]);
});

test("mail for a recipient that is suspended waits for it; its block list holds all the same", async () => {
  const [alice, bob, carol] = [await stage.agent(), await stage.agent(), await stage.agent()];
  const status = (to: string) =>
    stage.postgres.query({ text: "UPDATE messaging_agents SET status = $2 WHERE agent_id = $1", values: [bob, to] });
  await list(bob, "block", carol);
  await status("suspended");
  const emits = await stage.step([await command(alice, bob, "meanwhile"), await command(carol, bob, "unwanted")]);
  expect(discarded(emits)).toEqual([["not-allowed", "blocked", carol]]);
  await stage.deliver(emits);
  await status("active");
  expect(textsOf(await stage.open(bob))).toEqual(["meanwhile"]);
});

test.each(["first", "last"])(
  "of two commands of one id that name two recipients each is decided by its own: the blocked one %s",
  async (place) => {
    const [alice, bob, carol] = [await stage.agent(), await stage.agent(), await stage.agent()];
    await list(bob, "block", alice);
    const toBob = await command(alice, bob, "unwanted");
    const sameId = await stage.command(alice, carol, "wanted", toBob.value.messageId);
    const emits = await stage.step(place === "first" ? [toBob, sameId] : [sameId, toBob]);
    expect(encryptedItems(emits).map(({ recipientId }) => recipientId)).toEqual([carol]);
    const code = place === "first" ? "not-allowed" : "id-reused";
    expect(discarded(emits).map(([found]) => found)).toEqual([code]);
  },
);

test("what was encrypted before is published again after its sender was blocked: it was accepted then", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  const said = await command(alice, bob, "said");
  const first = await stage.step([said]);
  await list(bob, "block", alice);
  const again = await stage.step([said]);
  expect(encryptedItems(again).map(({ body }) => Buffer.from(body))).toEqual(
    encryptedItems(first).map(({ body }) => Buffer.from(body)),
  );
  expect(discarded(again)).toEqual([]);
});

test("what did not open is asked for and said anew between two that would not be let in now", async () => {
  const [alice, bob] = [await stage.agent(), await stage.agent()];
  await stage.deliver(await stage.step([await command(alice, bob, "first")]));
  await stage.open(bob);
  await stage.deliver(await stage.step([await command(alice, bob, "lost")]));
  await stage.postgres.query({
    text: "DELETE FROM messaging_sessions WHERE owner_id = $1 AND peer_id = $2",
    values: [bob, alice],
  });
  for (const agentId of [alice, bob]) await setPolicy(agentId, "allow-list");
  const { asks } = await stage.open(bob);
  const asked = await stage.step(asks.map((asking) => stage.asking(bob, asking)));
  expect([encryptedItems(asked).map(({ kind }) => kind), discarded(asked)]).toEqual([["retry"], []]);
  await stage.deliver(asked);
  await stage.end(asked);
  const { due } = await stage.takeRequests(alice);
  const answered = await stage.step(due.map(stage.answering));
  expect([encryptedItems(answered).length, discarded(answered)]).toEqual([1, []]);
  expect(endedItems(answered)).toHaveLength(1);
  await stage.deliver(answered);
  expect(textsOf(await stage.open(bob))).toContain("lost");
});
