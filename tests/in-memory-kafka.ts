/**
 * A Kafka in memory, as far as a runner asks one: topics of one partition, groups of one member, and a server that may be away. For tests that take minutes of a clock
 * which they set.
 */
import { EventEmitter } from "node:events";
import type { ConsumerRunConfig, EachBatchPayload, KafkaMessage } from "kafkajs";
import { Unavailable } from "../protocol/refusal.ts";
import type { Outgoing } from "../streams/consumer.ts";
import type { KafkaDoor } from "../streams/kafka.ts";

/** How long a server takes to refuse: at once and again, or not to answer at all, until the client gives up. */
export const refusingMs = 1_500;
export const frozenMs = 30_000;

const fetchMs = 100;
const GROUP_JOIN = "consumer.group_join";
const CRASH = "consumer.crash";
const events = {
  ...{ GROUP_JOIN, CRASH, STOP: "consumer.stop" },
  ...{ END_BATCH_PROCESS: "consumer.end_batch_process", COMMIT_OFFSETS: "consumer.commit_offsets" },
};

export class InMemoryKafka {
  readonly logs = new Map<string, KafkaMessage[]>();
  /** All that were ever made; the last one may be running. */
  readonly consumers: InMemoryConsumer[] = [];
  /** What every question is answered with then, so many ms later; null while it is there. */
  awayMs: number | null = null;
  /** Consumers that are made from now on join and are never handed anything. */
  isDeaf = false;
  readonly #committed = new Map<string, string>();

  readonly door: KafkaDoor = {
    client: { consumer: () => this.#consumer() } as never,
    ask: async (question) => {
      await this.answer();
      return question(this.#admin as never);
    },
    close: async () => undefined,
  };

  append({ topic, key, value, headers }: Outgoing, timestamp = Date.now()): void {
    const log = this.#logOf(topic);
    const at = { offset: String(log.length), timestamp: String(timestamp), attributes: 0, headers: { ...headers } };
    log.push({ ...at, key: Buffer.from(key), value: Buffer.from(value), size: undefined as never });
  }

  /** Resolves when it is there; else rejects when the client has given up. */
  async answer(): Promise<void> {
    if (this.awayMs === null) return;
    await new Promise((resolve) => setTimeout(resolve, this.awayMs ?? 0));
    throw new Unavailable("kafka");
  }

  commit(topic: string, offset: string): void {
    this.#committed.set(topic, offset);
  }

  logOf(topic: string): readonly KafkaMessage[] {
    return this.#logOf(topic);
  }

  readonly #admin = {
    fetchTopicMetadata: async ({ topics }: { topics: readonly string[] }) => ({
      topics: topics.map((name) => ({ name, partitions: [{ partitionId: 0 }] })),
    }),
    fetchTopicOffsets: async (topic: string) => {
      const high = String(this.#logOf(topic).length);
      return [{ partition: 0, low: "0", high, offset: high }];
    },
    fetchOffsets: async ({ topics }: { topics: readonly string[] }) =>
      topics.map((topic) => ({
        topic,
        partitions: [{ partition: 0, offset: this.#committed.get(topic) ?? "-1", metadata: null }],
      })),
  };

  #consumer(): InMemoryConsumer {
    const consumer = new InMemoryConsumer(this, this.isDeaf);
    this.consumers.push(consumer);
    return consumer;
  }

  #logOf(topic: string): KafkaMessage[] {
    const log = this.logs.get(topic) ?? [];
    this.logs.set(topic, log);
    return log;
  }
}

class InMemoryConsumer {
  readonly events = events;
  readonly paused = new Set<string>();
  isOver = false;
  readonly #kafka: InMemoryKafka;
  readonly #isDeaf: boolean;
  readonly #heard = new EventEmitter();
  readonly #positions = new Map<string, number>();
  #topics: readonly string[] = [];
  #isJoining = false;

  constructor(kafka: InMemoryKafka, isDeaf: boolean) {
    this.#kafka = kafka;
    this.#isDeaf = isDeaf;
  }

  connect(): Promise<void> {
    return this.#kafka.answer();
  }

  async subscribe({ topics }: { topics: readonly string[] }): Promise<void> {
    this.#topics = topics;
  }

  on(name: string, listener: (event: unknown) => void): () => void {
    this.#heard.on(name, listener);
    return () => this.#heard.off(name, listener);
  }

  async run(config: ConsumerRunConfig): Promise<void> {
    // A group takes a moment to meet.
    this.#isJoining = true;
    await new Promise((resolve) => setTimeout(resolve, fetchMs));
    this.#isJoining = false;
    const memberAssignment = Object.fromEntries(this.#topics.map((topic) => [topic, [0]]));
    this.#heard.emit(GROUP_JOIN, { payload: { memberAssignment } });
    if (!this.#isDeaf) void this.#fetchAll(config);
  }

  seek({ topic, offset }: { topic: string; offset: string }): void {
    this.#positions.set(topic, Number(offset));
  }

  pause(of: readonly { topic: string }[]): void {
    for (const { topic } of of) this.paused.add(topic);
  }

  resume(of: readonly { topic: string }[]): void {
    for (const { topic } of of) this.paused.delete(topic);
  }

  async commitOffsets(offsets: readonly { topic: string; offset: string }[]): Promise<void> {
    await this.#kafka.answer();
    for (const { topic, offset } of offsets) this.#kafka.commit(topic, offset);
    this.#heard.emit(events.COMMIT_OFFSETS, {});
  }

  async disconnect(): Promise<void> {
    // As in kafkajs: it goes on, and says that it has ended.
    if (!this.#isJoining) this.isOver = true;
    this.#heard.emit(events.STOP, {});
  }

  async #fetchAll({ eachBatch }: ConsumerRunConfig): Promise<void> {
    while (!this.isOver) {
      await new Promise((resolve) => setTimeout(resolve, fetchMs));
      try {
        await this.#kafka.answer();
      } catch (error) {
        await this.disconnect();
        this.#heard.emit(CRASH, { payload: { error } });
        return;
      }
      for (const topic of this.#topics)
        if (!this.isOver && !this.paused.has(topic)) await this.#fetch(topic, eachBatch);
    }
  }

  async #fetch(topic: string, eachBatch: ConsumerRunConfig["eachBatch"]): Promise<void> {
    const log = this.#kafka.logOf(topic);
    const from = this.#positions.get(topic) ?? 0;
    const messages = log.slice(from);
    if (messages.length === 0) return;
    const batch = { topic, partition: 0, messages, fetchedOffset: String(from), highWatermark: String(log.length) };
    await eachBatch?.({
      batch: { ...batch, lastOffset: () => messages.at(-1)?.offset },
      heartbeat: async () => undefined,
      // A seek that came meanwhile counts.
      resolveOffset: (offset: string) => {
        if ((this.#positions.get(topic) ?? 0) === from) this.#positions.set(topic, Number(offset) + 1);
      },
    } as never as EachBatchPayload);
  }
}
