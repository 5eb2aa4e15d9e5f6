/** Everything that is served, in the order of the documents: to agents and probes, and on a port of its own to operators. */
import type { Route } from "./route.ts";
import { claimByGet, claimByPost, own, register, upload } from "./routes/agents.ts";
import { auditCheckpoint, auditConsistency, auditInclusion, auditKey } from "./routes/audit.ts";
import { auditReplays } from "./routes/audit-replays.ts";
import { accept, ask, decline, listContacts, remove } from "./routes/contacts.ts";
import { begin, open, sealingKey, sendHeld } from "./routes/custody.ts";
import { deadLetters, replay } from "./routes/dead-letters.ts";
import { revoke } from "./routes/delegations.ts";
import { deleteDevice, listDevices, putDevice } from "./routes/devices.ts";
import { events } from "./routes/events.ts";
import { answerItems, poll } from "./routes/mailbox.ts";
import { manyStatuses, oneStatus } from "./routes/messages.ts";
import { live, metrics, ready, stream } from "./routes/operations.ts";
import { rotate } from "./routes/operators.ts";
import {
  allAgents,
  ownAgents,
  resumeAny,
  resumeOwn,
  revokeAny,
  revokeOwn,
  suspendAny,
  suspendOwn,
} from "./routes/owners.ts";
import { getPolicy, listAgent, listed, putPolicy, unlistAgent } from "./routes/policies.ts";
import { sendEnvelopes } from "./routes/send.ts";
import { pairFacts, retryRequest, sentFacts } from "./routes/sessions.ts";
import { deleteSigningKey, listSigningKeys, putSigningKey } from "./routes/signing-keys.ts";
import { deleteStuck, listStuck, retryStuck } from "./routes/stuck.ts";
import { ownUsage, usageOfAgent, usageOfHour } from "./routes/usage.ts";

export const routes: readonly Route[] = [
  register,
  upload,
  own,
  claimByGet,
  claimByPost,
  sendEnvelopes,
  sealingKey,
  sendHeld,
  open,
  begin,
  poll,
  answerItems,
  events,
  oneStatus,
  manyStatuses,
  retryRequest,
  sentFacts,
  pairFacts,
  putDevice,
  deleteDevice,
  listDevices,
  ownUsage,
  revoke,
  getPolicy,
  putPolicy,
  listed,
  listAgent,
  unlistAgent,
  listContacts,
  ask,
  accept,
  decline,
  remove,
  putSigningKey,
  deleteSigningKey,
  listSigningKeys,
  ownAgents,
  suspendOwn,
  resumeOwn,
  revokeOwn,
  stream,
  live,
  ready,
  metrics,
];

export const operatorRoutes: readonly Route[] = [
  allAgents,
  suspendAny,
  resumeAny,
  revokeAny,
  rotate,
  listStuck,
  retryStuck,
  deleteStuck,
  deadLetters,
  replay,
  usageOfAgent,
  usageOfHour,
  auditCheckpoint,
  auditKey,
  auditInclusion,
  auditConsistency,
  auditReplays,
];
