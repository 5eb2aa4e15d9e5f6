import { randomBytes, randomUUID } from "node:crypto";
import pino from "pino";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { AgentChanged } from "../schemas/values.ts";
import { changeStatus } from "../store/agent-status.ts";
import { findAgents } from "../store/agents.ts";
import { isRevoked } from "../store/delegations.ts";
import { findDecisions } from "../store/permissions.ts";
import type { Postgres } from "../store/postgres.ts";
import { findSigningKey, putSigningKey } from "../store/signing-keys.ts";
import { agentChanged } from "../streams/catalogue.ts";
import { type Codec, openCodec } from "../streams/codec.ts";
import { toOutgoing } from "../streams/headers.ts";
import { type KafkaDoor, openKafka } from "../streams/kafka.ts";
import { openProducer, type Producer } from "../streams/producer.ts";
import { applyTopics } from "../streams/topics.ts";
import { openSampleDatabase, sampleAgentId } from "../tests/messaging.ts";
import { useStack } from "../tests/stack.ts";
import { insertAgents } from "../tests/stocked-agents.ts";
import { recoverDecisions } from "./decision-recovery.ts";

const log = pino({ level: "silent" });
const now = 1_800_000_000_000;
let kafka: KafkaDoor;
let producer: Producer;
let codec: Codec;
/** As it was at the backup. */
let restored: Postgres;

beforeAll(async () => {
  kafka = openKafka({ brokers: useStack().kafkaBrokers, clientId: "decision-recovery-test", log });
  producer = openProducer({ kafka, log });
  codec = await openCodec({ registryUrl: useStack().registryUrl, register: true });
  restored = await openSampleDatabase(2);
  await applyTopics(kafka, { partitions: 3, topics: [agentChanged] });
});
afterAll(async () => {
  await producer.close();
  await kafka.close();
  await restored.close();
});

type Told = Pick<AgentChanged, "agentId" | "change"> & Partial<AgentChanged>;

function fact(told: Told): AgentChanged {
  return { eventId: randomUUID(), custody: "agent", changedAt: now, ...told };
}

function publish(facts: readonly AgentChanged[]): Promise<void> {
  const source = "/sealpost/api";
  return producer.append(
    facts.map((value) => {
      const { eventId: id, agentId: key, changedAt: time } = value;
      return toOutgoing(codec, { topic: agentChanged, key, id, source, time, subject: key, value });
    }),
  );
}

test("what was decided about agents since the backup holds again, the last of each kind, also when facts were published twice", async () => {
  const [alice, bob, carol, dave] = Array.from({ length: 4 }, sampleAgentId) as [string, string, string, string];
  const agents = [alice, bob, carol, dave].map((agentId) => ({ agentId, identityKey: randomBytes(32) }));
  await insertAgents(restored, agents, "agent", now);
  const [known, unknown, tokenId] = [sampleAgentId(), sampleAgentId(), randomUUID()];
  const makeFact = ({ agentId }: { agentId: string }) => {
    return { id: randomUUID(), topic: agentChanged.name, key: agentId, value: Uint8Array.of(1), headers: {} };
  };
  const key = { agentId: alice, publicKey: randomBytes(32), certificate: randomBytes(64), notAfter: now + 9_000_000 };
  await putSigningKey(restored, makeFact, { ...key, keyId: known }, now);

  const resumed = fact({ agentId: bob, change: "resumed", actor: "operator" });
  const facts = [
    fact({ agentId: alice, change: "suspended", actor: "operator" }),
    fact({ agentId: alice, change: "signing-key-removed", keyId: known }),
    fact({ agentId: alice, change: "signing-key-removed", keyId: unknown }),
    fact({ agentId: alice, change: "delegation-revoked", tokenId }),
    resumed,
    fact({ agentId: bob, change: "suspended", actor: "owner:https://acme.example#7" }),
    fact({ agentId: carol, change: "revoked" }),
    fact({ agentId: dave, change: "policy-changed", reason: "allow-list" }),
    fact({ agentId: dave, change: "policy-changed", reason: "allowed", peerId: alice }),
    fact({ agentId: dave, change: "policy-changed", reason: "allowed", peerId: bob }),
    fact({ agentId: dave, change: "policy-changed", reason: "not-allowed", peerId: bob }),
    fact({ agentId: dave, change: "blocked", peerId: carol }),
  ];
  await publish(facts);
  // The relay of the database that was put back says once more what it does not know to be said.
  await publish([resumed]);

  for (let times = 0; times < 2; times++) {
    expect(await recoverDecisions({ kafka, codec, postgres: restored })).toBeGreaterThanOrEqual(facts.length);
    const found = await findAgents(restored, [alice, bob, carol]);
    expect([alice, bob, carol].map((id) => found.get(id)?.status)).toEqual(["suspended", "suspended", "revoked"]);
    for (const keyId of [known, unknown]) expect(await findSigningKey(restored, keyId, now)).toBe("ended");
    expect(await isRevoked(restored, [{ issuerId: alice, tokenId }])).toBe(true);
    const asks = [alice, bob, carol].map((id) => ({ senderId: id, recipientId: dave, principalId: id }));
    const rules = (await findDecisions(restored, asks)).map((decision) =>
      decision.allowed ? "allowed" : decision.rule,
    );
    expect(rules).toEqual(["allowed", "not-on-allow-list", "blocked"]);
  }
  const resume = { owner: null, to: "active", actor: "operator", reason: null } as const;
  const byOwner = { ...resume, owner: { issuer: "https://acme.example", subject: "7" }, actor: "owner" };
  // No owner of alice's is known here, so nobody but an operator may.
  expect(await changeStatus(restored, makeFact, { agentId: alice, ...byOwner }, now)).toBeNull();
  await expect(changeStatus(restored, makeFact, { agentId: carol, ...resume }, now)).rejects.toMatchObject({
    code: "agent-revoked",
  });
});
