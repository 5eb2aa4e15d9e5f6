/**
 * Decisions about agents that were taken since the backup from which the database was put back, applied again as their facts tell them: who is suspended or
 * revoked, which keys and delegations are no good any more, whom somebody lets in.
 *
 * Promise: applied in the order of the facts, again and again, they leave what the last of each kind says. Nothing is told: it was.
 */
import type { AgentChanged } from "../schemas/values.ts";
import type { Queryable } from "./postgres.ts";

/** False where the fact decides nothing that is kept here. @throws Unavailable */
export async function decideAgain(client: Queryable, fact: AgentChanged): Promise<boolean> {
  const statement = statementOf(fact);
  if (statement === null) return false;
  await client.query(statement);
  return true;
}

function statementOf({ agentId, change, actor, peerId, keyId, tokenId, reason, changedAt }: AgentChanged) {
  switch (change) {
    case "suspended":
    case "resumed":
    case "revoked":
      return {
        name: "decide-status-again",
        text: `UPDATE messaging_agents SET status = $2, suspended_by_operator = $3 WHERE agent_id = $1 AND status <> 'revoked'`,
        values: [
          agentId,
          change === "resumed" ? "active" : change,
          change === "suspended" && actor?.startsWith("operator") === true,
        ],
      };
    case "signing-key-removed":
      // Also one that this database has never seen: its certificate is still about.
      return {
        name: "remove-signing-key-again",
        text: `INSERT INTO messaging_signing_keys AS k (key_id, agent_id, public_key, certificate, not_after, created_at, removed_at)
               VALUES ($2, $1, '\\x', '\\x', $3, $3, $3)
               ON CONFLICT (key_id) DO UPDATE SET removed_at = coalesce(k.removed_at, excluded.removed_at)
               WHERE k.agent_id = excluded.agent_id`,
        values: [agentId, keyId, changedAt],
      };
    case "delegation-revoked":
      return {
        name: "revoke-delegation-again",
        text: `INSERT INTO messaging_revoked_delegations (issuer_id, token_id, revoked_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
        values: [agentId, tokenId, changedAt],
      };
    case "blocked":
    case "unblocked":
      return listing(agentId, "block", peerId, change === "blocked", changedAt);
    case "policy-changed":
      if (peerId) return listing(agentId, "allow", peerId, reason === "allowed", changedAt);
      return {
        name: "set-policy-again",
        text: `INSERT INTO messaging_policies (agent_id, policy, changed_at) VALUES ($1, $2, $3)
               ON CONFLICT (agent_id) DO UPDATE SET policy = excluded.policy, changed_at = excluded.changed_at`,
        values: [agentId, reason, changedAt],
      };
    case "contact-accepted":
      return {
        name: "accept-contact-again",
        text: `INSERT INTO messaging_contacts (agent_id, peer_id, state, changed_at) VALUES ($1, $2, 'accepted', $3), ($2, $1, 'accepted', $3)
               ON CONFLICT (agent_id, peer_id) DO UPDATE SET state = excluded.state, changed_at = excluded.changed_at`,
        values: [agentId, peerId, changedAt],
      };
    case "contact-declined":
      return {
        name: "decline-contact-again",
        text: `INSERT INTO messaging_contacts (agent_id, peer_id, state, changed_at) VALUES ($1, $2, 'declined', $3), ($2, $1, 'refused', $3)
               ON CONFLICT (agent_id, peer_id) DO UPDATE SET state = excluded.state, changed_at = excluded.changed_at`,
        values: [agentId, peerId, changedAt],
      };
    case "contact-removed":
      return {
        name: "remove-contact-again",
        text: "DELETE FROM messaging_contacts WHERE (agent_id, peer_id) IN (($1, $2), ($2, $1))",
        values: [agentId, peerId],
      };
    default:
      return null;
  }
}

function listing(agentId: string, list: "allow" | "block", peerId: string | null | undefined, on: boolean, at: number) {
  return on
    ? {
        name: "add-to-list-again",
        text: `INSERT INTO messaging_policy_lists (agent_id, list, peer_id, added_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
        values: [agentId, list, peerId, at],
      }
    : {
        name: "take-off-list-again",
        text: "DELETE FROM messaging_policy_lists WHERE agent_id = $1 AND list = $2 AND peer_id = $3",
        values: [agentId, list, peerId],
      };
}
