/**
 * From what a fetch brought to records a step can use: decoded, checked, weighed. Pure.
 */
import { Refusal } from "../protocol/refusal.ts";
import type { Codec } from "./codec.ts";
import type { Inbound, StepConsumer } from "./consumer.ts";
import type { Received } from "./emission.ts";
import { headersAsText } from "./headers.ts";
import type { KafkaMessage } from "./kafka.ts";
import type { Topic } from "./topic.ts";

/**
 * A record that cannot be decoded or that the consumer's `check` refuses carries its code and nothing else: it becomes a dead letter at
 * once, for no retry would change it. Throws (a bug) whatever else `check` throws. The schemas must have been learned.
 */
export function receive<In>(
  consumer: Pick<StepConsumer<In, never>, "check" | "itemsOf">,
  codec: Codec,
  topic: Topic<In>,
  partition: number,
  message: KafkaMessage,
): Received<In> {
  const offset = Number(message.offset);
  const bytes = (message.key?.length ?? 0) + (message.value?.length ?? 0);
  const received = { topic, partition, offset, message, bytes };
  try {
    const inbound: Inbound<In> = {
      topic,
      partition,
      offset,
      key: message.key?.toString("utf8") ?? "",
      value: codec.decode(topic, message.value),
      headers: headersAsText(message.headers),
      timestamp: Number(message.timestamp),
    };
    consumer.check?.(inbound);
    return { ...received, items: consumer.itemsOf?.(inbound) ?? 1, outcome: { inbound } };
  } catch (error) {
    if (error instanceof Refusal) return { ...received, items: 1, outcome: { code: error.code } };
    throw error;
  }
}
