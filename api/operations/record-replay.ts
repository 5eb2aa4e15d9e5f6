/**
 * That somebody replays the audit log is a fact itself: `agent.changed.v1` with change `audit-replayed`, which the audit takes down like every other.
 *
 * Told twice, with one id: before the first record is read, and when the files are whole, then with the hash of their manifest. Metadata only.
 */
import { formatTimestamp } from "../../protocol/timestamp.ts";
import { agentEvent } from "../../streams/agent-events.ts";
import type { Appender } from "./events.ts";

export interface RecordReplayDeps {
  readonly receipts: Appender;
  /** ms since the epoch. */
  readonly now: () => number;
}

export interface AuditReplay {
  readonly state: "begun" | "done";
  /** ms since the epoch. */
  readonly from: number;
  readonly to: number;
  readonly agents: readonly string[];
  readonly actions: readonly string[];
  readonly format: string;
  /** When it is done. */
  readonly result: { readonly records: number; readonly manifestSha256: string } | null;
}

/** Whose fact it is when it is about no agent alone: no agent id looks like it. */
const EVERYBODY = "*";

/** The `ce_id` of each fact: one for each agent that was asked for, else one. @throws Unavailable */
export async function recordReplay(deps: RecordReplayDeps, replay: AuditReplay): Promise<readonly string[]> {
  const changedAt = deps.now();
  const reason = reasonOf(replay);
  const agents = replay.agents.length === 0 ? [EVERYBODY] : replay.agents;
  const change = { change: "audit-replayed", actor: "operator", custody: "server" } as const;
  const events = agents.map((agentId) => agentEvent("/sealpost/ops", { agentId, changedAt, reason, ...change }));
  await deps.receipts.append(events);
  return events.map(({ id }) => id);
}

function reasonOf({ state, from, to, actions, format, result }: AuditReplay): string {
  const range = `${formatTimestamp(from)}/${formatTimestamp(to)}`;
  const words = [state, range, format, ...(actions.length === 0 ? [] : [`actions ${actions.join(",")}`])];
  if (result !== null) words.push(`records ${result.records}`, `manifest sha256:${result.manifestSha256}`);
  return words.join(" ");
}
