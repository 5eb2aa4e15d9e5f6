/** What became of a message that this agent has sent. */
import { ServiceUnavailable } from "../../sdk/errors.ts";
import { type Command, inTime, NotSo, readWords, WrongWords, withAgent, writeFacts } from "./terminal.ts";

const ASK_MS_MAX = 10_000;

export const status: Command = {
  summary: "say what became of a sent message",
  usage: `Usage: sealpost status MESSAGE_ID [--store FILE] [--json]

Asks the service, and says what this agent knows: pending (not with the service yet), accepted, delivered,
acknowledged, discarded or rejected (with a code). Ends with 1 when the message is none of this agent's.`,
  run: async (args, interrupted) => {
    const { values, positionals } = readWords(args, {});
    const [messageId, ...rest] = positionals;
    if (messageId === undefined || rest.length > 0) throw new WrongWords("status takes the id of one message");
    return withAgent(values, { signal: interrupted }, async (agent) => {
      if (agent.status(messageId) === null) {
        throw new NotSo("no such message: only the store that sent it knows it, for 40 days after its end");
      }
      // What is known is told all the same.
      await inTime(ASK_MS_MAX, () => agent.refresh(), "").catch((error) => {
        if (!(error instanceof ServiceUnavailable)) throw error;
      });
      const found = agent.status(messageId);
      if (found === null) throw new Error("a message was forgotten while it was asked for");
      const { recipientId, state, code, createdAt, changedAt } = found;
      return writeFacts(values.json, {
        ...{ message_id: messageId, recipient_id: recipientId, state, code },
        ...{ sent_at: new Date(createdAt).toISOString(), changed_at: new Date(changedAt).toISOString() },
      });
    });
  },
};
