/** What is particular to each operation: whose things it might show or change, and whose patience it might abuse. */
import type { Own } from "./matrix.ts";

const ownOnly = [
  "nothing of others is shown, and nothing of theirs is changed",
  "a chain of the victim's that holds: it shows and changes nothing of the victim's",
  "another agent named beside the call, in headers or the query",
] as const;

const reads = "it reads what the caller has already: there is no flow that others would miss";
const contactChanges = ["one agent answers and ends contacts without end"] as const;
const oneAnswer = "it answers the caller about the caller, and asks nothing of others";
const operatorsOwn = "operators act on every agent: what it takes is the token (API2, API5)";
const operatorsFlow = "operators may do it as often as they like";
const probe = "it is for probes and readers of documents, and has no objects";
const nothingToAbuse = "it starts nothing";
const heldKey = "an agent of server custody is spoken for by the key that it was given" as const;
const custody = ["an agent of the other custody"] as const;

const closed = "a recipient that has blocked the caller, or lets only its own in" as const;
const policyFlow = ["one agent changes its policy and lists without end"] as const;
const contactOfOthers = [
  ownOnly[0],
  ownOnly[1],
  "a request that others made to each other",
  "the caller's own request is answered by itself",
] as const;

const provider = ["its provider answers nonsense, redirects, or points into the network"] as const;
const ofOwners = "an agent of another owner, or of none" as const;
const ownersFlow = "an owner decides about its own agents only, and the same again changes nothing";

const open: Own = { API1: probe, API6: nothingToAbuse };
const byOperators: Own = { API1: operatorsOwn, API6: operatorsFlow };

export const own: Readonly<Record<string, Own>> = {
  registerAgent: {
    API1: ["somebody else's key is registered", "an agent is registered again to change what it is"],
    API6: ["an address registers agents without end"],
    API10: provider,
  },
  uploadPrekeys: {
    API1: [...ownOnly, "prekeys that another identity has signed (a substituted key)"],
    API5: custody,
    API6: ["one agent uploads prekeys without end"],
  },
  ownPrekeys: { API1: ownOnly, API6: reads },
  claimBundle: {
    API1: ["another claimer's key of idempotency", closed],
    API6: ["one agent claims another's bundles without end", "one agent drains another's one-time prekeys"],
  },
  claimBundleByPost: {
    API1: ["another claimer's key of idempotency", closed],
    API6: ["one agent claims another's bundles without end", "one agent drains another's one-time prekeys"],
  },
  send: {
    API1: [
      "a sender who is somebody else",
      "a message is sent under an id that the caller used for other bytes",
      closed,
    ],
    API6: ["one agent sends without end, or to one other"],
  },
  ingressKey: { API1: [...ownOnly, heldKey], API5: custody, API6: reads },
  sendMessages: {
    API1: ["a sender named in the message", heldKey, closed],
    API5: custody,
    API6: ["one agent sends without end, or to one other"],
  },
  openMessages: { API1: [...ownOnly, heldKey], API5: custody, API6: reads },
  beginSession: {
    API1: [...ownOnly, heldKey, closed],
    API5: custody,
    API6: "one session a pair: again answers the one there is; the peer's bundle is claimed under the same bounds",
  },
  receive: { API1: ownOnly, API6: reads },
  acknowledge: { API1: [...ownOnly, "items of another's mailbox"], API6: oneAnswer },
  events: { API1: ownOnly, API6: "an agent has one stream: the newest ends the one before" },
  messageStatus: { API1: [...ownOnly, "the status of a message between others"], API6: reads },
  messageStatuses: { API1: [...ownOnly, "the statuses of messages between others"], API6: reads },
  requestRetry: {
    API1: ["a retry of what somebody else got", closed],
    API6: ["one agent asks another for retries without end"],
  },
  sentSessions: { API1: ownOnly, API6: reads },
  pairSessions: { API1: [...ownOnly, "the sessions of others with the peer"], API6: reads },
  putDevice: {
    API1: [...ownOnly, "a device of another"],
    API6: ["one agent registers devices without end"],
    API7: ["webhooks at places inside the network, in every spelling"],
  },
  deleteDevice: { API1: [...ownOnly, "a device of another"], API6: oneAnswer },
  listDevices: { API1: ownOnly, API6: reads },
  ownUsage: { API1: ownOnly, API6: reads },
  getPolicy: { API1: ownOnly, API6: reads },
  putPolicy: { API1: ownOnly, API6: policyFlow },
  listedAgents: { API1: ownOnly, API6: reads },
  listAgent: { API1: ownOnly, API6: policyFlow },
  unlistAgent: { API1: ownOnly, API6: policyFlow },
  listContacts: { API1: ownOnly, API6: reads },
  requestContact: {
    API1: [...ownOnly, "whoever was blocked asks to become a contact"],
    API6: ["one agent asks for contacts without end"],
  },
  acceptContact: { API1: contactOfOthers, API6: contactChanges },
  declineContact: { API1: contactOfOthers, API6: contactChanges },
  removeContact: { API1: [...ownOnly, "a contact between others"], API6: contactChanges },
  revokeDelegation: {
    API1: [...ownOnly, "a delegation that another issued"],
    API6: ["one agent revokes delegations without end"],
  },
  putSigningKey: {
    API1: [
      ...ownOnly,
      "a certificate of another agent, of another key, or none",
      "a key that another agent has",
      "a signing key certifies another",
    ],
    API6: ["one agent adds signing keys without end"],
  },
  deleteSigningKey: { API1: [...ownOnly, "a signing key of another agent is removed"], API6: oneAnswer },
  listSigningKeys: { API1: ownOnly, API6: reads },
  listOwnAgents: { API1: ["agents of other owners in the list"], API6: reads, API10: provider },
  suspendOwnAgent: { API1: [ofOwners, "a revoked agent is brought back"], API6: ownersFlow, API10: provider },
  resumeOwnAgent: { API1: [ofOwners, "a revoked agent is brought back"], API6: ownersFlow, API10: provider },
  revokeOwnAgent: { API1: [ofOwners], API6: ownersFlow, API10: provider },
  stream: {
    API1: "without an upgrade it answers nothing; the stream's own attacks: owasp.test.ts beside it",
    API6: nothingToAbuse,
  },
  live: open,
  ready: open,
  metrics: open,
  openapi: open,
  listAgents: byOperators,
  suspendAgent: byOperators,
  resumeAgent: byOperators,
  revokeAgent: byOperators,
  auditCheckpoint: byOperators,
  auditKey: byOperators,
  auditInclusion: byOperators,
  auditConsistency: byOperators,
  recordAuditReplay: byOperators,
  rotateAgent: byOperators,
  listStuck: byOperators,
  retryStuck: byOperators,
  deleteStuck: byOperators,
  listDeadLetters: byOperators,
  replayDeadLetters: byOperators,
  usageOfAgent: byOperators,
  usageOfHour: byOperators,
  "openapi (operators)": byOperators,
};
