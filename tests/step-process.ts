/**
 * The runner's test consumer in a process of its own, which kills or freezes itself at a named failpoint: `node tests/step-process.ts JSON`.
 */
import pino from "pino";
import { openPostgres } from "../store/postgres.ts";
import { openSteps } from "../store/steps.ts";
import { openCodec } from "../streams/codec.ts";
import { openKafka } from "../streams/kafka.ts";
import { openProducer } from "../streams/producer.ts";
import { runConsumer } from "../streams/runner.ts";
import { type Failpoint, noMetrics } from "../streams/runner-options.ts";
import { openTransactions } from "../streams/transactions.ts";
import type { StackUrls } from "./stack.ts";
import { noting, testTopic } from "./step-consumer.ts";

export interface StepProcess {
  readonly group: string;
  readonly input: string;
  readonly output: string;
  readonly urls: StackUrls;
  readonly databaseUrl: string;
  readonly failpoint: Failpoint;
  /** Left out: it publishes plainly. */
  readonly transactional?: boolean;
  /** Left out: killed. */
  readonly freezes?: boolean;
}

const config = JSON.parse(process.argv[2] ?? "") as StepProcess;
const { group, input, output, urls, databaseUrl, failpoint } = config;
const [from, to] = [testTopic(input), testTopic(output)];
const log = pino({ level: "silent" });
const kafka = openKafka({ brokers: urls.kafkaBrokers, clientId: "step-process", log });
let isDone = false;
const failpoints = {
  hit: (point: Failpoint) => {
    if (point !== failpoint || isDone) return;
    isDone = true;
    process.kill(process.pid, config.freezes ? "SIGSTOP" : "SIGKILL");
  },
};
runConsumer(noting(group, from, to), {
  kafka,
  codec: await openCodec({ registryUrl: urls.registryUrl, register: true, topics: [from, to] }),
  store: openSteps(openPostgres(databaseUrl), (client) => client),
  appender: openProducer({ kafka, log }),
  log,
  metrics: noMetrics,
  timing: { tickMs: 100, sessionMs: 6_000 },
  onFatal: () => process.exit(1),
  failpoints,
  publisher: config.transactional ? openTransactions({ kafka, group, log, failpoints }) : undefined,
});
