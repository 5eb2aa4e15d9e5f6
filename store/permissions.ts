/**
 * May this agent message that one? Asked at ingress, and for server custody once more before encryption.
 *
 * Promise: one answer for both places, from what is committed when it is asked. A refusal names the rule of the recipient that it follows from.
 */
import type { AgentStatus } from "./agents.ts";
import type { Queryable } from "./postgres.ts";

/** Whom an agent lets in: everybody; its contacts and its allow list; its allow list alone. Its block list comes before all of them. */
export type Policy = "open" | "contacts" | "allow-list";

export interface Ask {
  readonly senderId: string;
  readonly recipientId: string;
  /** Whom the recipient sees as speaking: the root of a verified delegation chain, or the sender itself. */
  readonly principalId: string;
}

/** What the recipient goes by. Part of the wire: docs/policies.md. */
export type Rule = "recipient-inactive" | "blocked" | "contacts-only" | "not-on-allow-list";

export type Decision = { readonly allowed: true } | { readonly allowed: false; readonly rule: Rule };

/** How sender and principal stand with the recipient. */
export interface Standing {
  /** Is the recipient registered, and neither suspended nor revoked? */
  readonly isActive: boolean;
  /** Is sender or principal on the recipient's block list? */
  readonly isBlocked: boolean;
  /** Is one of them on its allow list? */
  readonly isListed: boolean;
  /** Is one of them its contact? */
  readonly isContact: boolean;
  readonly policy: Policy;
}

const ALLOWED: Decision = { allowed: true };

export function decide({ isActive, isBlocked, isListed, isContact, policy }: Standing): Decision {
  if (isBlocked) return { allowed: false, rule: "blocked" };
  const isLetIn = policy === "open" || isListed || (policy === "contacts" && isContact);
  if (!isLetIn) return { allowed: false, rule: policy === "contacts" ? "contacts-only" : "not-on-allow-list" };
  // Last: whoever can wait for the recipient knows by this rule that it lets the sender in.
  return isActive ? ALLOWED : { allowed: false, rule: "recipient-inactive" };
}

/**
 * What an agent says to itself, in whoever's name; and what is said to it in its own name, by who holds its delegation.
 */
export function ownWord({ senderId, recipientId, principalId }: Ask): {
  readonly isOwn: boolean;
  readonly isDelegates: boolean;
} {
  return { isOwn: senderId === recipientId, isDelegates: principalId === recipientId };
}

/**
 * One for each ask, in their order. What an agent says to itself is let through whatever its lists say. Whoever it lets speak in its name is let in as if it stood on the
 * allow list, but not past a block.
 *
 * @throws Unavailable
 */
export async function findDecisions(db: Queryable, asks: readonly Ask[]): Promise<readonly Decision[]> {
  if (asks.length === 0) return [];
  // Each question is a look into a primary key, never a join that could be planned as a scan of a table.
  const { rows } = await db.query<{
    status: AgentStatus | null;
    policy: Policy | null;
    is_blocked: boolean;
    is_listed: boolean;
    is_contact: boolean;
  }>({
    name: "find-decisions",
    text: `SELECT (SELECT status FROM messaging_agents a WHERE a.agent_id = i.recipient_id) AS status,
                  (SELECT policy FROM messaging_policies p WHERE p.agent_id = i.recipient_id) AS policy,
                  EXISTS (SELECT FROM messaging_policy_lists l WHERE l.agent_id = i.recipient_id AND l.list = 'block'
                          AND l.peer_id IN (i.sender_id, i.principal_id)) AS is_blocked,
                  EXISTS (SELECT FROM messaging_policy_lists l WHERE l.agent_id = i.recipient_id AND l.list = 'allow'
                          AND l.peer_id IN (i.sender_id, i.principal_id)) AS is_listed,
                  EXISTS (SELECT FROM messaging_contacts c WHERE c.agent_id = i.recipient_id AND c.state = 'accepted'
                          AND c.peer_id IN (i.sender_id, i.principal_id)) AS is_contact
           FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS i (sender_id, recipient_id, principal_id, n)
           ORDER BY i.n`,
    values: [
      asks.map(({ senderId }) => senderId),
      asks.map(({ recipientId }) => recipientId),
      asks.map(({ principalId }) => principalId),
    ],
  });
  return rows.map((row, index) => {
    const ask = asks[index] as Ask;
    const { isOwn, isDelegates } = ownWord(ask);
    return decide({
      isActive: row.status === "active",
      isBlocked: row.is_blocked && !isOwn,
      isListed: row.is_listed || isOwn || isDelegates,
      isContact: row.is_contact,
      policy: row.policy ?? "open",
    });
  });
}
