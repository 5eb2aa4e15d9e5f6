/**
 * Every metric of the service, by name, in one registry. No agent's id ever is a label.
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import type { Counted, Counter as CounterName } from "../api/operations/counters.ts";
import type { RunnerMetrics } from "../streams/runner-options.ts";

export type Metrics = ReturnType<typeof createMetrics>;

/** From one step of an idle pipeline to mail that waited for weeks. */
const deliverySeconds = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600, 86_400];
const stepSeconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5];

/** From a warm session to a post-quantum start on a busy machine. */
const encryptionSeconds = [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5];

const counterHelp: Readonly<Record<CounterName, string>> = {
  messages_sent: "Envelopes appended to the log.",
  messages_repeated: "Envelopes that were accepted before; nothing was appended.",
  messages_refused: "Envelopes refused at ingress.",
  items_received: "Items handed to polling clients.",
  answers_accepted: "Answers (acknowledged or refused) appended.",
  retry_requests_sent: "Retry requests appended to the log.",
  delivery_reports_lost: "Reports of delivery that Kafka did not take; an answer implies them.",
  bundles_claimed: "Prekey bundles handed out.",
  bundles_over_budget: "Prekey bundles handed out without one-time prekeys because too many were claimed of the agent.",
  requests_refused: "Requests refused with a 4xx.",
  requests_unavailable: "Requests answered with 503.",
  requests_failed: "Requests that met a bug of ours.",
};

export function createMetrics() {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const registers = [registry];
  const counters = new Map(
    Object.entries(counterHelp).map(([name, help]) => [
      name,
      new Counter({ name: `messaging_${name}_total`, help, registers }),
    ]),
  );
  const counted: Counted = (counter, by) => counters.get(counter)?.inc(by);
  const scrapes: (() => void | Promise<void>)[] = [];
  return {
    registry,
    counted,
    /** Text for Prometheus, after everyone who measures at that moment has done so. */
    text: async () => {
      await Promise.all(scrapes.map((measure) => measure()));
      return registry.metrics();
    },
    /** Registers what is measured only when somebody looks; soon, for they wait, and without failing. */
    onScrape: (measure: () => void | Promise<void>) => {
      scrapes.push(measure);
    },
    queued: new Counter({
      name: "messaging_messages_queued",
      help: "Items that were stored, by whether their recipient was connected then.",
      labelNames: ["state"] as const,
      registers,
    }),
    deliveryLatency: new Histogram({
      name: "messaging_delivery_latency_seconds",
      help: "From the append of a message to its delivery to a connection of its recipient.",
      buckets: deliverySeconds,
      registers,
    }),
    encryption: new Histogram({
      name: "messaging_encryption_duration_seconds",
      help: "Encryption of one message of server custody, from its sealed content to its envelope.",
      buckets: encryptionSeconds,
      registers,
    }),
    streams: new Gauge({ name: "messaging_streams_open", help: "Open streams of this process.", registers }),
    answersDropped: new Gauge({
      name: "messaging_stream_answers_dropped",
      help: "Answers lost because too many waited for Kafka; their items are sent again on the next connection.",
      registers,
    }),
    rotations: new Counter({
      name: "messaging_prekey_rotations_total",
      help: "Rotations of signed prekeys of server custody, by how they ended; failed ones are tried again.",
      labelNames: ["outcome"] as const,
      registers,
    }),
    prekeysLow: new Gauge({
      name: "messaging_agents_prekeys_low",
      help: "Agents with fewer than 10 one-time prekeys, as last counted by the job.",
      registers,
    }),
    signedPrekeysOld: new Gauge({
      name: "messaging_agents_signed_prekey_old",
      help: "Agents whose signed prekey in force is older than so many days, as last counted by the job.",
      labelNames: ["days"] as const,
      registers,
    }),
    jobRuns: new Counter({
      name: "sealpost_job_runs_total",
      help: "Runs of what the clock starts, by how they ended; a failed one is tried again.",
      labelNames: ["job", "outcome"] as const,
      registers,
    }),
    records: new Counter({
      name: "sealpost_consumer_records_total",
      help: "Records applied.",
      labelNames: ["consumer"] as const,
      registers,
    }),
    stepSeconds: new Histogram({
      name: "sealpost_consumer_step_seconds",
      help: "Duration of a step: transaction, without publishing.",
      labelNames: ["consumer"] as const,
      buckets: stepSeconds,
      registers,
    }),
    lag: new Gauge({
      name: "sealpost_consumer_lag_records",
      help: "Records in the log after the position.",
      labelNames: ["consumer", "topic", "partition"] as const,
      registers,
    }),
    retries: new Counter({
      name: "sealpost_consumer_retries_total",
      help: "Times a consumer waited because something outside was away.",
      labelNames: ["consumer", "door"] as const,
      registers,
    }),
    outboxUnpublished: new Gauge({
      name: "sealpost_outbox_unpublished_steps",
      help: "Steps committed and not yet published.",
      labelNames: ["consumer"] as const,
      registers,
    }),
    outboxAge: new Gauge({
      name: "sealpost_outbox_age_seconds",
      help: "Age of the oldest committed and unpublished step.",
      labelNames: ["consumer"] as const,
      registers,
    }),
    deadLetters: new Counter({
      name: "sealpost_dead_letters_total",
      help: "Records put aside as dead letters.",
      labelNames: ["consumer", "topic", "code"] as const,
      registers,
    }),
    gaps: new Gauge({
      name: "sealpost_consumer_gaps",
      help: "Partitions stopped because their position lies outside the log: an operator must look.",
      labelNames: ["consumer"] as const,
      registers,
    }),
  };
}

/** The runner's words as metrics. */
export function runnerMetrics(metrics: Metrics): RunnerMetrics {
  return {
    step: (consumer, { records, seconds }) => {
      metrics.records.inc({ consumer }, records);
      metrics.stepSeconds.observe({ consumer }, seconds);
    },
    deadLetter: (consumer, topic, code) => metrics.deadLetters.inc({ consumer, topic, code }),
    retry: (consumer, door) => metrics.retries.inc({ consumer, door }),
    lag: (consumer, topic, partition, records) => metrics.lag.set({ consumer, topic, partition }, records),
    outbox: (consumer, { steps, ageSeconds }) => {
      metrics.outboxUnpublished.set({ consumer }, steps);
      metrics.outboxAge.set({ consumer }, ageSeconds);
    },
    gaps: (consumer, partitions) => metrics.gaps.set({ consumer }, partitions),
  };
}
