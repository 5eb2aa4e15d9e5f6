/** Whom this agent lets in. */
import type { Policy } from "../../sdk/policies.ts";
import { type Command, readWords, WrongWords, withAgent, writeFacts } from "./terminal.ts";

const POLICIES: readonly Policy[] = ["open", "contacts", "allow-list"];

export const policy: Command = {
  summary: "say, or see, whom this agent lets in",
  usage: `Usage: sealpost policy [open | contacts | allow-list] [--allow ID] [--disallow ID] [--block ID] [--unblock ID] [--json]

Without words it says how it is. open: everybody may message this agent; contacts: its contacts (sealpost contacts) and its allow list;
allow-list: its allow list alone. Nobody on its block list ever may. Holds for new messages within five seconds.

  --allow ID       put an agent on the allow list
  --disallow ID    take it off
  --block ID       put an agent on the block list
  --unblock ID     take it off`,
  run: async (args, interrupted) => {
    const { values, positionals } = readWords(args, {
      allow: { type: "string" },
      disallow: { type: "string" },
      block: { type: "string" },
      unblock: { type: "string" },
    });
    const [word, ...rest] = positionals;
    const wanted = POLICIES.find((known) => known === word);
    if (rest.length > 0 || (word !== undefined && wanted === undefined)) {
      throw new WrongWords("policy takes one of open, contacts and allow-list");
    }
    return withAgent(values, { signal: interrupted }, async ({ policies }) => {
      const { allow, disallow, block, unblock } = values;
      if (allow !== undefined) await policies.allow(allow);
      if (disallow !== undefined) await policies.disallow(disallow);
      if (block !== undefined) await policies.block(block);
      if (unblock !== undefined) await policies.unblock(unblock);
      return writeFacts(values.json, { ...(await (wanted === undefined ? policies.get() : policies.set(wanted))) });
    });
  },
};
