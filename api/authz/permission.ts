/**
 * What is said to an agent that may not message another: the code `not-allowed`, and the recipient's rule. The same for sends, claims of prekeys and sessions that are
 * begun, so that nobody takes keys for messages that would be refused.
 */
import type { DelegationScope } from "../../protocol/delegation.ts";
import type { Caller } from "../auth.ts";
import { ApiRefusal, type Fault } from "../problem.ts";
import type { Ask, Authorize, Rule } from "./authorization.ts";
import { actingFor } from "./delegation.ts";

export interface PermissionDeps {
  readonly authorize: Authorize;
}

const DETAILS: Readonly<Record<Rule, string>> = {
  "recipient-inactive": "the recipient is suspended or revoked",
  blocked: "the recipient has blocked the sender, or the agent for which it speaks",
  "contacts-only": "the recipient takes messages only from its contacts",
  "not-on-allow-list": "the recipient takes messages only from the agents on its allow list",
};

const FIXES: Readonly<Record<Rule, string>> = {
  "recipient-inactive": "Send it when the recipient is active again.",
  blocked: "Nothing that the sender can do.",
  "contacts-only":
    "Ask to become a contact: POST /messaging/contacts/{agent}; send again when the recipient has accepted.",
  "not-on-allow-list": "Only the recipient can put the sender on its list.",
};

/**
 * The rules that keep the caller from these recipients; those it may message are missing. `scope`: what it wants, for its chain of delegation.
 *
 * @throws Unavailable
 */
export async function rulesAgainst(
  { authorize }: PermissionDeps,
  caller: Caller,
  recipientIds: readonly string[],
  scope: DelegationScope,
): Promise<ReadonlyMap<string, Rule>> {
  const asks = [...new Set(recipientIds)].map((recipientId) => askOf(caller, recipientId, scope));
  const decisions = await authorize(asks);
  return new Map(
    asks.flatMap(({ recipientId }, n): [string, Rule][] => {
      const decision = decisions[n];
      return decision === undefined || decision.allowed ? [] : [[recipientId, decision.rule]];
    }),
  );
}

/** One message of a call that was refused for a rule. */
export function faultOf(
  rule: Rule,
  message: Pick<Fault, "pointer"> & { messageId: string; recipientId: string },
): Fault {
  return { ...message, code: "not-allowed", detail: DETAILS[rule], rule };
}

/** @throws ApiRefusal `not-allowed`; `Unavailable` */
export async function requireAllowed(
  deps: PermissionDeps,
  caller: Caller,
  recipientId: string,
  scope: DelegationScope,
  field: string,
): Promise<void> {
  const rule = (await rulesAgainst(deps, caller, [recipientId], scope)).get(recipientId);
  if (rule !== undefined) throw refusalOf(rule, field);
}

/**
 * For what answers a message that the recipient sent itself, so that it let the caller speak: no rule but its block list keeps that away.
 *
 * @throws ApiRefusal `not-allowed`; `Unavailable`
 */
export async function requireNotBlocked(
  deps: PermissionDeps,
  caller: Caller,
  recipientId: string,
  field: string,
): Promise<void> {
  const rule = (await rulesAgainst(deps, caller, [recipientId], "send")).get(recipientId);
  if (rule === "blocked") throw refusalOf(rule, field);
}

export function refusalOf(rule: Rule, field: string): ApiRefusal {
  return new ApiRefusal("not-allowed", { field, detail: DETAILS[rule], fix: FIXES[rule], rule });
}

function askOf({ agentId, chain }: Caller, recipientId: string, scope: DelegationScope): Ask {
  const principalId = actingFor(chain, scope, recipientId).principalId ?? agentId;
  return { senderId: agentId, recipientId, principalId };
}
