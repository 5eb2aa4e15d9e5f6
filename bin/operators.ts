/**
 * The API for operators: its own listener, and what its calls need. Without a token there is none.
 */
import type pino from "pino";
import { createHttpApp } from "../api/http/app.ts";
import { servedToOperators } from "../api/http/openapi.ts";
import type { HttpDeps } from "../api/http/route.ts";
import { type HttpServer, startHttp } from "../api/http/server.ts";
import type { AuditDeps } from "../api/operations/audit.ts";
import type { DeadLettersDeps } from "../api/operations/dead-letters.ts";
import type { StuckDeps } from "../api/operations/stuck.ts";
import { findCheckpoint, findCheckpointCovering } from "../store/audit-checkpoints.ts";
import { findHead, hashesOfSpans } from "../store/audit-log.ts";
import type { Postgres } from "../store/postgres.ts";
import { countStuck, findStuck, whichStuck } from "../store/stuck.ts";
import { catalogue } from "../streams/catalogue.ts";
import { countDeadLetters, readDeadLetters } from "../streams/dead-letters.ts";
import type { KafkaDoor } from "../streams/kafka.ts";
import type { Producer } from "../streams/producer.ts";
import type { Config } from "./config.ts";

interface OperatorParts {
  readonly postgres: Postgres;
  readonly kafka: KafkaDoor;
  readonly producer: Producer;
  readonly log: pino.Logger;
}

export function operatorDeps({ postgres, kafka, producer, log }: OperatorParts) {
  return {
    findStuck: (filter, after, limit) => findStuck(postgres, filter, after, limit),
    countStuck: (filter, countMax) => countStuck(postgres, filter, countMax),
    whichStuck: (items) => whichStuck(postgres, items),
    onAct: (act) => log.info(act, "an operator has mail seen to"),
    countDeadLetters: (topic) => countDeadLetters(kafka, topicOf(topic)),
    readDeadLetters: (topic, ...how) => readDeadLetters(kafka, topicOf(topic), ...how),
    appendAsIs: (records) => producer.append(records),
    findCheckpoint: (size) => findCheckpoint(postgres, size),
    findCheckpointCovering: (size) => findCheckpointCovering(postgres, size),
    auditSize: async () => (await findHead(postgres)).size,
    auditHashes: (spans) => hashesOfSpans(postgres, spans),
  } satisfies Omit<StuckDeps & DeadLettersDeps & AuditDeps, "limits" | "receipts" | "now">;
}

/** Null where there is no token. */
export async function serveOperators(
  { opsToken, opsHttp }: Pick<Config, "opsToken" | "opsHttp">,
  deps: HttpDeps,
  log: pino.Logger,
): Promise<HttpServer | null> {
  if (opsToken === undefined) return null;
  const http = await startHttp(createHttpApp(deps, servedToOperators), opsHttp);
  log.info({ url: http.url }, "operators are served");
  return http;
}

function topicOf(name: string) {
  const topic = catalogue.find((one) => one.name === name);
  if (topic === undefined) throw new Error("the schema let a topic through that there is not");
  return topic;
}
