/** Sends one message, and prints its id when the service has it. */
import { readFile } from "node:fs/promises";
import { buffer } from "node:stream/consumers";
import { decodeUtf8 } from "../../protocol/utf8.ts";
import { chainIn } from "./delegate.ts";
import { type Command, inTime, readWords, secondsOf, WrongWords, withAgent, writeOut } from "./terminal.ts";

const LATE =
  "the service did not answer in time: the message is stored, and leaves with the next command of this agent";

export const send: Command = {
  summary: "send a message",
  usage: `Usage: sealpost send TO TEXT|- [--type TYPE] [--wait SECONDS] [--acknowledged]
       sealpost send TO --file FILE [--type TYPE] …

Sends to the agent with the id TO, and prints the message's id when the service has it. "-" reads stdin.

  --file FILE      the content of a file; text if it is UTF-8, else application/octet-stream
  --type TYPE      the content type
  --delegation FILE  act under the chain of delegation in this file (sealpost delegate)
  --acknowledged   wait until the recipient is done with it
  --wait SECONDS   for how long (20). What was not taken by then is stored, and leaves with the next command`,
  run: async (args, interrupted) => {
    const { values, positionals } = readWords(args, {
      type: { type: "string" },
      file: { type: "string" },
      delegation: { type: "string" },
      wait: { type: "string", default: "20" },
      acknowledged: { type: "boolean", default: false },
    });
    const [to, text, ...rest] = positionals;
    if (to === undefined || (text === undefined) === (values.file === undefined) || rest.length > 0) {
      throw new WrongWords("send takes a recipient and one content: a text in quotes, -, or --file");
    }
    const waitMs = secondsOf("wait", values.wait);
    const body = await bodyOf(text, values.file);
    const delegation = values.delegation === undefined ? undefined : await chainIn(values.delegation);
    return withAgent(values, { signal: interrupted, delegation }, (agent) =>
      inTime(
        waitMs,
        async (late) => {
          const signal = AbortSignal.any([late, interrupted]);
          const sent = await agent.send(to, body, {
            ...(values.type === undefined ? {} : { contentType: values.type }),
            signal,
          });
          if (values.acknowledged) await sent.acknowledged({ signal });
          const state = values.acknowledged ? "acknowledged" : "accepted";
          const json = JSON.stringify({ message_id: sent.messageId, recipient_id: to, state });
          return writeOut(`${values.json ? json : sent.messageId}\n`);
        },
        LATE,
      ),
    );
  },
};

async function bodyOf(text: string | undefined, file: string | undefined): Promise<string | Uint8Array> {
  if (text !== undefined && text !== "-") return text;
  const bytes = text === "-" ? await buffer(process.stdin) : await readFile(file ?? "");
  return decodeUtf8(bytes) ?? bytes;
}
