/**
 * Which keyring belongs to this database. With another one, or with a copy from before, every row and every command would be found to be at fault, one after
 * the other, and none of them is: so it is found out before the first is touched.
 *
 * Promises: a keyring is refused when another was used with this database, when more was destroyed in it than it knows of, or when it lacks the newest keys
 * that were noted here, or one for the agent that was registered last. What such a comparison cannot see: a copy that lacks only keys that were made since
 * the last note, of which there is one an hour.
 */
import { Refusal } from "../protocol/refusal.ts";
import { type KeyName, type Keyring, KeyringError } from "./keyring/keyring.ts";
import type { Queryable } from "./postgres.ts";

interface Known {
  readonly keyring_id: string;
  readonly destructions: number;
  readonly newest_day: number | null;
  readonly newest_epoch: number | null;
  readonly accepted_at: number;
}

/**
 * Compares, and notes what is new. Called when a process starts, and again by a job.
 *
 * @throws KeyringError `keyring-foreign`, `keyring-older`; Unavailable
 */
export async function checkKeyring(db: Queryable, keyring: Keyring): Promise<void> {
  const { rows } = await db.query<Known>({
    name: "find-keyring",
    text: "SELECT keyring_id, destructions, newest_day, newest_epoch, accepted_at FROM messaging_keyring",
  });
  const known = rows[0];
  if (known !== undefined && known.keyring_id !== keyring.id) throw new KeyringError("keyring-foreign");
  // Asked of the keyring after the table: others may make and destroy something meanwhile.
  const isOlder = known !== undefined && (keyring.destructions() < known.destructions || !hasNoted(keyring, known));
  if (isOlder) throw new KeyringError("keyring-older");
  const agentId = await newestAgent(db, known?.accepted_at ?? 0);
  // Its master key was in the keyring before its row was in the database.
  if (agentId !== null && !knows(keyring, { kind: "master", agentId })) {
    throw new KeyringError(known === undefined ? "keyring-foreign" : "keyring-older");
  }
  const { rowCount } = await db.query({
    name: "note-keyring",
    text: `INSERT INTO messaging_keyring AS k (keyring_id, destructions, newest_day, newest_epoch, accepted_at) VALUES ($1, $2, $3, $4, 0)
           ON CONFLICT (single) DO UPDATE SET destructions = greatest(k.destructions, excluded.destructions),
             newest_day = greatest(k.newest_day, excluded.newest_day), newest_epoch = greatest(k.newest_epoch, excluded.newest_epoch)
           WHERE k.keyring_id = excluded.keyring_id`,
    values: factsOf(keyring),
  });
  if (rowCount !== 1) throw new KeyringError("keyring-foreign");
}

/** An operator's word that there is no better one: what was sealed under keys that are not in it is lost. Throws `Unavailable`. */
export async function acceptKeyring(db: Queryable, keyring: Keyring): Promise<void> {
  await db.query({
    text: `INSERT INTO messaging_keyring (keyring_id, destructions, newest_day, newest_epoch, accepted_at)
           VALUES ($1, $2, $3, $4, (SELECT coalesce(max(created_at), 0) FROM messaging_agents WHERE identity_sealed IS NOT NULL))
           ON CONFLICT (single) DO UPDATE SET (keyring_id, destructions, newest_day, newest_epoch, accepted_at)
             = (excluded.keyring_id, excluded.destructions, excluded.newest_day, excluded.newest_epoch, excluded.accepted_at)`,
    values: factsOf(keyring),
  });
}

function factsOf(keyring: Keyring) {
  return [keyring.id, keyring.destructions(), keyring.newest("day"), keyring.newest("epoch")];
}

function hasNoted(keyring: Keyring, { newest_day: day, newest_epoch: epoch }: Known): boolean {
  const hasDay = day === null || knows(keyring, { kind: "day", number: day });
  return hasDay && (epoch === null || knows(keyring, { kind: "epoch", number: epoch }));
}

async function newestAgent(db: Queryable, acceptedAt: number): Promise<string | null> {
  const { rows } = await db.query<{ agent_id: string }>({
    name: "find-newest-held-agent",
    text: `SELECT agent_id FROM messaging_agents WHERE identity_sealed IS NOT NULL AND created_at > $1
           ORDER BY created_at DESC LIMIT 1`,
    values: [acceptedAt],
  });
  return rows[0]?.agent_id ?? null;
}

/** One that was destroyed was there. */
function knows(keyring: Keyring, name: KeyName): boolean {
  try {
    keyring.unwrap(name).fill(0);
    return true;
  } catch (error) {
    if (error instanceof Refusal) return error.code === "key-destroyed";
    throw error;
  }
}
