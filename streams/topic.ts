/**
 * What a topic is: one declaration, from which it is created, checked, encoded and documented.
 */

/** How long records stay. `trimmedAfterMs` topics have no retention in Kafka: a job deletes what every group has passed. */
export type Retention = { readonly keptMs: number } | { readonly trimmedAfterMs: number };

/** As `keptMs`: Kafka deletes nothing. */
export const KEPT_FOR_EVER = -1;

export interface Topic<T> {
  readonly name: string;
  /** What must stay in order, in words. */
  readonly key: string;
  readonly retention: Retention;
  /** Largest record batch the broker takes, bytes. */
  readonly messageBytesMax: number;
  /** Whether consumers put undecodable or refused records of this topic into `<name>.dlq`. */
  readonly deadLetters: boolean;
  /** Whose `.avsc` describes the values; the topic's own name when it is left out (a topic of a test borrows a schema). */
  readonly schema?: string;
  /** Carries the type of the values; never set. */
  readonly valueType?: T;
}

/** The dead-letter topic of a topic: raw bytes, origin and reason in the headers. */
export function deadLetterTopicName(topic: Topic<unknown>): string {
  return `${topic.name}.dlq`;
}
