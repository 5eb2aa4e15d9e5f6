/**
 * Records of every topic: values with odd fields, changed bytes, other schemas' ids, values that are cut off, lengths that promise too much.
 *
 * Every record that the topic's schema cannot read must be a dead letter of each group that reads the topic (and makes dead letters), and every reader comes to the end of every partition.
 */
import { audit } from "../../consumers/audit/audit.ts";
import { metering } from "../../consumers/metering/metering.ts";
import { sessions } from "../../consumers/sessions/sessions.ts";
import type { Chance } from "../../sdk/chance.ts";
import { catalogue } from "../../streams/catalogue.ts";
import type { Codec } from "../../streams/codec.ts";
import { headersAsText } from "../../streams/headers.ts";
import { readTopic } from "../../streams/read-topic.ts";
import { readers } from "../../streams/readers.ts";
import { samples } from "../../streams/samples.ts";
import { deadLetterTopicName, type Topic } from "../../streams/topic.ts";
import { leftToDo, stateNow } from "../faults/snapshot.ts";
import { mutated, oddValue } from "./mutations.ts";
import { type Stage, within } from "./stage.ts";
import { Tally } from "./tally.ts";

/** Of one topic at once. */
const BATCH_RECORDS = 200;
/** Of each topic, however slow the machine: what stayed of each record must show. */
const BATCHES_MIN = 2;
const PARTITIONS = 8;
/** The backlog of a run, on a busy machine. */
const READ_MS_MAX = 300_000;
/** PostgreSQL takes 2,704 bytes into a row of an index. */
const ID_BYTES_LONG = 2_250;
const ODD_IDS = [0, 0x7fff_fff0, 0xffff_ffff, 1];

/** Of those that leave some to others: whose dead letters they make. */
const makes = new Map(
  [audit, metering, sessions].map(({ name, deadLettersOf }): [string, readonly Topic<unknown>[]] => [
    name,
    deadLettersOf ?? [],
  ]),
);

/** Undecodable records by the id that they were given, and their topic. */
type Poison = Map<string, Topic<unknown>>;

export class RecordFuzzer {
  readonly tally = new Tally(
    "records",
    catalogue.map(({ name }) => name),
  );
  readonly #stage: Stage;
  readonly #chance: Chance;
  readonly #poison: Poison = new Map();
  #made = 0;

  constructor(stage: Stage, chance: Chance) {
    this.#stage = stage;
    this.#chance = chance;
  }

  /** Until the time is over, and each topic had its least. */
  async append(untilMs: number): Promise<void> {
    const producer = this.#stage.house.kafka.client.producer();
    await producer.connect();
    try {
      for (let batches = 0; batches < BATCHES_MIN || performance.now() < untilMs; batches++) {
        for (const { topic, value } of samples) {
          const made = Array.from({ length: BATCH_RECORDS }, () => this.#make(topic, value));
          await this.#stage.house.codec.learn(made.map((one) => one.value));
          for (const one of made)
            if (!isReadable(this.#stage.house.codec, topic, one.value)) this.#poison.set(one.ceId, topic);
          const messages = made.map(({ key, ceId, value: bytes }) => ({
            key,
            value: bytes,
            partition: this.#chance.below(PARTITIONS),
            headers: { ce_id: ceId },
          }));
          await producer.send({ topic: topic.name, messages });
          this.tally.put(topic.name, made.length);
        }
      }
    } finally {
      await producer.disconnect();
    }
  }

  /** Waits for the readers; not for push, whose rounds wait up to two minutes by themselves. */
  async read(): Promise<void> {
    await this.#isRead((line) => !line.startsWith("push "));
  }

  /** Waits for all readers, and looks for the dead letters. */
  async settle(): Promise<void> {
    await this.#isRead(() => true);
    this.tally.answered("undecodable", this.#poison.size);
    for (const topic of catalogue) await this.#lookForLetters(topic);
  }

  async #isRead(counts: (line: string) => boolean): Promise<void> {
    const { house } = this.#stage;
    let left: readonly string[] = [];
    const isRead = await within(READ_MS_MAX, async () => {
      left = leftToDo(await stateNow(house.stack.urls.postgresUrl, house.kafka), []).filter(counts);
      return left.length === 0;
    });
    if (!isRead) this.tally.finding(`not read to the end: ${left.slice(0, 3).join("; ")}`);
  }

  async #lookForLetters(topic: Topic<unknown>): Promise<void> {
    const groups = readers
      .filter(({ group, reads }) => reads.includes(topic) && (makes.get(group)?.includes(topic) ?? true))
      .map(({ group }) => group);
    const letters = new Set<string>();
    for (const { headers } of await readTopic(this.#stage.house.kafka, deadLetterTopicName(topic))) {
      const text = headersAsText(headers);
      letters.add(`${text["x-consumer-group"]} ${text["ce_id"]}`);
      this.tally.answered(`dead letter ${text["x-error-code"]}`);
    }
    const poison = Array.from(this.#poison).flatMap(([ceId, of]) => (of === topic ? [ceId] : []));
    const missing = poison
      .flatMap((ceId) => groups.map((group) => `${group} ${ceId}`))
      .filter((one) => !letters.has(one));
    if (missing.length > 0)
      this.tally.finding(`${missing.length} records of ${topic.name} are no dead letters: ${missing[0]}`);
  }

  #make(topic: Topic<unknown>, sample: unknown) {
    const ceId = `fuzz-${topic.name}-${this.#made++}`;
    const ids = [...this.#stage.callers.map(({ me }) => me.agentId), this.#stage.recipientId];
    // Too long for an index, and of no use to a compressor; as the key, too, so that key and value may agree.
    ids.push(this.#chance.bytes(ID_BYTES_LONG).toString("base64url"));
    const key = this.#chance.choose([...ids, "", "x"]);
    return { ceId, key, value: this.#valueOf(topic, sample, ids) };
  }

  #valueOf(topic: Topic<unknown>, sample: unknown, ids: readonly string[]): Buffer | null {
    const { codec } = this.#stage.house;
    const chance = this.#chance;
    const right = codec.encode(topic, sample);
    const kind = chance.next();
    if (kind < 0.25) return encodedOr(right, () => codec.encode(topic, oddValue(sample, chance, ids)));
    if (kind < 0.75) return mutated(right, chance);
    if (kind < 0.83) {
      const other = Buffer.from(right);
      other.writeUInt32BE(chance.choose([...ODD_IDS, chance.below(40)]) ?? 0, 1);
      return other;
    }
    if (kind < 0.9) return right.subarray(0, chance.below(right.length));
    if (kind < 0.95) return Buffer.concat([right.subarray(0, 5), chance.bytes(chance.below(300))]);
    if (kind < 0.98) return chance.bytes(chance.below(100));
    return kind < 0.99 ? Buffer.alloc(0) : null;
  }
}

/** What does not fit the schema stays right. */
function encodedOr(right: Buffer, encode: () => Buffer): Buffer {
  try {
    return encode();
  } catch {
    return right;
  }
}

function isReadable(codec: Codec, topic: Topic<unknown>, value: Buffer | null): boolean {
  try {
    codec.decode(topic, value);
    return true;
  } catch {
    return false;
  }
}
