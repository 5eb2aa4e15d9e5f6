/**
 * Keys of agents held in memory, for attacks: it seals nothing and opens what stands in the mailboxes, for what matters is who may ask for what.
 */
import type { CustodyDoor } from "../../api/operations/custody.ts";
import { decodeEnvelope } from "../../protocol/envelope.ts";
import { nodePrimitives, nodeRandom } from "../../protocol/primitives/node.ts";
import { generateX25519 } from "../../protocol/primitives/primitives.ts";
import type { InMemoryService } from "../in-memory-service.ts";
import { newIdentity } from "../signing.ts";

/** @param service what it holds keys for, once it is there */
export function custodyDoor(service: () => InMemoryService): CustodyDoor {
  const epoch = 20_000;
  const { publicKey } = generateX25519(nodePrimitives, nodeRandom);
  const mailboxOf = (agentId: string) => service().ports.mailboxes.get(agentId) ?? [];
  return {
    inTurn: (_accessKey, work) => work(),
    makeIdentity: () => ({ identity: newIdentity(), sealed: Uint8Array.of(1) }),
    destroy: () => undefined,
    findAgentOfAccessKey: async (accessKey) => {
      const agents = [...service().ports.agents.values()];
      return agents.find((agent) => Buffer.compare(agent.accessKey ?? new Uint8Array(), accessKey) === 0) ?? null;
    },
    publishPrekeys: async () => undefined,
    requireKeys: () => undefined,
    ingressKey: () => ({ epoch, publicKey }),
    isEpochAccepted: (number) => number === epoch,
    sealContent: async () => Uint8Array.of(2),
    openMailbox: async (recipientId, { afterSeq, limit }) => {
      const items = mailboxOf(recipientId).filter(({ seq }) => seq > afterSeq);
      return {
        messages: items.slice(0, limit).map(({ seq, senderId, itemId, body }) => ({
          ...{ seq, senderId, messageId: itemId, contentType: "text/plain" },
          ...{ body: decodeEnvelope(body).ciphertext, sentAt: 0 },
        })),
        ...{ failed: [], handled: [], refused: [], rekeys: [], asks: [] },
        ...{ cursor: items.at(-1)?.seq ?? afterSeq, lastSeq: mailboxOf(recipientId).at(-1)?.seq ?? 0 },
      };
    },
    beginSession: async () => ({
      ...{ sessionId: new Uint8Array(16).fill(7), isNew: true },
      unanswered: { suite: 2, startedAt: 1_700_000_000_000 },
    }),
    takeRequests: async () => ({ due: [], ended: [], afterSeq: null }),
  };
}
