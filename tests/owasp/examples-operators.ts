/** For every call of owners and of operators one that is taken. */
import { signCheckpoint } from "../../protocol/audit/checkpoint.ts";
import { hashLeaf, rootOf } from "../../protocol/audit/merkle.ts";
import { formatVerifierKey, verifierOf } from "../../protocol/audit/note.ts";
import { nodePrimitives } from "../../protocol/primitives/node.ts";
import type { Example } from "./examples-agents.ts";
import { managing } from "./owner-tokens.ts";
import type { Signer, World } from "./world.ts";

const TOPIC = "message.encrypted.v1";

function ops(method: string, path: (world: World) => string, body?: (world: World) => unknown): Example {
  return (world) => ({
    ...{ method, path: path(world), as: { bearer: world.service.ports.opsToken ?? "" } },
    ...(body === undefined ? {} : { body: body(world) }),
  });
}

/** One of the victim's messages that is stuck, laid there by the example. */
function stuckItem({ service, its, victim }: World) {
  const { senderId, itemId } = its.mail.victim;
  const name = { recipientId: victim.keyid, senderId, itemId };
  service.ports.operators.stuck.push({ ...name, kind: "message", seq: 1, since: 1, state: "set-aside" });
  return { recipient_id: victim.keyid, sender_id: senderId, item_id: itemId };
}

function deadLetter({ service }: World) {
  const place = { partition: 1, offset: 4 };
  service.ports.operators.letters.push({
    ...{ topic: TOPIC, ...place, at: 2, code: "undecodable", group: "queuing", id: "id-4", subject: null },
    ...{ origin: { partition: 1, offset: 9, at: 1 }, valueBytes: 3 },
    record: { topic: TOPIC, key: Buffer.from("key"), value: Buffer.from([0, 1]), headers: { ce_id: "id-4" } },
  });
  return { topic: TOPIC, ...place };
}

/** The caller's owner about the caller. */
function asOwner(method: string, path: (world: World) => string, body?: unknown): Example {
  const as = () => ({ bearer: managing("team-1") });
  return (world) => ({ method, path: path(world), as: as(), ...(body === undefined ? {} : { body }) });
}

const because = { reason: "because" };

/** Those who are suspended are resumed. */
function suspended(example: Example, who: (world: World) => Signer): Example {
  return (world) => {
    const { agents } = world.service.ports;
    const agent = agents.get(who(world).keyid);
    if (agent?.status === "active") agents.set(agent.agentId, { ...agent, status: "suspended" });
    return example(world);
  };
}

const logKey = (() => {
  const privateKey = new Uint8Array(32).fill(7);
  return { privateKey, publicKey: nodePrimitives.ed25519PublicKey(privateKey) };
})();
const log = verifierOf(nodePrimitives, "log.example/audit", logKey.publicKey);
const leafHashes = [0, 1, 2, 3].map((n) => hashLeaf(nodePrimitives, Uint8Array.of(n)));

/** Of a log of four records with checkpoints of three and four. */
function audited(path: string): Example {
  const example = ops("GET", () => path);
  return (world) => {
    const { operators } = world.service.ports;
    if (operators.leafHashes.length > 0) return example(world);
    operators.leafHashes.push(...leafHashes);
    for (const size of [4, 3]) {
      const root = rootOf(nodePrimitives, leafHashes.slice(0, size));
      const note = signCheckpoint(nodePrimitives, logKey, { origin: log.name, size, root });
      operators.checkpoints.push({ size, root, note, verifierKey: formatVerifierKey(log), signedAt: size });
    }
    return example(world);
  };
}

export const ownerExamples: Readonly<Record<string, Example>> = {
  listOwnAgents: asOwner("GET", () => "/owners/agents?limit=10"),
  suspendOwnAgent: asOwner("POST", ({ caller }) => `/owners/agents/${caller.keyid}/suspend`, because),
  resumeOwnAgent: suspended(
    asOwner("POST", ({ caller }) => `/owners/agents/${caller.keyid}/resume`, because),
    ({ caller }) => caller,
  ),
  revokeOwnAgent: asOwner("POST", ({ caller }) => `/owners/agents/${caller.keyid}/revoke`, because),
};

export const operatorExamples: Readonly<Record<string, Example>> = {
  listAgents: ops("GET", () => "/ops/agents?limit=10"),
  suspendAgent: ops(
    "POST",
    ({ victim }) => `/ops/agents/${victim.keyid}/suspend`,
    () => because,
  ),
  resumeAgent: suspended(
    ops(
      "POST",
      ({ victim }) => `/ops/agents/${victim.keyid}/resume`,
      () => because,
    ),
    ({ victim }) => victim,
  ),
  revokeAgent: ops(
    "POST",
    ({ victim }) => `/ops/agents/${victim.keyid}/revoke`,
    () => because,
  ),
  auditCheckpoint: audited("/ops/audit/checkpoint"),
  auditKey: audited("/ops/audit/key"),
  auditInclusion: audited("/ops/audit/inclusion?index=1"),
  auditConsistency: audited("/ops/audit/consistency?from=3"),
  recordAuditReplay: ops(
    "POST",
    () => "/ops/audit/replays",
    ({ victim }) => ({
      ...{ state: "begun", from: "2026-08-01T00:00:00.000Z", to: "2026-09-01T00:00:00.000Z", format: "jsonl" },
      ...{ agents: [victim.keyid], actions: ["message.*"] },
    }),
  ),
  rotateAgent: ops("POST", ({ victim }) => `/ops/agents/${victim.keyid}/rotate`),
  listStuck: ops("GET", () => "/ops/messages?state=set-aside&limit=10"),
  retryStuck: ops(
    "POST",
    () => "/ops/messages/retry",
    (world) => ({ items: [stuckItem(world)] }),
  ),
  deleteStuck: ops(
    "POST",
    () => "/ops/messages/delete",
    (world) => ({ items: [stuckItem(world)], reason: "recipient-gone" }),
  ),
  listDeadLetters: ops("GET", () => `/ops/dead-letters?topic=${TOPIC}&limit=10`),
  replayDeadLetters: ops("POST", () => "/ops/dead-letters/replay", deadLetter),
  usageOfAgent: ops("GET", ({ victim }) => `/ops/agents/${victim.keyid}/usage?granularity=hour`),
  usageOfHour: ops("GET", ({ its }) => `/ops/usage?hour=${new Date(its.hour).toISOString()}`),
  "openapi (operators)": ops("GET", () => "/openapi.json"),
};
