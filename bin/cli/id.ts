/** The id that others send to. */
import { type Command, readWords, WrongWords, withAgent, writeOut } from "./terminal.ts";

export const id: Command = {
  summary: "print the agent's id, which others send to",
  usage: "Usage: sealpost id [--store FILE] [--json]\n\nWorks without the service.",
  run: async (args, signal) => {
    const { values, positionals } = readWords(args, {});
    if (positionals.length > 0) throw new WrongWords("id takes no words of its own");
    return withAgent(values, { signal }, (agent) =>
      writeOut(
        values.json
          ? `${JSON.stringify({ agent_id: agent.id, custody: agent.custody, key_id: agent.keyId })}\n`
          : `${agent.id}\n`,
      ),
    );
  },
};
