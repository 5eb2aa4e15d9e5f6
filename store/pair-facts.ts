/**
 * The facts of a pair's sessions, remembered in Redis for a few seconds: whoever watches a session asks again and again.
 *
 * Promise: the same as PostgreSQL says, at most `rememberedS` ago. Without Redis PostgreSQL is asked every time.
 */
import type { Queryable } from "./postgres.ts";
import { type RedisDoor, unlessAway } from "./redis.ts";
import { factsOfPair, type SessionFacts } from "./session-facts.ts";

/** Longer, and a message that was just sent is missing for longer than the consumer's pace explains; shorter, and nothing is spared. */
const rememberedS = 5;

export interface PairFactsDoor {
  /** Of their newest sessions, the newest first (`store/session-facts.ts`: `factsOfPair`). Throws `Unavailable("postgres")`. */
  ofPair(one: string, other: string): Promise<readonly SessionFacts[]>;
}

export function openPairFacts(db: Queryable, redis: RedisDoor): PairFactsDoor {
  return {
    ofPair: async (one, other) => {
      const key = redis.key(`session_facts:${[one, other].toSorted().join(":")}`);
      const remembered = await unlessAway(redis.ask((client) => client.get(key)));
      if (remembered !== null) return fromText(remembered);
      const facts = await factsOfPair(db, one, other);
      await unlessAway(redis.ask((client) => client.set(key, toText(facts), "EX", rememberedS)));
      return facts;
    },
  };
}

type TextFacts = Omit<SessionFacts, "sessionId" | "dhPublicKey"> & {
  readonly sessionId: string;
  readonly dhPublicKey: string;
};

function toText(facts: readonly SessionFacts[]): string {
  const rows = facts.map(
    (row): TextFacts => ({ ...row, sessionId: hexOf(row.sessionId), dhPublicKey: hexOf(row.dhPublicKey) }),
  );
  return JSON.stringify(rows);
}

function fromText(text: string): readonly SessionFacts[] {
  return (JSON.parse(text) as TextFacts[]).map((row) => ({
    ...row,
    sessionId: Buffer.from(row.sessionId, "hex"),
    dhPublicKey: Buffer.from(row.dhPublicKey, "hex"),
  }));
}

function hexOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}
