/**
 * One producer id at the broker, for as long as nothing went wrong with it: one kafkajs producer, one send at a time.
 *
 * Promise: when `send` resolves, every record is on every replica. When it rejects, each was written or was not, and the session is used
 * up: its sequence numbers cannot be trusted any more.
 */
import type { ICustomPartitioner, Message, Producer, RecordMetadata } from "kafkajs";
import { Unavailable } from "../protocol/refusal.ts";
import type { KafkaDoor } from "./kafka.ts";

export interface Placed {
  readonly topic: string;
  readonly partition: number;
  readonly message: Message;
}

export interface ProducerSession {
  /** Records in order for each partition. One call at a time. Rejects with `Unavailable("kafka")`. */
  send(batch: readonly Placed[]): Promise<void>;
  /** Never throws. */
  close(): Promise<void>;
}

/** What kafkajs does on its own within one send: about 2 s of refused connections, 30 s of a broker that takes and never answers. */
const retry = { initialRetryTime: 50, maxRetryTime: 1_000, retries: 5 };

/** Every message names its partition, so that no retry moves it. */
export const createPartitioner: ICustomPartitioner =
  () =>
  ({ message }) =>
    message.partition as number;

/** Connects. Rejects with `Unavailable("kafka")`. */
export async function openProducerSession(kafka: KafkaDoor): Promise<ProducerSession> {
  const producer = kafka.client.producer({
    idempotent: true,
    maxInFlightRequests: 1,
    allowAutoTopicCreation: false,
    createPartitioner,
    retry,
  });
  try {
    await producer.connect();
  } catch (error) {
    await disconnect(producer);
    throw new Unavailable("kafka", error);
  }
  /** The newest offset of each partition that was acknowledged to this producer id. */
  const acknowledged = new Map<string, number>();

  return {
    send: (batch) => sendAcknowledged(producer, batch, acknowledged),
    close: () => disconnect(producer),
  };
}

/**
 * One request. Resolves when each partition that was sent to was named in the answer, behind what was `acknowledged` before by the same producer id;
 * rejects with `Unavailable("kafka")`.
 */
export async function sendAcknowledged(
  sender: Pick<Producer, "sendBatch">,
  batch: readonly Placed[],
  acknowledged: Map<string, number>,
): Promise<void> {
  const byPartition = Map.groupBy(batch, partitionName);
  const byTopic = Map.groupBy(batch, ({ topic }) => topic);
  let answers: RecordMetadata[];
  try {
    answers = await sender.sendBatch({
      acks: -1,
      topicMessages: Array.from(byTopic, ([topic, records]) => ({
        topic,
        messages: records.map(({ message }) => message),
      })),
    });
  } catch (error) {
    throw new Unavailable("kafka", error);
  }
  const offsets = new Map(answers.map((answer) => [partitionName(nameOf(answer)), Number(answer.baseOffset)]));
  for (const [name, records] of byPartition) {
    const first = offsets.get(name);
    // kafkajs forgets a partition that moves to another broker in the middle of a retry, and takes the answer to an older
    // request for this one's: neither is an acknowledgement.
    if (first === undefined || first <= (acknowledged.get(name) ?? -1)) throw new Unavailable("kafka");
    acknowledged.set(name, first + records.length - 1);
  }
}

function partitionName({ topic, partition }: { readonly topic: string; readonly partition: number }): string {
  return `${topic} ${partition}`;
}

function nameOf(answer: RecordMetadata): { readonly topic: string; readonly partition: number } {
  return { topic: answer.topicName, partition: answer.partition };
}

/** Never throws. */
export async function disconnect(producer: Producer): Promise<void> {
  try {
    await producer.disconnect();
  } catch {
    // It is given up either way.
  }
}
