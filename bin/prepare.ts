/**
 * Makes servers ready for this version: migrations, partitions of the coming days, topics, schemas. Running it again changes nothing.
 *
 * Production runs it once per release (`npm run prepare-servers`); `bin/service.ts --prepare` runs it before it starts.
 */
import pino from "pino";
import { migrate } from "../store/migrate.ts";
import { openCodec } from "../streams/codec.ts";
import { openKafka } from "../streams/kafka.ts";
import { applyTopics } from "../streams/topics.ts";
import { type Config, readConfig } from "./config.ts";

export interface Prepared {
  readonly migrations: readonly string[];
  readonly topics: readonly string[];
}

/** @throws Unavailable when a server cannot be reached. */
export async function prepare(config: Config, log: pino.Logger): Promise<Prepared> {
  const kafka = openKafka({ brokers: config.kafkaBrokers, clientId: "sealpost-prepare", log });
  try {
    const [migrations, topics] = await Promise.all([
      migrate(config.postgresUrl),
      applyTopics(kafka, { partitions: config.partitions }),
      openCodec({ registryUrl: config.registryUrl, register: true }),
    ]);
    return { migrations, topics };
  } finally {
    await kafka.close();
  }
}

if (import.meta.main) {
  const config = readConfig();
  const { migrations, topics } = await prepare(config, pino({ level: config.logLevel }, pino.destination(2)));
  console.log(`applied ${migrations.length} migrations, changed ${topics.length} topics, schemas are registered`);
}
