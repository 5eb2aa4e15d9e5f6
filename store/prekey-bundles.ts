/**
 * What every bundle of an agent holds: identity key, signed prekey, KEM prekey of last resort. Read from PostgreSQL, remembered in Redis.
 *
 * Promises: no one-time prekey is ever remembered; what is remembered is never replaced by something older, and is at most 5 minutes old:
 * then even a flush that was lost costs no more than that, and a signed prekey that was replaced is honoured for 30 days. While Redis
 * is away PostgreSQL answers.
 */
import { type Bundle, bundleFromJson, bundleToJson, type KemPrekey } from "../protocol/prekeys.ts";
import { Refusal } from "../protocol/refusal.ts";
import type { Queryable } from "./postgres.ts";
import { pipelineValues, type RedisDoor, unlessAway } from "./redis.ts";

/** Longer, and a rotation whose flush was lost is noticed later; shorter, and only agents claimed from all the time profit. */
const rememberedS = 5 * 60;

/** Without its one-time prekeys. */
export type CommonBundle = Bundle & { readonly oneTimePrekey: null };

export interface BundlesDoor {
  /** Null when the agent has no signed prekey. Throws `Unavailable("postgres")`. */
  find(agentId: string): Promise<CommonBundle | null>;
  /** Reads anew and remembers, whatever was remembered. Throws `Unavailable("postgres")`. */
  refresh(agentIds: readonly string[]): Promise<void>;
  /** Never throws `Unavailable`. */
  forget(agentId: string): Promise<void>;
}

/** KEYS bundle. ARGV its version, itself, its life (s). The version stands before the bundle: an older one is not written over a newer one. */
const rememberScript = `
local held = string.match(redis.call("GET", KEYS[1]) or "", "^(%d+) ")
if held and tonumber(held) > tonumber(ARGV[1]) then return 0 end
redis.call("SET", KEYS[1], ARGV[1] .. " " .. ARGV[2], "EX", ARGV[3])
return 1`;

export function openBundles(redis: RedisDoor, db: Queryable): BundlesDoor {
  const keyOf = (agentId: string) => redis.key(`prekey_bundle:${agentId}`);

  async function readAndRemember(agentIds: readonly string[]): Promise<readonly VersionedBundle[]> {
    const found = await readBundles(db, agentIds);
    if (found.length === 0) return found;
    const remembered = redis.ask(async (client) => {
      const pipeline = client.pipeline();
      for (const { bundle, version } of found) {
        const text = JSON.stringify(bundleToJson(bundle));
        pipeline.eval(rememberScript, 1, keyOf(bundle.agentId), version, text, rememberedS);
      }
      return pipelineValues(await pipeline.exec());
    });
    await unlessAway(remembered);
    return found;
  }

  return {
    find: async (agentId) => {
      const remembered = await unlessAway(redis.ask((client) => client.get(keyOf(agentId))));
      const bundle = remembered === null ? null : bundleOf(remembered);
      if (bundle !== null) return bundle;
      const [found] = await readAndRemember([agentId]);
      return found?.bundle ?? null;
    },
    refresh: async (agentIds) => {
      await readAndRemember(agentIds);
    },
    forget: async (agentId) => {
      await unlessAway(redis.ask((client) => client.del(keyOf(agentId))));
    },
  };
}

/** Null for what is no bundle: PostgreSQL knows better. */
function bundleOf(text: string): CommonBundle | null {
  try {
    return { ...bundleFromJson(JSON.parse(text.slice(text.indexOf(" ") + 1))), oneTimePrekey: null };
  } catch (error) {
    if (error instanceof Refusal || error instanceof SyntaxError) return null;
    throw error;
  }
}

interface VersionedBundle {
  readonly bundle: CommonBundle;
  /** Grows with every change: the place of the newest prekey in it. */
  readonly version: number;
}

async function readBundles(db: Queryable, agentIds: readonly string[]): Promise<readonly VersionedBundle[]> {
  const { rows } = await db.query<CommonRow>({
    name: "read-bundles",
    text: `SELECT a.agent_id, a.identity_key, greatest(s.place, l.place) AS version,
                  s.prekey_id AS signed_id, s.public_key AS signed_key, s.signature AS signed_signature,
                  s.created_at AS signed_created_at,
                  l.prekey_id AS kem_id, l.public_key AS kem_key, l.signature AS kem_signature, l.created_at AS kem_created_at
           FROM messaging_agents a
           CROSS JOIN LATERAL (${activeSql("signed")}) AS s
           LEFT JOIN LATERAL (${activeSql("kem-last-resort")}) AS l ON true
           WHERE a.agent_id = ANY($1)`,
    values: [agentIds],
  });
  return rows.map((row) => ({
    version: row.version,
    bundle: { ...signedPartOf(row), oneTimePrekey: null, kemPrekey: kemPrekeyOf(row, true) },
  }));
}

function activeSql(keyType: "signed" | "kem-last-resort"): string {
  return `SELECT * FROM messaging_prekeys
          WHERE agent_id = a.agent_id AND key_type = '${keyType}' AND status = 'ACTIVE' ORDER BY place DESC LIMIT 1`;
}

interface CommonRow extends SignedPartRow, KemRow {
  readonly version: number;
}

export interface SignedPartRow {
  readonly agent_id: string;
  readonly identity_key: Uint8Array;
  readonly signed_id: string;
  readonly signed_key: Uint8Array;
  readonly signed_signature: Uint8Array;
  readonly signed_created_at: number;
}

/** Of one column to another: all null, or none. */
export interface KemRow {
  readonly kem_id: string | null;
  readonly kem_key: Uint8Array | null;
  readonly kem_signature: Uint8Array | null;
  readonly kem_created_at: number | null;
}

export function signedPartOf(row: SignedPartRow): Pick<Bundle, "agentId" | "identityKey" | "signedPrekey"> {
  return {
    agentId: row.agent_id,
    identityKey: row.identity_key,
    signedPrekey: {
      id: row.signed_id,
      createdAt: row.signed_created_at,
      publicKey: row.signed_key,
      signature: row.signed_signature,
    },
  };
}

export function kemPrekeyOf(row: KemRow, lastResort: boolean): KemPrekey | null {
  const { kem_id: id, kem_key: publicKey, kem_signature: signature, kem_created_at: createdAt } = row;
  if (id === null || publicKey === null || signature === null || createdAt === null) return null;
  return { id, createdAt, publicKey, signature, lastResort };
}
