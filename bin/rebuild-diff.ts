/**
 * The comparison of the tables with the log, over servers: for `npm run rebuild`, and for tests that have something to compare.
 */
import pino from "pino";
import type { Difference } from "../rebuild/compare.ts";
import { type Rebuilt, rebuild } from "../rebuild/rebuild.ts";
import { openPostgres } from "../store/postgres.ts";
import { openCodec } from "../streams/codec.ts";
import { type KafkaServers, openKafka } from "../streams/kafka.ts";

export interface RebuildServers {
  readonly kafka: KafkaServers;
  readonly registryUrl: string;
  readonly postgresUrl: string;
}

interface Waiting {
  /** Of waiting for a moment in which everything is read; ms. */
  readonly patienceMs: number;
  /** A line for whoever watches. */
  readonly say?: (line: string) => void;
}

/** Throws `Unavailable`; `Refusal` `schema-mismatch`. */
export async function rebuildOver(
  servers: RebuildServers,
  { patienceMs, say = () => undefined }: Waiting,
): Promise<Rebuilt> {
  const log = pino({ level: "silent" });
  const kafka = openKafka({ ...servers.kafka, clientId: "sealpost-rebuild", log });
  const postgres = openPostgres(servers.postgresUrl, { applicationName: "sealpost-rebuild", connectionsMax: 1 });
  try {
    const codec = await openCodec({ registryUrl: servers.registryUrl, register: false });
    return await rebuild({ kafka, postgres, codec, patienceMs, say });
  } finally {
    await Promise.all([kafka.close(), postgres.close()]);
  }
}

/**
 * Where the tables and the log differ; empty: nowhere. Waits until the consumers have read everything.
 *
 * @throws Error when they have not after `patienceMs`
 */
export async function rebuildDiff(servers: RebuildServers, patienceMs = 60_000): Promise<readonly Difference[]> {
  const rebuilt = await rebuildOver(servers, { patienceMs });
  if (rebuilt.outcome === "busy") throw new Error(`the tables cannot be compared: ${rebuilt.why}`);
  return rebuilt.tables.flatMap(({ differences }) => differences);
}
