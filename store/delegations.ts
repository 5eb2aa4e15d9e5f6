/**
 * Delegations that their issuers took back.
 *
 * Promises: what was revoked stays so, for good: a token may say that it begins a year from now; a revocation and the fact that tells the world are one transaction.
 */
import { Refusal } from "../protocol/refusal.ts";
import type { Delegation } from "../schemas/values.ts";
import { lockAgent } from "./agents.ts";
import { addFact, type Fact } from "./facts.ts";
import { inTransaction, type Postgres, type Queryable } from "./postgres.ts";

export interface Revocation extends Delegation {
  /** ms since the epoch. */
  readonly revokedAt: number;
}

/**
 * The same again changes nothing; answers when it was revoked first.
 *
 * @throws Refusal `agent-unknown`; `Unavailable`
 */
export function revokeDelegation(postgres: Postgres, revocation: Revocation, fact: Fact): Promise<number> {
  const { issuerId, tokenId, revokedAt } = revocation;
  return inTransaction(postgres, async (client) => {
    if ((await lockAgent(client, issuerId)) === null) throw new Refusal("agent-unknown");
    const { rowCount } = await client.query({
      name: "revoke-delegation",
      text: `INSERT INTO messaging_revoked_delegations (issuer_id, token_id, revoked_at)
             VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
      values: [issuerId, tokenId, revokedAt],
    });
    if (rowCount === 1) {
      await addFact(client, fact, revokedAt);
      return revokedAt;
    }
    const { rows } = await client.query<{ revoked_at: number }>({
      name: "find-revoked-delegation",
      text: "SELECT revoked_at FROM messaging_revoked_delegations WHERE issuer_id = $1 AND token_id = $2",
      values: [issuerId, tokenId],
    });
    return rows[0]?.revoked_at ?? revokedAt;
  });
}

/** Whether one of these is revoked. @throws Unavailable */
export async function isRevoked(db: Queryable, links: readonly Delegation[]): Promise<boolean> {
  const { rows } = await db.query({
    name: "find-revoked-delegations",
    text: `SELECT FROM unnest($1::text[], $2::text[]) AS i (issuer_id, token_id)
           CROSS JOIN LATERAL (
             SELECT FROM messaging_revoked_delegations r
             WHERE r.issuer_id = i.issuer_id AND r.token_id = i.token_id OFFSET 0) AS r
           LIMIT 1`,
    values: [links.map(({ issuerId }) => issuerId), links.map(({ tokenId }) => tokenId)],
  });
  return rows.length > 0;
}
