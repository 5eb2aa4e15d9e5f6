/**
 * The comparison of the tables with the log, over servers by their URLs: for `npm run rebuild`, and for tests that have something to compare.
 */
import pino from "pino";
import type { Difference } from "../rebuild/compare.ts";
import { type Rebuilt, rebuild } from "../rebuild/rebuild.ts";
import { openPostgres } from "../store/postgres.ts";
import { openCodec } from "../streams/codec.ts";
import { openKafka } from "../streams/kafka.ts";

export interface RebuildUrls {
  readonly kafkaBrokers: readonly string[];
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
export async function rebuildOver(urls: RebuildUrls, { patienceMs, say = () => undefined }: Waiting): Promise<Rebuilt> {
  const log = pino({ level: "silent" });
  const kafka = openKafka({ brokers: urls.kafkaBrokers, clientId: "sealpost-rebuild", log });
  const postgres = openPostgres(urls.postgresUrl, { applicationName: "sealpost-rebuild", connectionsMax: 1 });
  try {
    const codec = await openCodec({ registryUrl: urls.registryUrl, register: false });
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
export async function rebuildDiff(urls: RebuildUrls, patienceMs = 60_000): Promise<readonly Difference[]> {
  const rebuilt = await rebuildOver(urls, { patienceMs });
  if (rebuilt.outcome === "busy") throw new Error(`the tables cannot be compared: ${rebuilt.why}`);
  return rebuilt.tables.flatMap(({ differences }) => differences);
}
