/**
 * The parts of the service by name. Any set of them runs in one process; deleting one here and its folder deletes it.
 */
import { startApi } from "./api-role.ts";
import {
  type PartContext,
  startAcks,
  startAudit,
  startEncryption,
  startMetering,
  startQueuing,
  startReceipts,
  startRelay,
  startRouting,
  startSessions,
} from "./consumer-role.ts";
import { startJobs } from "./jobs-role.ts";
import { startPush } from "./push-role.ts";
import type { Role } from "./role.ts";

const parts = {
  api: startApi,
  encryption: startEncryption,
  queuing: startQueuing,
  routing: startRouting,
  acks: startAcks,
  receipts: startReceipts,
  push: startPush,
  sessions: startSessions,
  metering: startMetering,
  audit: startAudit,
  relay: startRelay,
  jobs: startJobs,
} satisfies Record<string, (context: PartContext) => Promise<Role>>;

export type Part = keyof typeof parts;

export const partNames = Object.keys(parts) as readonly Part[];

export function startPart(part: Part, context: PartContext): Promise<Role> {
  return parts[part](context);
}
