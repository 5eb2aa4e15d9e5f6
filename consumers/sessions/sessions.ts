/**
 * Keeps what the log shows of every session: which keys and counters each side sent last, and who began it with which prekeys.
 *
 * Reads   message.encrypted.v1, keyed by recipient: in order per recipient, at least once. Of either custody; messages only.
 * Writes  session.initialized.v1: once per session and ce_id, for the first message that carried its initiation.
 * Keeps   `messaging_session_facts`: what an agent sent to a peer in a session. A repeat and an older message move nothing.
 * Refuses nothing: what is no message is passed over, for queuing makes the dead letter (docs/decisions/0016-session-facts.md).
 */
import type { MessageEncrypted } from "../../schemas/values.ts";
import type { Tx } from "../../store/tx.ts";
import { messageEncrypted } from "../../streams/catalogue.ts";
import type { StepConsumer } from "../../streams/consumer.ts";
import { toEvent } from "./events.ts";
import { foldMessages, sessionsOf } from "./fold.ts";
import { toMessages } from "./messages.ts";

export const sessions: StepConsumer<MessageEncrypted, Tx> = {
  name: "sessions",
  reads: [messageEncrypted],
  // Nobody waits for it: an SDK asks when it connects, for what was sent before.
  pace: { bytesMin: 256 * 1024, waitMsMax: 500 },
  deadLettersOf: [],
  step: async (batch, tx) => {
    const messages = toMessages(batch);
    const { changed, initialized } = foldMessages(await tx.sessions.find(sessionsOf(messages)), messages);
    await tx.sessions.write(changed);
    return initialized.map(toEvent);
  },
};
