/**
 * Every metric of the service, by name, in one registry. No agent's id ever is a label.
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import type { Counted, Counter as CounterName } from "../api/operations/counters.ts";
import type { StateSource } from "../consumers/encryption/sending.ts";
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
  items_set_aside: "Items set aside because they ended too many connections of their recipients.",
  retry_requests_sent: "Retry requests appended to the log.",
  delivery_reports_lost:
    "Reports of delivery that found no room while Kafka took none, or that it did not take; an answer implies them.",
  bundles_claimed: "Prekey bundles handed out.",
  bundles_over_budget: "Prekey bundles handed out without one-time prekeys because too many were claimed of the agent.",
  requests_refused: "Requests refused with a 4xx.",
  requests_unavailable: "Requests answered with 503.",
  sends_shed: "Calls that send, refused because too many were under way.",
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
  const ratchetStates = new Counter({
    name: "messaging_ratchet_states_total",
    help: "States of pairs that steps of encryption needed, by where the present one was found; stale and nowhere were read from PostgreSQL.",
    labelNames: ["found"] as const,
    registers,
  });
  const hits = { found: 0, all: 0 };
  new Gauge({
    name: "messaging_ratchet_cache_hit_ratio",
    help: "Of the states that steps of encryption needed since this process began, the share that a cache had as the row has it.",
    registers,
    collect() {
      this.set(hits.all === 0 ? 0 : hits.found / hits.all);
    },
  });
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
    ratchetStates: (found: StateSource, pairs: number) => {
      ratchetStates.inc({ found }, pairs);
      hits.all += pairs;
      if (found === "process" || found === "redis") hits.found += pairs;
    },
    streams: new Gauge({ name: "messaging_streams_open", help: "Open streams of this process.", registers }),
    sendsUnderWay: new Gauge({
      name: "messaging_sends_under_way",
      help: "Calls that send, not answered yet.",
      registers,
    }),
    answersDropped: new Gauge({
      name: "messaging_stream_answers_dropped",
      help: "Answers lost because too many waited for Kafka; their items are sent again on the next connection.",
      registers,
    }),
    wakes: new Counter({
      name: "messaging_push_wakes_total",
      help: "Wakes of devices, by how they ended; fault, foreign and bug mean that somebody must look.",
      labelNames: ["kind", "outcome"] as const,
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
    oldestKey: new Gauge({
      name: "sealpost_keyring_oldest_key_days",
      help: "Age of the oldest key of a day or an epoch in the keyring; they are destroyed when nothing needs them.",
      labelNames: ["kind"] as const,
      registers,
    }),
    sealedAnew: new Counter({
      name: "sealpost_rows_sealed_anew_total",
      help: "Rows of server custody sealed anew under the key of the day.",
      labelNames: ["column"] as const,
      registers,
    }),
    sealedUnopened: new Counter({
      name: "sealpost_rows_unopened_total",
      help: "Rows that did not open when they were to be sealed anew, in each run; those of destroyed agents stay so.",
      labelNames: ["column", "code"] as const,
      registers,
    }),
    auditSigned: new Gauge({
      name: "sealpost_audit_signed_records",
      help: "Records below the newest checkpoint that this process has signed.",
      registers,
    }),
    auditBroken: new Gauge({
      name: "sealpost_audit_log_broken",
      help: "1 when the audit log is not the continuation of what was signed before: it went back or was changed, and somebody must look.",
      registers,
    }),
    recordsTrimmed: new Counter({
      name: "sealpost_records_trimmed_total",
      help: "Records deleted because they are old and every consumer has passed them.",
      labelNames: ["topic"] as const,
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
    restored: new Gauge({
      name: "sealpost_consumer_restored_partitions",
      help: "Partitions stopped because PostgreSQL is older than what Kafka was told: after a restore, npm run after-restore.",
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
    restored: (consumer, partitions) => metrics.restored.set({ consumer }, partitions),
  };
}
