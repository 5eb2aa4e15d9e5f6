import fc from "fast-check";
import { expect, test } from "vitest";
import { agentIdOf } from "../protocol/identity.ts";
import { encodeInitiation } from "../protocol/initiation.ts";
import { nodePrimitives } from "../protocol/primitives/node.ts";
import type { AgentChanged } from "../schemas/values.ts";
import { agentChanged, messageEncrypted, prekeyClaimed } from "../streams/catalogue.ts";
import type { Inbound } from "../streams/consumer.ts";
import { alice, BEGIN, bob, carol, encrypted, folded, record } from "../tests/log-life.ts";
import { newIdentity } from "../tests/signing.ts";
import { foldAgents, foldPrekeyClaims } from "./agents.ts";
import { foldSessions } from "./sessions.ts";

const dave = newIdentity();
const signedPrekeyId = "01890a5d-ac96-774b-bcce-b302099a8057";

function initiationBy(identityKey: Uint8Array): Uint8Array {
  const keys = { identityKey, ephemeralKey: new Uint8Array(32).fill(3), signedPrekeyId, oneTimePrekeyId: null };
  return encodeInitiation({ suite: 1, ...keys });
}

const only = (records: readonly Inbound<unknown>[]) => {
  const rows = folded(foldSessions(), records).get("messaging_session_facts");
  expect(rows?.size).toBe(1);
  return rows?.values().next().value?.columns;
};

test("the newest message counts, and only what is newer than all before it", () => {
  const [first, second, late] = [
    encrypted({ madeAt: BEGIN, sendCounter: 1 }, BEGIN + 10),
    encrypted({ madeAt: BEGIN + 5, sendCounter: 2 }, BEGIN + 20),
    encrypted({ madeAt: BEGIN + 1, sendCounter: 3 }, BEGIN + 30),
  ];
  expect(only([first, second, late])).toMatchObject({
    ...{ message_id: second.value.itemId, send_counter: 2, messages: 2, first_at: BEGIN + 10, last_at: BEGIN + 20 },
    ...{ suite: null, initialized_at: null },
  });
  const records = [first, second, late];
  fc.assert(
    fc.property(fc.subarray(records), (repeats) => {
      expect(only([...records, ...repeats])).toEqual(only(records));
    }),
  );
});

test("a session is its first initiator's whose key is its own", () => {
  const foreign = encrypted({ madeAt: BEGIN, sendCounter: 1, initiation: initiationBy(dave.signing.publicKey) }, BEGIN);
  expect(only([foreign])).toMatchObject({ suite: null, signed_prekey_id: null });
  const own = encrypted(
    { madeAt: BEGIN, sendCounter: 1, initiation: initiationBy(dave.signing.publicKey) },
    BEGIN + 1,
    agentIdOf(nodePrimitives, dave.signing.publicKey),
  );
  expect(only([own])).toMatchObject({ suite: 1, signed_prekey_id: signedPrekeyId, initialized_at: BEGIN + 1 });
});

test("what is no envelope of its record is nobody's", () => {
  const message = encrypted({ madeAt: BEGIN, sendCounter: 1 }, BEGIN);
  const wrong = [
    { ...message, key: carol },
    { ...message, value: { ...message.value, senderId: carol } },
    { ...message, value: { ...message.value, body: new Uint8Array(10) } },
    record(messageEncrypted, bob, { ...message.value, kind: "retry" }),
  ];
  expect(folded(foldSessions(), wrong).get("messaging_session_facts")?.size).toBe(0);
});

test("an agent is what was told of it last; a late repeat tells nothing", () => {
  const told = { agentId: alice, custody: "agent" } as const;
  const change = (changed: AgentChanged["change"], changedAt: number, actor: string | null = null) =>
    record(agentChanged, alice, { ...told, eventId: crypto.randomUUID(), change: changed, changedAt, actor });
  const suspended = change("suspended", 3, "operator");
  const records = [
    change("registered", 1),
    change("owner-set", 2, "owner:https://i#s"),
    suspended,
    change("resumed", 4),
    change("policy-changed", 5),
    suspended,
  ];
  const columns = { custody: "agent", status: "active", created_at: 1, owner: "owner:https://i#s", thumbprint: alice };
  expect(folded(foldAgents(), records).get("messaging_agents")).toEqual(new Map([[alice, { since: 1, columns }]]));
  expect(folded(foldAgents(), records.slice(1)).get("messaging_agents")?.size).toBe(0);
});

test("of a claim both one-time prekeys are used", () => {
  const ids = { oneTimePrekeyId: crypto.randomUUID(), kemPrekeyId: crypto.randomUUID() };
  const claim = record(prekeyClaimed, alice, {
    ...{ eventId: crypto.randomUUID(), agentId: alice, claimerId: bob, signedPrekeyId, ...ids, lastResort: false },
    ...{ claimedAt: BEGIN, oneTimePrekeysRemaining: 1, kemPrekeysRemaining: 1 },
  });
  expect(Array.from(folded(foldPrekeyClaims(), [claim, claim]).get("messaging_prekeys")?.keys() ?? [])).toEqual([
    `${alice}/${ids.oneTimePrekeyId}`,
    `${alice}/${ids.kemPrekeyId}`,
  ]);
});
