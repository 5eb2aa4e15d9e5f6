/**
 * Whom an agent lets in: its policy, its allow list and its block list.
 *
 * Promise: an agent changes its own only. What it changed holds for every new message within five seconds (api/authz/authorization.ts); messages that were accepted
 * before are delivered, except where the service itself has yet to encrypt them.
 */
import type { Limit, LimitsDoor } from "../../store/limits.ts";
import type { Policy } from "../../store/permissions.ts";
import type { Listing, Page, PolicyList, PolicySummary } from "../../store/policies.ts";
import type { Caller } from "../auth.ts";
import { ApiRefusal } from "../problem.ts";

export interface PoliciesDeps {
  readonly findPolicy: (agentId: string) => Promise<PolicySummary>;
  /** In one transaction with its fact, like the two below. */
  readonly setPolicy: (
    setting: { readonly agentId: string; readonly policy: Policy },
    now: number,
  ) => Promise<PolicySummary>;
  /** Throws `Refusal` `list-full`. */
  readonly addToList: (listing: Listing, now: number) => Promise<boolean>;
  readonly takeOffList: (listing: Listing, now: number) => Promise<boolean>;
  readonly readList: (
    from: Pick<Listing, "agentId" | "list"> & { readonly after: string },
    limit: number,
  ) => Promise<Page<string>>;
  readonly limits: LimitsDoor;
  /** ms since the epoch. */
  readonly now: () => number;
}

/** Entries of one answer: 43 KB. */
const LIST_PAGE_MAX = 1_000;

/** A list of a thousand is written in half an hour; each change is a fact for the world. */
const CHANGES: Limit = { name: "policies", points: 2_000, seconds: 3_600 };

/** @throws Unavailable */
export function ownPolicy(deps: PoliciesDeps, { agentId }: Caller): Promise<PolicySummary> {
  return deps.findPolicy(agentId);
}

/** @throws ApiRefusal `rate-limited`; `Unavailable` */
export async function changePolicy(deps: PoliciesDeps, caller: Caller, policy: Policy): Promise<PolicySummary> {
  await requireAllowance(deps, caller);
  return deps.setPolicy({ agentId: caller.agentId, policy }, deps.now());
}

/** Answers whether it was not there before. @throws ApiRefusal `malformed`, `rate-limited`; Refusal `list-full`; `Unavailable` */
export async function listAgent(
  deps: PoliciesDeps,
  caller: Caller,
  list: PolicyList,
  peerId: string,
): Promise<boolean> {
  if (peerId === caller.agentId) {
    throw new ApiRefusal("malformed", {
      field: "/agent",
      detail: "this is the caller itself",
      fix: "Name another agent: what one says to oneself is always let through.",
    });
  }
  await requireAllowance(deps, caller);
  return deps.addToList({ agentId: caller.agentId, list, peerId }, deps.now());
}

/** Answers whether it was there. @throws ApiRefusal `rate-limited`; `Unavailable` */
export async function unlistAgent(
  deps: PoliciesDeps,
  caller: Caller,
  list: PolicyList,
  peerId: string,
): Promise<boolean> {
  await requireAllowance(deps, caller);
  return deps.takeOffList({ agentId: caller.agentId, list, peerId }, deps.now());
}

/** By id, behind `after`. @throws Unavailable */
export function listedAgents(
  deps: PoliciesDeps,
  { agentId }: Caller,
  list: PolicyList,
  after: string,
): Promise<Page<string>> {
  return deps.readList({ agentId, list, after }, LIST_PAGE_MAX);
}

async function requireAllowance({ limits }: PoliciesDeps, { agentId }: Caller): Promise<void> {
  const { allowed, retryAfterMs } = await limits.consume(CHANGES, agentId);
  if (!allowed) throw new ApiRefusal("rate-limited", { retryAfterMs });
}
