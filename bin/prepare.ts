/**
 * Makes servers ready for this version: migrations, partitions of the coming days, topics, schemas; and audit.v1 keeps records for as long as the configuration
 * says. Running it again changes nothing. Nothing that is kept gets a shorter time but with `--shorten-retention`: a process that was started without the
 * configuration of the others would end a legal hold.
 *
 * Production runs it once per release (`npm run prepare-servers`); `bin/service.ts --prepare` runs it before it starts.
 */
import { parseArgs } from "node:util";
import pino from "pino";
import { migrate } from "../store/migrate.ts";
import { auditRecord, catalogue } from "../streams/catalogue.ts";
import { openCodec } from "../streams/codec.ts";
import { openKafka } from "../streams/kafka.ts";
import { applyRetention, applyTopics, checkTopics } from "../streams/topics.ts";
import { type Config, readConfig } from "./config.ts";

export interface Prepared {
  readonly migrations: readonly string[];
  readonly topics: readonly string[];
}

/** @throws Unavailable when a server cannot be reached. */
export async function prepare(
  config: Config,
  log: pino.Logger,
  options: { readonly mayShorten?: boolean } = {},
): Promise<Prepared> {
  const kafka = openKafka({ ...config.kafka, clientId: "sealpost-prepare", log });
  try {
    const kept = { ...auditRecord, retention: { keptMs: config.auditKeptMs } };
    const topics = catalogue.map((topic) => (topic.name === kept.name ? kept : topic));
    const layout = { partitions: config.partitions, replicas: config.replicas };
    const [migrations, made] = await Promise.all([
      migrate(config.postgresUrl),
      applyTopics(kafka, { ...layout, topics }),
      openCodec({ registryUrl: config.registryUrl, register: true }),
    ]);
    const { outcome, was, wanted } = await applyRetention(kafka, kept, options);
    const change = { topic: kept.name, retention_ms_was: was, retention_ms_wanted: wanted };
    if (outcome === "left")
      log.warn(
        change,
        "retention is left as it is: the configuration asks for a shorter one; npm run prepare-servers -- --shorten-retention applies it, and deletes records",
      );
    if (outcome === "changed") log.info(change, "retention is changed");
    for (const difference of await checkTopics(kafka, { ...layout, topics }))
      log.warn({ difference }, "a topic is not as it is declared: what is there is never changed");
    return { migrations, topics: outcome === "changed" ? [...made, kept.name] : made };
  } finally {
    await kafka.close();
  }
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { "shorten-retention": { type: "boolean", default: false } } });
  const config = readConfig();
  const log = pino({ level: config.logLevel }, pino.destination(2));
  const { migrations, topics } = await prepare(config, log, { mayShorten: values["shorten-retention"] });
  console.log(`applied ${migrations.length} migrations, changed ${topics.length} topics, schemas are registered`);
}
