/** For every call of agents one that is taken: what attacks change one thing of. */
import { randomUUID } from "node:crypto";
import { encodeBase64Url } from "../../protocol/base64url.ts";
import { makeMessageId } from "../../protocol/message-id.ts";
import {
  createKemPrekey,
  createSignedPrekey,
  oneTimePrekeyToJson,
  signedPrekeyToJson,
} from "../../protocol/prekeys.ts";
import { nodePrimitives, nodeRandom } from "../../protocol/primitives/node.ts";
import { makeRetryRequest, retryRequestToJson } from "../../protocol/retry-request.ts";
import { jsonOf, someEnvelope } from "../in-memory-service.ts";
import { certified } from "../owners.ts";
import { newIdentity } from "../signing.ts";
import type { Ask, Signer, World } from "./world.ts";

export type Example = (world: World) => Ask;

const get =
  (path: (world: World) => string): Example =>
  (world) => ({ method: "GET", path: path(world), as: world.caller });

const post =
  (path: (world: World) => string, body?: (world: World) => unknown): Example =>
  (world) => ({
    ...{ method: "POST", path: path(world), as: world.caller },
    ...(body === undefined ? {} : { body: body(world) }),
  });

/** By an agent whose keys the service holds. */
const byHeld =
  (example: Example): Example =>
  (world) => ({ ...example(world), as: world.held });

const open =
  (path: string): Example =>
  () => ({ method: "GET", path, as: null });

export function keyOf({ identity }: Pick<Signer, "identity">): string {
  return encodeBase64Url(identity.signing.publicKey);
}

const birth = () => ({ id: randomUUID(), now: Date.now(), random: nodeRandom });

/** Prekeys as their owner publishes them. */
export function uploadOf({ identity }: Signer): Record<string, unknown> {
  return {
    signed_prekey: signedPrekeyToJson(createSignedPrekey(nodePrimitives, identity, birth()).prekey),
    kem_prekeys: [
      signedPrekeyToJson(createKemPrekey(nodePrimitives, identity, { ...birth(), lastResort: false }).prekey),
    ],
    one_time_prekeys: [oneTimePrekeyToJson({ id: randomUUID(), publicKey: nodeRandom(32) })],
  };
}

/** The asker got the message, or says so. */
export function retryOf(asker: Signer, sender: Signer, messageId: string): Record<string, unknown> {
  const failed = { senderId: sender.keyid, recipientId: asker.keyid, messageId };
  const parts = { sessionId: nodeRandom(16), dhPublicKey: nodeRandom(32) };
  const retry = makeRetryRequest(nodePrimitives, asker.identity, { ...failed, ...parts }, Date.now());
  return { item_id: makeMessageId(Date.now(), nodeRandom), retry: retryRequestToJson(retry) };
}

export const agentExamples: Readonly<Record<string, Example>> = {
  registerAgent: () => {
    const identity = newIdentity();
    const as = { identity, keyid: identity.agentId };
    return { method: "POST", path: "/messaging/agents", as, body: { identity_key: keyOf(as) } };
  },
  uploadPrekeys: post(
    () => "/messaging/upload-prekeys",
    ({ caller }) => uploadOf(caller),
  ),
  ownPrekeys: get(() => "/messaging/prekeys"),
  claimBundle: get(({ victim }) => `/messaging/prekeys/${victim.keyid}`),
  claimBundleByPost: post(({ victim }) => `/messaging/prekeys/${victim.keyid}`),
  send: post(
    () => "/messaging/send",
    ({ caller, victim }) => ({ envelopes: [jsonOf(someEnvelope(caller.keyid, victim.keyid))] }),
  ),
  ingressKey: byHeld(get(() => "/messaging/ingress-key")),
  sendMessages: byHeld(
    post(
      () => "/messaging/messages",
      ({ victim }) => ({
        messages: [
          {
            ...{ message_id: makeMessageId(Date.now(), nodeRandom), recipient_id: victim.keyid },
            ...{ content_type: "text/plain", body: "aGVsbG8" },
          },
        ],
      }),
    ),
  ),
  openMessages: byHeld(
    post(
      () => "/messaging/open",
      () => ({ limit: 10 }),
    ),
  ),
  beginSession: byHeld(
    post(
      () => "/messaging/sessions",
      ({ victim }) => ({ peer_id: victim.keyid }),
    ),
  ),
  receive: get(() => "/messaging/receive?limit=10"),
  acknowledge: post(
    () => "/messaging/acknowledge",
    ({ its: { mail } }) => ({ items: [{ sender_id: mail.caller.senderId, message_id: mail.caller.itemId }] }),
  ),
  events: get(() => "/messaging/events"),
  messageStatus: get(({ its }) => `/messaging/messages/${its.messages.sent}`),
  messageStatuses: post(
    () => "/messaging/messages/status",
    ({ its, victim }) => ({
      messages: [{ message_id: its.messages.sent }, { message_id: its.messages.received, sender_id: victim.keyid }],
    }),
  ),
  requestRetry: post(
    () => "/messaging/retry-requests",
    ({ its, caller, victim }) => retryOf(caller, victim, its.messages.received),
  ),
  sentSessions: get(() => "/messaging/sessions"),
  pairSessions: get(({ victim }) => `/messaging/sessions/${victim.keyid}`),
  putDevice: ({ caller }) => ({
    ...{ method: "PUT", path: `/messaging/devices/${randomUUID()}`, as: caller },
    body: { kind: "webhook", url: "https://agent.example.com/wake" },
  }),
  deleteDevice: ({ caller, its }) => ({
    ...{ method: "DELETE", path: `/messaging/devices/${its.devices.caller.deviceId}`, as: caller },
  }),
  listDevices: get(() => "/messaging/devices"),
  ownUsage: get(({ its }) => `/messaging/usage?from=${new Date(its.hour).toISOString()}`),
  getPolicy: get(() => "/messaging/policy"),
  putPolicy: ({ caller }) => ({
    ...{ method: "PUT", path: "/messaging/policy", as: caller, body: { policy: "contacts" } },
  }),
  listedAgents: get(() => "/messaging/policy/allow"),
  listAgent: ({ caller, victim }) => ({
    ...{ method: "PUT", path: `/messaging/policy/block/${victim.keyid}`, as: caller },
  }),
  unlistAgent: ({ caller, its }) => ({
    ...{ method: "DELETE", path: `/messaging/policy/allow/${its.listed}`, as: caller },
  }),
  listContacts: get(() => "/messaging/contacts?state=pending"),
  requestContact: post(({ heldVictim }) => `/messaging/contacts/${heldVictim.keyid}`),
  acceptContact: post(({ victim }) => `/messaging/contacts/${victim.keyid}/accept`),
  declineContact: post(({ victim }) => `/messaging/contacts/${victim.keyid}/decline`),
  removeContact: ({ caller, victim }) => ({
    ...{ method: "DELETE", path: `/messaging/contacts/${victim.keyid}`, as: caller },
  }),
  revokeDelegation: post(() => `/messaging/delegations/${randomUUID()}/revoke`),
  putSigningKey: ({ caller }) => {
    const worker = newIdentity();
    const path = `/messaging/signing-keys/${worker.agentId}`;
    return { method: "PUT", path, as: caller, body: certified(caller.identity, worker) };
  },
  deleteSigningKey: ({ caller, its }) => ({
    ...{ method: "DELETE", path: `/messaging/signing-keys/${its.keys.caller.keyId}`, as: caller },
  }),
  listSigningKeys: get(() => "/messaging/signing-keys"),
  stream: open("/messaging/stream"),
  live: open("/healthz"),
  ready: open("/readyz"),
  metrics: open("/metrics"),
  openapi: open("/openapi.json"),
};
