/**
 * What sessions tells the world. Pure.
 */
import { encodeBase64Url } from "../../protocol/base64url.ts";
import type { SessionInitialized } from "../../schemas/values.ts";
import { sessionInitialized } from "../../streams/catalogue.ts";
import type { Emit } from "../../streams/consumer.ts";
import type { Initialized } from "./fold.ts";

export function toEvent({ message, initiation }: Initialized): Emit<SessionInitialized> {
  const { record, ownerId: initiatorId, peerId: responderId, sessionId, messageId } = message;
  const { suite, signedPrekeyId, oneTimePrekeyId, kemPrekeyId, at: initializedAt } = initiation;
  const { custody } = record.value;
  return {
    topic: sessionInitialized,
    key: initiatorId,
    cause: record,
    time: initializedAt,
    subject: `${initiatorId}/${encodeBase64Url(sessionId)}`,
    value: (eventId) => ({
      ...{ eventId, sessionId, initiatorId, responderId, suite, signedPrekeyId, oneTimePrekeyId, kemPrekeyId },
      ...{ messageId, custody, initializedAt },
    }),
  };
}
