/**
 * After the database was put back from a backup: who was suspended or revoked since, which keys and delegations were taken back, whom agents blocked, holds
 * again (docs/restore.md).
 *
 * Reads   agent.changed.v1, all that is kept of it (30 days).
 * Writes  what those facts decide, in their order for each agent; a fact that was published a second time counts where it stood first.
 * Keeps   what no fact tells: who answers for an agent since, and keys that were added.
 */
import { Refusal } from "../protocol/refusal.ts";
import { decideAgain } from "../store/decisions-again.ts";
import { inTransaction, type Postgres } from "../store/postgres.ts";
import { agentChanged } from "../streams/catalogue.ts";
import type { Codec } from "../streams/codec.ts";
import type { KafkaDoor } from "../streams/kafka.ts";
import { type ReadRecord, readRange } from "../streams/read-topic.ts";

export interface DecisionRecoveryDeps {
  readonly kafka: KafkaDoor;
  readonly codec: Codec;
  readonly postgres: Postgres;
}

/** Answers how many were applied. Ended at any moment it may be begun again. Throws `Unavailable`. */
export async function recoverDecisions({ kafka, codec, postgres }: DecisionRecoveryDeps): Promise<number> {
  const seen = new Set<string>();
  let applied = 0;
  await readRange(kafka, agentChanged.name, new Map(), async (records) => {
    await codec.learn(records.map(({ value }) => value));
    const facts = records.flatMap((record) => factsOf(codec, record));
    const fresh = facts.filter(({ eventId }) => !seen.has(eventId) && seen.add(eventId));
    await inTransaction(postgres, async (client) => {
      for (const fact of fresh) if (await decideAgain(client, fact)) applied += 1;
    });
  });
  return applied;
}

/** None for what cannot be decoded: it is no fact of ours. */
function factsOf(codec: Codec, { value }: ReadRecord) {
  try {
    return [codec.decode(agentChanged, value)];
  } catch (error) {
    if (error instanceof Refusal) return [];
    throw error;
  }
}
